"""Callables: in a thread of the worker, and in a process of their own."""

from __future__ import annotations

import ast
import asyncio
import atexit
import functools
import inspect
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from ips_core.tasks.output import ThreadOutput
from ips_core.tasks.runner import BY_VALUE, Runner

Record = dict[str, Any]
WaitUntil = Callable[..., Any]


@pytest.fixture
def runner() -> Runner:
    return Runner("c-0")


@pytest.fixture
def isolate(runner: Runner, tmp_path: Path) -> Callable[..., Record]:
    """``isolate(function, *args, **changes)``: its record, from a process of its own."""

    def isolate(function: Callable[..., Any], *args: Any, **changes: Any) -> Record:
        task = call(function, *args, isolate=True, cwd=str(tmp_path))
        return runner.run(task | changes, nothing)

    return isolate


def call(function: Callable[..., Any], *args: Any, **changes: Any) -> Record:
    task = {"pool": "pool", "name": "t1", "function": function, "args": args, "kwargs": {}}
    return task | changes


def nothing(begun: Record) -> None:
    """What is told of a start is of no interest."""


def outcome(record: Record) -> tuple[str, int, str]:
    return record["status"], record["exit_status"], record["error"]


# In a thread.


def test_value_of_a_callable_is_itself(runner: Runner) -> None:
    value = object()
    task = call(lambda given, key: (given, key), value, kwargs={"key": 2.5})
    record = runner.run(task, nothing)
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

    record = runner.run(call(fail_here), nothing)
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

    record = runner.run(call(fail), nothing)
    assert (record["status"], record["exit_status"]) == ("failed", 1)
    assert "Mute" in record["error"]


def test_prints_of_a_callable_are_flushed(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream:
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    stream = Stream()
    monkeypatch.setattr("sys.stdout", stream)
    runner.run(call(lambda: None), nothing)
    assert stream.flushed == 1


def test_coroutine_is_run_to_its_end(runner: Runner) -> None:
    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    for function in (double, lambda number: double(number), functools.partial(double)):
        assert runner.run(call(function, 21), nothing)["value"] == 42


def test_coroutine_that_raises_is_a_record(runner: Runner) -> None:
    async def fail() -> None:
        raise ValueError("why")

    record = runner.run(call(fail), nothing)
    assert outcome(record) == ("failed", 1, "ValueError: why")
    assert "in fail\n" in record["traceback"]


def test_callable_that_goes_too_deep_is_a_record(runner: Runner) -> None:
    def even(number: int) -> bool:
        return odd(number)

    def odd(number: int) -> bool:
        return even(number)

    record = runner.run(call(even, 1), nothing)
    assert record["error"].startswith("RecursionError: ")
    assert len(record["traceback"]) < 17_000
    assert record["traceback"].startswith("Traceback (most recent call last):\n")
    assert "\nRecursionError: " in record["traceback"]


def test_error_of_any_length_is_shortened(runner: Runner) -> None:
    def fail() -> None:
        raise ValueError(f"first{'x' * 1_000_000}last")

    record = runner.run(call(fail), nothing)
    assert len(record["error"]) + len(record["traceback"]) < 22_000
    assert record["error"].startswith("ValueError: firstx")
    assert record["error"].endswith("xlast")


def test_end_of_what_a_callable_printed_before_it_raised(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(word: str) -> None:
        print("x" * 5000)
        print(word, end="")
        if word == "bad":
            raise ValueError

    with open(tmp_path / "stdout", "w") as file:
        monkeypatch.setattr("sys.stdout", ThreadOutput(file))
        records = [runner.run(call(fail, word), nothing) for word in ("good", "bad")]
    assert records[0]["output"] == ""
    assert records[1]["output"] == "x" * 4092 + "\nbad"
    assert (tmp_path / "stdout").read_text() == f"{'x' * 5000}\ngood\n{'x' * 5000}\nbad"


# In a process of its own.


class Point:
    """A class of this module, which the worker's Python finds by its name, or not."""

    def __init__(self, x: float) -> None:
        self.x = x


def test_isolated_callable_is_elsewhere(isolate: Any, tmp_path: Path) -> None:
    def look(key: int) -> Any:
        return os.getpid(), os.getsid(0), os.getcwd(), sys.stdin.read(), sys.argv, key

    record = isolate(look, kwargs={"key": 5})
    assert outcome(record) == ("finished", 0, "")
    pid, *others = record["value"]
    assert pid != os.getpid()
    assert others == [pid, str(tmp_path), "", ["-c"], 5]


def test_what_an_isolated_callable_starts_has_no_pipe_of_ours(isolate: Any) -> None:
    def passed_on() -> list[int]:
        with os.scandir("/proc/self/fd") as entries:
            return [int(each.name) for each in entries if os.get_inheritable(int(each.name))]

    assert sorted(isolate(passed_on)["value"]) == [0, 1, 2]


@pytest.mark.parametrize("size", [0, 10_000_000])
def test_value_of_any_size_survives_both_ways(isolate: Any, size: int) -> None:
    value = os.urandom(size)
    assert isolate(lambda given: given[::-1], value)["value"] == value[::-1]


def test_value_of_a_class_that_only_this_process_knows(isolate: Any) -> None:
    class Local(Point):
        pass

    Local.__module__ = "__main__"
    value = isolate(lambda x: Local(x), 2.5)["value"]
    assert (type(value), value.x) == (Local, 2.5)


def fail_here() -> None:
    print("before")
    raise ValueError("why")


def crash() -> None:
    print("before")
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.parametrize(
    ("function", "args", "expected", "output"),
    [
        (fail_here, (), ("failed", 1, "ValueError: why"), "before\n"),
        (sys.exit, (3,), ("failed", 1, "SystemExit: 3"), ""),
        (os._exit, (3,), ("failed", 3, "exit code 3"), ""),
        (os._exit, (0,), ("failed", 1, "it ended without a result"), ""),
        (crash, (), ("failed", -11, "crashed (SIGSEGV) in compiled code"), "before\n"),
        (
            *(atexit.register, (os._exit, 4)),
            *(("failed", 4, "exit code 4, after it had returned"), ""),
        ),
    ],
    ids=["raises", "SystemExit", "exit 3", "exit 0", "signal", "late"],
)
@pytest.mark.parametrize("logfile", [None, "log"])
def test_end_of_an_isolated_callable(
    isolate: Any, function: Any, args: Any, expected: Any, output: str, logfile: str | None
) -> None:
    record = isolate(function, *args, logfile=logfile)
    assert outcome(record) == expected
    assert record["value"] is None
    assert record["output"] == output


def test_traceback_of_an_isolated_callable_is_the_callables(isolate: Any) -> None:
    trace = isolate(fail_here)["traceback"]
    assert "in fail_here\n" in trace
    assert trace.count("File ") == 1


def test_coroutine_may_be_isolated(isolate: Any) -> None:
    async def process() -> int:
        return os.getpid()

    assert isolate(process)["value"] != os.getpid()


def test_what_cannot_be_pickled_is_told(isolate: Any) -> None:
    there = isolate(id, threading.Lock())
    assert outcome(there) == (
        *("failed", 1),
        "it cannot be sent to its process: TypeError: cannot pickle '_thread.lock' object",
    )
    back = isolate(threading.Lock)
    assert outcome(back) == (
        *("failed", 1),
        "its result cannot be pickled: TypeError: cannot pickle '_thread.lock' object",
    )


class Trap:
    """Its copy cannot be made in a process, which is told from others by a variable."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __reduce__(self) -> Any:
        def make(where: str) -> Trap:
            if ("IN_CHILD" in os.environ) == (where == "child"):
                raise ValueError("no")
            return Trap(where)

        return make, (self.where,)


def test_what_cannot_be_loaded_is_told(isolate: Any) -> None:
    there = isolate(str, Trap("child"), env={"IN_CHILD": "1"})
    assert outcome(there) == (*("failed", 1, "it cannot be loaded in its process: ValueError: no"),)
    back = isolate(lambda: Trap("here"), env={"IN_CHILD": "1"})
    assert outcome(back) == ("failed", 1, "its result cannot be loaded: ValueError: no")


def test_isolated_callable_that_takes_too_long(isolate: Any) -> None:
    record = isolate(time.sleep, 60, timeout=1)
    assert outcome(record) == ("timed_out", -1, "timed out after 1 s")
    assert record["elapsed_time"] < 30


def test_isolated_callable_is_cancelled(
    runner: Runner, isolate: Any, tmp_path: Path, wait_until: WaitUntil
) -> None:
    def nap() -> None:
        Path("up").touch()
        time.sleep(60)

    records: list[Record] = []
    thread = threading.Thread(target=lambda: records.append(isolate(nap)))
    thread.start()
    wait_until((tmp_path / "up").exists, 30, "the callable")
    assert [record["name"] for record in runner.cancel("pool")] == ["t1"]
    thread.join(20)
    assert outcome(records[0]) == ("cancelled", -15, "cancelled")


def test_files_and_environment_of_an_isolated_callable(isolate: Any, tmp_path: Path) -> None:
    def write() -> None:
        print(os.environ["OWN"], os.environ["OMP_NUM_THREADS"])
        print("err", file=sys.stderr)

    changes = {"env": {"OWN": "own"}, "slots": 2, "logfile": "log", "errfile": "err"}
    runner = Runner("c-0", threads=2, cores=range(8))
    task = call(write, isolate=True, cwd=str(tmp_path), **changes)
    assert runner.run(task, nothing)["status"] == "finished"
    assert (tmp_path / "log").read_text() == "own 8\n"
    assert (tmp_path / "err").read_text() == "err\n"


def test_directory_of_an_isolated_callable_hides_no_module(isolate: Any, tmp_path: Path) -> None:
    for name in ("pickle", "random", "cloudpickle"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not me')\n")
    (tmp_path / "mine.py").write_text("word = 'found'\n")

    def load() -> str:
        import random

        import mine

        return mine.word + str(random.choice("!"))

    assert isolate(load)["value"] == "found!"


def test_modules_of_the_worker_are_found(
    isolate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = tmp_path / "places"
    places.mkdir()
    (places / "uploaded_here.py").write_text("def word():\n    return 'found'\n")
    monkeypatch.syspath_prepend(str(places))
    import uploaded_here

    assert isolate(uploaded_here.word)["value"] == "found"


# On workers without our packages.


def test_runner_by_value_needs_nothing_of_ours(run_without_us: Any, tmp_path: Path) -> None:
    """As a worker gets it; the functions there are of the worker's ``__main__``."""
    for module in BY_VALUE:
        cloudpickle.register_pickle_by_value(module)
    try:
        from ips_core.tasks.runner import Journal, install_output

        (tmp_path / "runner").write_bytes(cloudpickle.dumps((Runner, Journal, install_output)))
    finally:
        for module in BY_VALUE:
            cloudpickle.unregister_pickle_by_value(module)
    code = """
import os, pickle
Runner, Journal, install_output = pickle.load(open("runner", "rb"))
install_output()
install_output()
class Pair(tuple):
    pass
def swap(pair):
    print("swap")
    return Pair((pair[1], os.getpid() != here, "ips_core" in sys.modules))
here = os.getpid()
runner = Runner("c-0", threads=2, gpus=["5"])
def run(**task):
    record = runner.run({"pool": "p", "name": "t", **task}, lambda begun: None)
    print([record[key] for key in ("status", "exit_status", "value", "error", "output")])
    return record
run(argv=["/bin/sh", "-c", "echo out; exit 3"])
run(function=print, args=("printed",), kwargs={})
run(function=int, args=("one",), kwargs={})
record = run(function=swap, args=(Pair((1, 2)),), kwargs={}, isolate=True, pin=True, gpus=1)
print(type(record["value"]) is Pair)
run(argv=["/no/solve"], cwd="/")
print(Journal(".", "c-0").ended("p-1", b"x" * 5000))
print(runner.cancel(), [name for name in sys.modules if name.startswith("ips_core.")])
"""
    expected = f"""\
out
['failed', 3, None, 'exit code 3', 'out\\n']
printed
['finished', 0, None, '', '']
['failed', 1, None, "ValueError: invalid literal for int() with base 10: 'one'", '']
swap
['finished', 0, (2, True, False), '', '']
True
['failed', 127, None, 'program /no/solve not found on {socket.gethostname()}', '']
{{'file': 'p-1.result'}}
[] []
"""
    assert run_without_us(code) == expected


def test_modules_that_go_by_value_import_only_pythons_own_and_each_other() -> None:
    imported = set()
    for module in BY_VALUE:
        tree = ast.parse(inspect.getsource(module))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                packages = ("ips_core", "ips_dask_cluster")
                imported |= set(names) if node.module in packages else {node.module}
    ours = {module.__name__ for module in BY_VALUE}
    assert imported - ours - set(sys.stdlib_module_names) - {"collections.abc"} == {"cloudpickle"}
