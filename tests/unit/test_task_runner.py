"""The runner: real programs and callables, how they end, and what is left of them."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ips_core.tasks import runner as task_runner
from ips_core.tasks.output import Lines, Sink
from ips_core.tasks.process import Pipes, open_process_descriptor
from ips_core.tasks.runner import Runner
from ips_core.tasks.std_streams import CannotStart, StdStreams

Record = dict[str, Any]
WaitUntil = Callable[..., Any]
NAP = "sleep 60"


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setattr(task_runner, "_CANCEL_GRACE", 0.2)
    return Runner("c-0")


@pytest.fixture
def run(runner: Runner, tmp_path: Path) -> Callable[..., Record]:
    """``run(script, **changes)``: the record of a shell script run in ``tmp_path``."""

    def run(script: str, **changes: Any) -> Record:
        return runner.run(shell(script, tmp_path) | changes, nothing)

    return run


def shell(script: str, cwd: Path) -> Record:
    return {
        "pool": "pool",
        "name": "t1",
        "argv": ["/bin/sh", "-c", script],
        "cwd": str(cwd),
    }


def call(function: Callable[..., Any], *args: Any, **changes: Any) -> Record:
    task = {"pool": "pool", "name": "t1", "function": function, "args": args, "kwargs": {}}
    return task | changes


def nothing(begun: Record) -> None:
    """What is told of a start is of no interest."""


def outcome(record: Record) -> tuple[str, int, str]:
    return record["status"], record["exit_status"], record["error"]


class Background:
    """Tasks in threads, as those of a worker."""

    def __init__(self, runner: Runner, folder: Path) -> None:
        self.runner = runner
        self.folder = folder
        self.records: dict[str, Record] = {}
        self._threads: list[threading.Thread] = []

    def start(self, name: str, script: str, **changes: Any) -> None:
        task = shell(script, self.folder) | {"name": name} | changes

        def work() -> None:
            self.records[name] = self.runner.run(task, nothing)

        self._threads.append(threading.Thread(target=work))
        self._threads[-1].start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture
def background_of(tmp_path: Path) -> Iterator[Callable[[Runner], Background]]:
    """``background_of(runner)``: its tasks run in threads until the test ends."""
    with contextlib.ExitStack() as stack:

        def make(runner: Runner) -> Background:
            background = Background(runner, tmp_path)
            stack.callback(background.join)
            stack.callback(runner.cancel)
            return background

        yield make


@pytest.fixture
def background(background_of: Any, runner: Runner) -> Background:
    return background_of(runner)


# How a program ends.


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 0", ("finished", 0, "")),
        ("exit 3", ("failed", 3, "exit code 3")),
        ("kill -9 $$", ("failed", -9, "ended by signal 9")),
        ("kill -TERM $$", ("failed", -15, "ended by signal 15")),
        ("kill -BUS $$", ("failed", -7, "crashed (SIGBUS) in compiled code")),
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
        "output": "",
        "slots": 1,
    }


def test_record_tells_the_work_and_the_slots_it_was_given(run: Any) -> None:
    record = run("exit 0", work="digest", slots=3)
    assert (record["work"], record["slots"]) == ("digest", 3)


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
    for word in ("the first", "second"):
        run(f"echo {word}", logfile="log")
    assert (tmp_path / "log").read_text() == "second\n"


def test_output_without_a_log_is_the_workers(run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    run("echo out; echo err >&2; printf 'no end'")
    assert capfd.readouterr() == ("out\nerr\nno end", "")


def test_same_file_for_output_and_errors_has_both(run: Any, tmp_path: Path) -> None:
    run("echo out; echo err >&2", logfile="log", errfile="log")
    assert (tmp_path / "log").read_text() == "out\nerr\n"


def test_errors_alone_in_a_file(
    run: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run("echo out; echo err >&2", errfile="err")
    assert (capfd.readouterr().out, (tmp_path / "err").read_text()) == ("out\n", "err\n")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "out\nerr\n"),
        ({"logfile": "log"}, "out\nerr\n"),
        ({"logfile": "log", "errfile": "err"}, "out\nerr\n"),
        ({"errfile": "err"}, "out\nerr\n"),
    ],
    ids=["pipe", "log", "both", "errors"],
)
def test_end_of_the_output_of_what_fails(run: Any, files: Record, expected: str) -> None:
    script = "seq 5000; printf 'odd \\377\\n'; echo out; echo err >&2; exit 3"
    output = run(script, **files)["output"]
    start, odd, end = output.partition("odd \N{REPLACEMENT CHARACTER}\n")
    assert (len(output.encode("utf-8", "replace")) <= 4096 + 2, odd != "", end) == (
        *(True, True, expected),
    )
    assert start.endswith("4999\n5000\n")


def test_what_finishes_keeps_no_output(run: Any) -> None:
    assert run("echo out")["output"] == ""


def test_end_of_a_log_that_was_renamed(run: Any) -> None:
    assert run("echo out; mv log old; exit 1", logfile="log")["output"] == "out\n"


def test_what_a_grandchild_keeps_open_is_not_waited_for(
    run: Any, tmp_path: Path, background: Background, wait_until: WaitUntil
) -> None:
    record = run(f"{NAP} & echo $! > nap.pid; echo out; exit 3")
    nap = int((tmp_path / "nap.pid").read_text())
    os.kill(nap, signal.SIGKILL)
    assert record["elapsed_time"] < 30
    assert (record["status"], record["output"]) == ("failed", "out\n")


def test_all_that_was_written_before_the_end_is_read(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the program has long ended when it is."""
    monkeypatch.setattr("ips_core.tasks.process._CHUNK", 10)
    monkeypatch.setattr("ips_core.tasks.process._MOST_LEFT", 1000)
    assert run(f"printf {'x' * 4000}; exit 3")["output"] == "x" * 4000


def test_what_a_grandchild_goes_on_writing_is_not_waited_for(run: Any) -> None:
    record = run("yes & sleep 0.3; exit 3")
    assert (record["status"], "\ny\n" in record["output"]) == ("failed", True)
    assert record["elapsed_time"] < 30


def test_line_without_an_end_is_seen_while_its_program_runs(
    background: Background, tmp_path: Path, capfd: Any, wait_until: WaitUntil
) -> None:
    seen = ""

    def see() -> bool:
        nonlocal seen
        seen += capfd.readouterr().out
        return seen == "waiting"

    background.start("t1", f"printf waiting; {NAP}")
    wait_until(see, 20, "the line")


# What comes in.


def test_input_from_a_file_below_the_directory(run: Any, tmp_path: Path) -> None:
    (tmp_path / "input").write_text("from a file\n")
    run("cat", stdin="input", logfile="log")
    assert (tmp_path / "log").read_text() == "from a file\n"


def test_input_of_any_size(run: Any, tmp_path: Path) -> None:
    """More than a pipe holds, on both ways at once."""
    data = bytes(range(256)) * 4000
    run("cat", stdin=data, logfile="log")
    assert (tmp_path / "log").read_bytes() == data


def test_input_that_nobody_wants(run: Any) -> None:
    assert outcome(run("exit 0", stdin=b"x" * 1_000_000)) == ("finished", 0, "")


# What cannot be started.

HOST = socket.gethostname()


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"argv": ["/no/solve"]}, 127, f"program /no/solve not found on {HOST}"),
        ({"argv": ["no-solve"]}, 127, f"program no-solve not found on {HOST}"),
        ({"cwd": "/no/dir"}, 127, f"working directory /no/dir not found on {HOST}"),
        (
            {"cwd": "/no/dir", "logfile": "logs/log"},
            *(127, f"working directory /no/dir not found on {HOST}"),
        ),
        (
            {"cwd": "/no/dir", "stdin": "input"},
            *(127, f"working directory /no/dir not found on {HOST}"),
        ),
        ({"cwd": "/dev/null"}, 127, f"working directory /dev/null not found on {HOST}"),
        ({"argv": ["/"]}, 126, f"program / cannot be started on {HOST}: Permission denied"),
        (
            {"logfile": "/dev/null/log"},
            *(126, f"log file /dev/null/log cannot be opened on {HOST}: Not a directory"),
        ),
        (
            {"stdin": "/no/input"},
            *(127, f"input file /no/input cannot be opened on {HOST}: No such file or directory"),
        ),
        (
            {"argv": ["/bin/sh", "nul \0 byte"]},
            *(126, f"program '/bin/sh' cannot be started on {HOST}: embedded null byte"),
        ),
        (
            {"env": {"A=B": "x"}},
            126,
            f"program '/bin/sh' cannot be started on {HOST}: illegal environment variable name",
        ),
        ({"argv": [3]}, 126, "TypeError: "),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_program_that_cannot_start_is_a_record(
    run: Any, changes: dict[str, Any], status: int, error: str
) -> None:
    record = run("", **changes)
    assert outcome(record)[:2] == ("failed", status)
    assert record["error"].startswith(error)
    assert record["error"] == error or error.endswith(": ")
    assert record["elapsed_time"] >= 0


def test_directory_that_cannot_be_entered_is_not_the_programs_fault() -> None:
    """By words only: a superuser enters all of them."""
    pipes = Pipes()
    with contextlib.closing(pipes):
        files = StdStreams({"cwd": "/tmp"}, pipes, Lines(Sink(-1)), "host")
        why = files.why_not("solve", PermissionError(errno.EACCES, "Permission denied", "/tmp"))
    expected = "working directory /tmp cannot be entered on host: Permission denied"
    assert (str(why), why.exit_status) == (expected, 126)


def test_refusal_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(CannotStart("no such thing", 127)))
    assert (str(copy), copy.exit_status) == ("no such thing", 127)


def test_script_whose_interpreter_is_missing(run: Any, program: Any, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/interpreter\n")
    script.chmod(0o755)
    expected = f"program {script} cannot be started on {HOST}: no such interpreter"
    assert outcome(run("", argv=[str(script)])) == ("failed", 126, expected)


def test_no_descriptors_left_is_a_record(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("os.pipe", full)
    record = run("exit 0")
    assert outcome(record) == ("failed", 126, "OSError: [Errno 24] Too many open files")


@pytest.mark.parametrize("trouble", [MemoryError, RecursionError, KeyboardInterrupt])
def test_trouble_anywhere_is_a_record(run: Any, runner: Runner, trouble: Any) -> None:
    def fail(begun: Record) -> None:
        raise trouble("odd")

    record = runner.run({"pool": "pool", "name": "t1", "argv": ["true"]}, fail)
    assert outcome(record) == ("failed", 126, f"{trouble.__name__}: odd")
    assert runner.cancel() == []


def test_trouble_while_a_program_runs_ends_it(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: WaitUntil
) -> None:
    def fail(lines: Lines, data: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr(Lines, "take", fail)
    record = run(f"echo $$ > pid; echo out; exec {NAP}")
    assert outcome(record) == ("failed", 126, "MemoryError: ")
    wait_until(lambda: not alive(tmp_path / "pid"), 5, "the end of the program")


def test_no_descriptor_is_left(run: Any) -> None:
    run("exit 0")
    before = os.listdir("/proc/self/fd")
    run("exit 0")
    run("exit 3", logfile="log", errfile="err", stdin=b"x")
    run("", argv=["/no/solve"], stdin=b"x")
    run("sleep 5", timeout=0.1)
    assert os.listdir("/proc/self/fd") == before


def test_kernel_without_descriptors_of_processes(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ips_core.tasks.process.open_process_descriptor", lambda pid: None)
    assert outcome(run("sleep 0.2; exit 3")) == ("failed", 3, "exit code 3")
    assert outcome(run(FAMILY, timeout=1)) == ("timed_out", -1, "timed out after 1 s")
    assert outcome(run("cat >&2; exit 0", stdin=b"x" * 100_000, errfile="log"))[1] == 0
    assert (tmp_path / "log").stat().st_size == 100_000


@pytest.mark.parametrize("pythons", [True, False])
def test_descriptor_of_a_process_with_pythons_help_and_without(
    run: Any, monkeypatch: pytest.MonkeyPatch, pythons: bool
) -> None:
    if pythons:
        monkeypatch.setattr("ctypes.CDLL", pytest.fail)
    else:
        monkeypatch.delattr("os.pidfd_open")
    descriptor = open_process_descriptor(os.getpid())
    assert descriptor is not None
    assert "pidfd" in os.readlink(f"/proc/self/fd/{descriptor}")
    os.close(descriptor)
    assert outcome(run("exit 3")) == ("failed", 3, "exit code 3")


# What is told to its environment.


@pytest.mark.parametrize(
    ("workers", "changes", "expected"),
    [
        (None, {}, "4"),
        (None, {"slots": 2}, "8"),
        ("3", {}, "3"),
        ("3", {"slots": 2}, "8"),
        ("3", {"slots": 2, "env": {"OMP_NUM_THREADS": "1"}}, "1"),
    ],
)
def test_threads_of_a_program(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: str | None,
    changes: Record,
    expected: str,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if workers is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", workers)
    task = shell("echo $OMP_NUM_THREADS", tmp_path) | {"logfile": "log"} | changes
    Runner("c-0", threads=4, cores=range(16)).run(task, nothing)
    assert (tmp_path / "log").read_text() == f"{expected}\n"


DEVICES = "echo $CUDA_VISIBLE_DEVICES $ROCR_VISIBLE_DEVICES $ZE_AFFINITY_MASK"


@pytest.mark.parametrize(("amd", "expected"), [(False, "4,7 4,7 4,7\n"), (True, "4,7\n")])
def test_devices_of_a_program(
    amd: bool, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_runner, "_AMD_DRIVER", "/dev/null" if amd else "/no/kfd")
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
        monkeypatch.delenv(name, raising=False)
    if amd:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    runner = Runner("c-0", gpus=("4", "7", "10"))
    runner.run(shell(DEVICES, tmp_path) | {"logfile": "log", "gpus": 2}, nothing)
    assert (tmp_path / "log").read_text() == expected


def test_devices_are_one_tasks_at_a_time(
    tmp_path: Path, background_of: Any, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_runner, "_AMD_DRIVER", "/no/kfd")
    background = background_of(Runner("c-0", gpus=("0", "1")))
    background.start("first", f"{DEVICES} > first; exec {NAP}", gpus=1)
    wait_until((tmp_path / "first").exists, 10, "the first task")
    background.start("both", "exit 0", gpus=2)
    background.start("second", f"{DEVICES} > second", gpus=1)
    wait_until(lambda: len(background.records) == 2, 20, "two tasks")
    assert outcome(background.records["both"]) == (
        *("failed", 126, "2 GPUs wanted, but 1 of the worker's 2 are free"),
    )
    assert (tmp_path / "second").read_text() == "1 1 1\n"
    background.runner.cancel("pool")
    background.join()
    task = shell("exit 0", tmp_path) | {"pool": "next", "gpus": 2}
    record = background.runner.run(task, nothing)
    assert outcome(record) == ("finished", 0, "")


def test_devices_are_not_for_a_callable_in_a_thread(run: Any) -> None:
    record = Runner("c-0", gpus=("0",)).run(call(print, gpus=1), nothing)
    expected = "GPUs are for a process of its own: add the task with isolate=True"
    assert outcome(record) == ("failed", 1, expected)


CORES = sorted(os.sched_getaffinity(0))


@pytest.mark.skipif(len(CORES) < 2, reason="one processor")
def test_processors_of_its_own(tmp_path: Path, background_of: Any, wait_until: WaitUntil) -> None:
    background = background_of(Runner("c-0", threads=2, cores=CORES[:2]))
    allowed = "grep Cpus_allowed_list /proc/self/status"
    for name in ("first", "second"):
        background.start(name, f"{allowed} > {name}; touch {name}.up; exec {NAP}", pin=True)
        wait_until((tmp_path / f"{name}.up").exists, 10, f"the {name} task")
    lists = [(tmp_path / name).read_text().split()[1] for name in ("first", "second")]
    assert lists == [str(core) for core in CORES[:2]]
    third = background.runner.run(shell("exit 0", tmp_path) | {"pin": True}, nothing)
    assert third["error"] == "1 cores wanted, but 0 of the worker's 2 are free"
    background.runner.cancel()
    background.join()
    got = Runner("c-0", 2, CORES[:2]).run(call(os.sched_getaffinity, 0, pin=True), nothing)
    assert got["value"] == {CORES[0]}
    assert os.sched_getaffinity(0) == set(CORES)


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
    assert outcome(record) == ("timed_out", -1, "timed out after 1 s")
    assert 1 <= record["elapsed_time"] < 10
    pids = [tmp_path / "child.pid", tmp_path / "grandchild.pid"]
    assert all(path.exists() for path in pids)
    wait_until(lambda: not any(map(alive, pids)), 5, "the end of the process group")


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


def test_cancelling_takes_no_longer_than_the_programs_do(
    background: Background, tmp_path: Path, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_runner, "_CANCEL_GRACE", 60)
    background.start("t1", f"touch up; exec {NAP}")
    wait_until((tmp_path / "up").exists, 10, "the task")
    begin = time.monotonic()
    background.runner.cancel("pool")
    assert time.monotonic() - begin < 30


def test_program_may_tidy_up_when_it_takes_too_long(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_runner, "_TIMEOUT_GRACE", 20)
    record = run(f"trap 'echo tidy > tidy; exit 0' TERM; {NAP} & wait", timeout=2)
    assert outcome(record) == ("timed_out", -1, "timed out after 2 s")
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


def test_hundreds_are_cancelled_in_one_go(
    background: Background, tmp_path: Path, wait_until: WaitUntil
) -> None:
    """None of them heeds TERM."""
    names = [f"t{number}" for number in range(100)]
    for name in names:
        background.start(name, f"trap '' TERM; touch {name}; {NAP} & {NAP}")
    wait_until(lambda: all((tmp_path / name).exists() for name in names), 60, "a hundred")
    begin = time.monotonic()
    records = background.runner.cancel("pool")
    assert time.monotonic() - begin < 10
    assert sorted(record["name"] for record in records) == sorted(names)
    background.join()
    ends = {outcome(record) for record in background.records.values()}
    assert ends == {("cancelled", -9, "cancelled")}


def test_callable_that_runs_is_told_by_cancel(runner: Runner) -> None:
    found = []

    def look() -> None:
        found.extend(runner.cancel("pool"))

    record = runner.run(call(look), nothing)
    assert record["status"] == "finished"
    assert found == [{key: record[key] for key in found[0]}]
    assert runner.cancel("pool") == []


def test_cancelled_between_its_start_being_told_and_its_start(
    runner: Runner, tmp_path: Path
) -> None:
    def cancel(begun: Record) -> None:
        runner.cancel("pool")

    record = runner.run(call(pytest.fail), cancel)
    assert outcome(record) == ("cancelled", 1, "cancelled")


def test_cancelled_while_it_is_being_started(runner: Runner, tmp_path: Path) -> None:
    def cancel(begun: Record) -> None:
        runner.cancel("pool")

    record = runner.run(shell(f"trap '' TERM; {NAP}", tmp_path), cancel)
    assert record["status"] == "cancelled"
    assert record["elapsed_time"] < 30


# What does not begin.


NEVER = {"host": "", "worker": "", "start_time": 0.0}


def test_held_pool_begins_nothing_more(
    background: Background, tmp_path: Path, wait_until: WaitUntil
) -> None:
    background.start("runs", "touch up; until test -e down; do sleep 0.1; done")
    wait_until((tmp_path / "up").exists, 10, "the task")
    background.runner.hold("pool")
    record = background.runner.run(shell("touch late", tmp_path), pytest.fail)
    assert outcome(record) == ("not_started", None, "its pool stopped before its turn came")
    assert {key: record[key] for key in NEVER} == NEVER
    assert background.runner.run(call(int, pool="other"), nothing)["status"] == "finished"
    (tmp_path / "down").touch()
    background.join()
    assert background.records["runs"]["status"] == "finished"
    background.runner.cancel("pool")
    assert background.runner.run(shell("", tmp_path), pytest.fail)["status"] == "cancelled"


def test_too_late_to_begin(runner: Runner) -> None:
    record = runner.run(call(pytest.fail, latest_start=time.time() - 1), pytest.fail)
    expected = ("not_started", None, "it cannot end before the allocation does")
    assert outcome(record) == expected
    assert {key: record[key] for key in NEVER} == NEVER
    record = runner.run(call(int, latest_start=time.time() + 3600), nothing)
    assert record["status"] == "finished"


def test_not_begun_if_the_start_was_refused(runner: Runner) -> None:
    record = runner.run(call(pytest.fail), lambda begun: False)
    assert outcome(record) == ("cancelled", 1, "not started")


def test_cancelling_nothing_is_no_error(runner: Runner) -> None:
    runner.cancel()
    runner.cancel("pool")
