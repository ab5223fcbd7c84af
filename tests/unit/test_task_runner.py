"""The runner: real programs and callables, how they end, and what is left of them."""

from __future__ import annotations

import inspect
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ips_core import task_runner
from ips_core.task_runner import Runner

Record = dict[str, Any]
WaitUntil = Callable[..., Any]
NAP = "sleep 60"


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setattr(task_runner, "_TERMINATION_GRACE", 0.2)
    return Runner("c-0")


@pytest.fixture
def run(runner: Runner, tmp_path: Path) -> Callable[..., Record]:
    """``run(script, **changes)``: the record of a shell script run in ``tmp_path``."""

    def run(script: str, **changes: Any) -> Record:
        return runner.run(shell(script, tmp_path) | changes, lambda begun: None)

    return run


def shell(script: str, cwd: Path) -> Record:
    return {
        "pool": "pool",
        "name": "t1",
        "argv": ["/bin/sh", "-c", script],
        "cwd": str(cwd),
        "logfile": None,
        "errfile": None,
        "timeout": None,
        "env": {},
    }


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Record:
    return {"pool": "pool", "name": "t1", "function": function, "args": args, "kwargs": kwargs}


def outcome(record: Record) -> tuple[str, int, str]:
    return record["status"], record["exit_status"], record["error"]


# How a program ends.


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 0", ("finished", 0, "")),
        ("exit 3", ("failed", 3, "exit code 3")),
        ("kill -9 $$", ("failed", -9, "ended by signal 9")),
        ("kill -TERM $$", ("failed", -15, "ended by signal 15")),
    ],
)
def test_end_of_a_program(run: Any, script: str, expected: tuple[str, int, str]) -> None:
    assert outcome(run(script)) == expected


def test_whole_record_and_its_first_part(runner: Runner, tmp_path: Path) -> None:
    begun: list[Record] = []
    before = time.time()
    record = runner.run(shell("sleep 0.05", tmp_path), begun.append)
    assert before <= record["start_time"] <= time.time()
    assert 0.05 <= record["elapsed_time"] <= time.time() - before
    first = {
        "pool": "pool",
        "name": "t1",
        "host": socket.gethostname(),
        "worker": "c-0",
        "start_time": record["start_time"],
    }
    assert begun == [first]
    assert record == {
        **first,
        "elapsed_time": record["elapsed_time"],
        "status": "finished",
        "exit_status": 0,
        "value": None,
        "error": "",
        "traceback": "",
    }


def test_host_is_slurms_name_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPS_DASK_NODE", "nid001234")
    assert Runner("c-0").host == "nid001234"


def test_words_of_a_program_are_never_split(run: Any, tmp_path: Path) -> None:
    words = ["a b", "it's", "$HOME", ""]
    run("", argv=["/bin/sh", "-c", 'printf "%s|" "$@"', "sh", *words], logfile="log")
    assert (tmp_path / "log").read_text() == "a b|it's|$HOME||"


def test_environment_is_added_to_the_workers(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_WORKER", "worker")
    monkeypatch.setenv("OF_BOTH", "worker")
    run("echo $OF_WORKER $OF_BOTH $OWN", env={"OWN": "task", "OF_BOTH": "task"}, logfile="log")
    assert (tmp_path / "log").read_text() == "worker task task\n"
    assert os.environ["OF_BOTH"] == "worker"


def test_program_runs_in_its_directory_with_no_input_in_a_session_of_its_own(
    run: Any, tmp_path: Path
) -> None:
    run("pwd; readlink /proc/self/fd/0; echo $$; cut -d' ' -f6 /proc/$$/stat", logfile="log")
    directory, stdin, pid, session = (tmp_path / "log").read_text().split()
    assert (directory, stdin, session) == (str(tmp_path), os.devnull, pid)


# Where its output goes.


def test_log_takes_output_and_errors(run: Any, tmp_path: Path) -> None:
    run("echo out; echo err >&2", logfile="deep/er/t1.log")
    assert (tmp_path / "deep/er/t1.log").read_text() == "out\nerr\n"


def test_errors_have_a_file_of_their_own_if_named(run: Any, tmp_path: Path) -> None:
    log, errors = tmp_path / "elsewhere" / "t1.log", tmp_path / "logs" / "t1.err"
    run("echo out; echo err >&2", cwd="/", logfile=str(log), errfile=str(errors))
    assert (log.read_text(), errors.read_text()) == ("out\n", "err\n")


def test_log_is_begun_afresh(run: Any, tmp_path: Path) -> None:
    for word in ("first", "second"):
        run(f"echo {word}", logfile="log")
    assert (tmp_path / "log").read_text() == "second\n"


def test_output_without_a_log_is_the_workers(run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    run("echo out; echo err >&2")
    assert capfd.readouterr() == ("out\nerr\n", "")


# What cannot be started.


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"argv": ["/no/solve"]}, 127, "[Errno 2] No such file or directory: '/no/solve'"),
        ({"cwd": "/no/dir"}, 127, "[Errno 2] No such file or directory: '/no/dir'"),
        ({"argv": ["/"]}, 126, "[Errno 13] Permission denied: '/'"),
        ({"logfile": "/dev/null/log"}, 126, "[Errno 17] File exists: '/dev/null'"),
        ({"argv": ["/bin/sh", "nul \0 byte"]}, 126, "embedded null byte"),
        ({"env": {"A=B": "x"}}, 126, "illegal environment variable name"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_program_that_cannot_start_is_a_record(
    run: Any, changes: dict[str, Any], status: int, error: str
) -> None:
    record = run("", **changes)
    assert outcome(record) == ("failed", status, error)
    assert record["elapsed_time"] >= 0


# What runs too long, or is cancelled.


def alive(pid_file: Path) -> bool:
    """Tell whether the process with the number in a file runs; zombies do not."""
    try:
        stat = Path("/proc", pid_file.read_text().strip(), "stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


FAMILY = f"""
trap '' TERM
(trap '' TERM; sh -c 'echo $$ > grandchild.pid; exec {NAP}') &
echo $$ > child.pid
{NAP} & wait
{NAP}
"""


def test_program_that_takes_too_long_loses_all_it_started(
    run: Any, tmp_path: Path, wait_until: WaitUntil
) -> None:
    record = run(FAMILY, timeout=1)
    assert outcome(record) == ("timed-out", -1, "timed out after 1 s")
    assert 1 <= record["elapsed_time"] < 10
    pids = [tmp_path / "child.pid", tmp_path / "grandchild.pid"]
    assert all(path.exists() for path in pids)
    wait_until(lambda: not any(map(alive, pids)), 5, "the end of the process group")


class Background:
    """Tasks in threads, as those of a worker."""

    def __init__(self, runner: Runner, folder: Path) -> None:
        self.runner = runner
        self.folder = folder
        self.records: dict[str, Record] = {}
        self._threads: list[threading.Thread] = []

    def start(self, name: str, script: str, pool: str = "pool") -> None:
        task = shell(script, self.folder) | {"name": name, "pool": pool}

        def work() -> None:
            self.records[name] = self.runner.run(task, lambda begun: None)

        self._threads.append(threading.Thread(target=work))
        self._threads[-1].start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture
def background(runner: Runner, tmp_path: Path) -> Iterator[Background]:
    background = Background(runner, tmp_path)
    yield background
    runner.cancel()
    background.join()


def test_cancelled_program_loses_all_it_started(
    background: Background, tmp_path: Path, wait_until: WaitUntil
) -> None:
    """Also what ignores TERM and outlives the program itself."""
    polite = f"(trap '' TERM; echo $$ > early; exec {NAP}) & echo $! > polite.pid; exec {NAP}"
    background.start("stubborn", FAMILY)
    background.start("polite", polite)
    pids = [tmp_path / f"{name}.pid" for name in ("child", "grandchild", "polite")]
    wait_until(lambda: all(map(alive, pids)), 10, "three processes")
    wait_until((tmp_path / "early").exists, 10, "the trap")
    background.runner.cancel()
    background.join()
    assert outcome(background.records["stubborn"]) == ("cancelled", -9, "cancelled")
    assert outcome(background.records["polite"]) == ("cancelled", -15, "cancelled")
    wait_until(lambda: not any(map(alive, pids)), 5, "the end of both process groups")


def test_program_may_tidy_up_when_it_is_cancelled(
    background: Background, tmp_path: Path, wait_until: WaitUntil
) -> None:
    background.start("t1", f"trap 'echo tidy > tidy; exit 5' TERM; touch up; {NAP} & wait")
    wait_until((tmp_path / "up").exists, 10, "the trap")
    background.runner.cancel("pool")
    background.join()
    assert outcome(background.records["t1"]) == ("cancelled", 5, "cancelled")
    assert (tmp_path / "tidy").read_text() == "tidy\n"


def test_pools_are_cancelled_one_by_one(
    background: Background, tmp_path: Path, wait_until: WaitUntil
) -> None:
    for pool in ("a", "b"):
        background.start(pool, f"touch {pool}; exec {NAP}", pool=pool)
        wait_until((tmp_path / pool).exists, 10, f"the task of {pool}")
    background.runner.cancel("a")
    wait_until(lambda: "a" in background.records, 5, "the end of a")
    assert "b" not in background.records
    background.start("later", "exit 0", pool="a")
    wait_until(lambda: "later" in background.records, 5, "the end of the later task")
    background.runner.cancel()
    background.join()
    assert [background.records[name]["status"] for name in ("a", "later", "b")] == [
        *("cancelled", "cancelled", "cancelled"),
    ]


def test_cancelling_nothing_is_no_error(runner: Runner) -> None:
    runner.cancel()
    runner.cancel("pool")


# Callables.


def test_value_of_a_callable_is_itself(runner: Runner) -> None:
    value = object()
    record = runner.run(call(lambda given, key: (given, key), value, key=2.5), lambda begun: None)
    assert outcome(record) == ("finished", 0, "")
    assert record["value"][0] is value
    assert (record["value"][1], record["traceback"]) == (2.5, "")


class Odd(BaseException):
    """Not even an Exception."""


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("why"), "ValueError: why"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt: "),
        (
            FileNotFoundError(2, "No such file", "x"),
            "FileNotFoundError: [Errno 2] No such file: 'x'",
        ),
        (Odd("x"), "Odd: x"),
    ],
)
def test_callable_that_raises_is_a_record(runner: Runner, error: BaseException, text: str) -> None:
    def fail_here() -> None:
        raise error

    record = runner.run(call(fail_here), lambda begun: None)
    assert outcome(record) == ("failed", 1, text)
    assert record["value"] is None
    assert record["traceback"].startswith("Traceback (most recent call last):\n")
    assert "in fail_here\n    raise error\n" in record["traceback"]


def test_callable_that_cannot_even_say_why_it_failed_is_a_record(runner: Runner) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no")

    def fail() -> None:
        raise Mute

    record = runner.run(call(fail), lambda begun: None)
    assert (record["status"], record["exit_status"]) == ("failed", 1)
    assert "Mute" in record["error"]


def test_prints_of_a_callable_are_flushed(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream:
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    stream = Stream()
    monkeypatch.setattr("sys.stdout", stream)
    runner.run(call(lambda: None), lambda begun: None)
    assert stream.flushed == 1


# On workers without our packages.


def test_file_of_the_runner_needs_nothing_of_ours(run_without_us: Any) -> None:
    code = """
import runpy
before = set(sys.modules)
runner = runpy.run_path(sys.argv[1])["Runner"]("c-0")
task = {"pool": "p", "name": "t", "argv": ["/bin/sh", "-c", "exit 3"], "cwd": "/", "env": {}}
task |= dict.fromkeys(("logfile", "errfile", "timeout"))
print(runner.run(task, lambda begun: None)["exit_status"])
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(loaded - sys.stdlib_module_names))
"""
    assert run_without_us(code, inspect.getsourcefile(task_runner)) == "3\n[]\n"
