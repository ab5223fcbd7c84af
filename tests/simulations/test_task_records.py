"""Each failure ends in its task's record, the log and the result; nothing else is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.versions

DRIVER = """
from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from ipsframework import Component

LINES = "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done; echo the end; exit 3"


def fine(number):
    return number


def raises(text):
    print("before", text)
    helper(text)


def helper(text):
    raise ValueError(text)


def leaves():
    sys.exit("enough")


def stops():
    raise KeyboardInterrupt


def deep(number):
    return deep(number + 1)


class Silent(Exception):
    def __str__(self):
        raise RuntimeError("not even this")


def silent():
    raise Silent


def own_error():
    raise type("OnlyHere", (Exception,), {})("nobody else knows it")


def own_value(folder):
    # of a module that only this worker can import
    Path(folder, "elsewhere").mkdir(exist_ok=True)
    Path(folder, "elsewhere", "only_there.py").write_text("class Thing: pass")
    sys.path.insert(0, str(Path(folder, "elsewhere")))
    try:
        import only_there
    finally:
        sys.path.remove(str(Path(folder, "elsewhere")))
    return only_there.Thing()


def lock(*args):
    return threading.Lock()


def load(pid):
    if os.getpid() != pid:
        raise OSError("this cannot be loaded elsewhere")
    return Picky()


class Picky:
    def __reduce__(self):
        return load, (os.getpid(),)


def shout():
    print("x" * 100)


class Driver(Component):
    def step(self, timestamp=0.0, **keywords):
        services, self.cwd = self.services, self.services.get_working_dir()
        services.create_task_pool("pool")
        self.programs()
        self.files()
        self.callables()
        self.pickles()
        self.vanish()
        services.submit_tasks("pool", use_dask=True, dask_ppw=2)
        values = services.get_finished_tasks("pool")
        records = services.get_task_records("pool")
        fields = (
            "status", "exit_status", "error", "traceback", "output", "host", "worker", "attempts",
            "start_time", "elapsed_time",
        )
        print(json.dumps({
            "order": list(values),
            "values": {name: [type(v).__name__, str(v), v == 0] for name, v in values.items()},
            "records": {n: {f: getattr(r, f) for f in fields} for n, r in records.items()},
        }))

    def add(self, name, *args, cwd=None, **keywords):
        self.services.add_task("pool", name, 1, cwd or self.cwd, *args, **keywords)

    def programs(self):
        self.add("first", fine, 1)
        self.add("code", "sh", "-c", LINES)
        self.add("code in a log file", "sh", "-c", LINES, logfile="code.log")
        self.add(
            *("code in an error file", "sh", "-c", "echo out; echo err >&2; exit 4"),
            logfile="out.log",
            errfile="err.log",
        )
        self.add("signal", "sh", "-c", "echo going; kill -SEGV $$")
        self.add("timeout", "sh", "-c", "echo waiting; exec sleep 300", timeout=1)
        self.add("no text", "sh", "-c", "printf 'a\\\\377b'; exit 5", logfile="odd.log")
        Path("script").write_text("#!/no/such/interpreter\\n")
        os.chmod("script", 0o755)
        self.add("no interpreter", "./script")

    def files(self):
        self.add("full", "sh", "-c", "echo much || exit 6", logfile="/dev/full")
        self.add("full, callable", shout, logfile="/dev/full")
        Path("a file").touch()
        self.add("no log file", "true", logfile="a file/log")
        self.add("no input file", "cat", stdin="nothing")

    def callables(self):
        self.add("raises", raises, "no such plasma")
        self.add("raises, isolated", raises, "no such plasma", isolate=True)
        self.add("raises, log file", raises, "no such plasma", logfile="raises.log")
        self.add("leaves", leaves)
        self.add("stops", stops)
        self.add("deep", deep, 0)
        self.add("silent", silent)
        self.add("own error", own_error)
        self.add("own value", own_value, self.cwd)

    def pickles(self):
        for isolate in (False, True):
            what = "isolated" if isolate else "plain"
            self.add(f"lock there, {what}", lock, threading.Lock(), isolate=isolate)
            self.add(f"lock back, {what}", lock, isolate=isolate)
            self.add(f"picky, {what}", fine, Picky(), isolate=isolate)

    def vanish(self):
        Path("program").write_text("#!/bin/sh\\n")
        os.chmod("program", 0o755)
        self.add("vanished program", "./program")
        os.remove("program")
        os.mkdir("vanishes")
        self.add("vanished directory", "true", cwd="vanishes", logfile="log")
        self.add("vanished directory, callable", fine, 2, cwd="vanishes", isolate=True)
        os.rmdir("vanishes")
        self.add("last", fine, 2)
"""

#: By task: status, exit status, how its error begins, how its output ends.
EXPECTED = {
    "code": ("failed", 3, "exit code 3", "line 499\nthe end\n"),
    "code in a log file": ("failed", 3, "exit code 3", "line 499\nthe end\n"),
    "code in an error file": ("failed", 4, "exit code 4", "out\nerr\n"),
    "signal": ("failed", -11, "crashed (SIGSEGV) in compiled code", "going\n"),
    "timeout": ("timed_out", -1, "timed out after 1 s", "waiting\n"),
    "no text": ("failed", 5, "exit code 5", "a\ufffdb"),
    "no interpreter": ("failed", 126, "program {cwd}/script cannot be started on {host}: no", ""),
    "full": ("failed", 6, "exit code 6", ""),
    "full, callable": ("failed", 1, "OSError: [Errno 28] No space left on device", ""),
    "no log file": (
        *("failed", 126, "log file {cwd}/a file/log cannot be opened on {host}: Not a directory"),
        "",
    ),
    "no input file": (
        *("failed", 127, "input file {cwd}/nothing cannot be opened on {host}: No such file"),
        "",
    ),
    "raises": ("failed", 1, "ValueError: no such plasma", "before no such plasma\n"),
    "raises, isolated": ("failed", 1, "ValueError: no such plasma", "before no such plasma\n"),
    "raises, log file": ("failed", 1, "ValueError: no such plasma", "before no such plasma\n"),
    "leaves": ("failed", 1, "SystemExit: enough", ""),
    "stops": ("failed", 1, "KeyboardInterrupt", ""),
    "deep": ("failed", 1, "RecursionError: maximum recursion depth exceeded", ""),
    "silent": ("failed", 1, "Silent", ""),
    "own error": ("failed", 1, "OnlyHere: nobody else knows it", ""),
    "own value": (
        *("failed", 1, "its result cannot be read here: ModuleNotFoundError: No module named"),
        "",
    ),
    "lock there, plain": ("failed", 1, "it cannot be sent to a worker: TypeError: ", ""),
    "lock there, isolated": ("failed", 1, "it cannot be sent to a worker: TypeError: ", ""),
    "lock back, plain": ("failed", 1, "its result cannot be pickled: ", ""),
    "lock back, isolated": ("failed", 1, "its result cannot be pickled: ", ""),
    "picky, plain": ("failed", 1, "it cannot be read on the worker: OSError: this cannot", ""),
    "picky, isolated": ("failed", 1, "it cannot be read on the worker: OSError: this cannot", ""),
    "vanished program": ("failed", 127, "program {cwd}/program not found on {host}", ""),
    "vanished directory": (
        *("failed", 127, "working directory {cwd}/vanishes not found on {host}"),
        "",
    ),
    "vanished directory, callable": (
        *("failed", 1, "working directory {cwd}/vanishes not found on {host}"),
        "",
    ),
}
#: No worker has run them; nobody knows where they would have been.
HOMELESS = {"lock there, plain", "lock there, isolated", "picky, plain", "picky, isolated"}
PROGRAMS = [name for name, (_, code, _, _) in EXPECTED.items() if code != 1]


@pytest.fixture
def failures(simulation: Any, once: Callable[..., Any]) -> Any:
    """One pool of tasks that fail: the outcome, what the driver found, its work directory."""

    def run() -> Any:
        outcome = simulation.write(DRIVER).run()
        assert (outcome.code, outcome.stderr) == (0, "")
        facts = json.loads(outcome.stdout.splitlines()[-1])
        return outcome, facts, str(simulation.root / "work" / "DRIVER__Driver_1")

    return once("failures", run)


def test_results_are_in_the_order_of_adding(failures: Any) -> None:
    _, facts, _ = failures
    groups = list(EXPECTED)
    assert set(facts["order"]) == {"first", *EXPECTED, "last"}
    assert facts["order"] == [
        *("first", *groups[: groups.index("lock there, plain")]),
        *(f"{what}, plain" for what in ("lock there", "lock back", "picky")),
        *(f"{what}, isolated" for what in ("lock there", "lock back", "picky")),
        *(*groups[groups.index("vanished program") :], "last"),
    ]


def test_a_comparison_with_0_sees_a_failure(failures: Any) -> None:
    _, facts, _ = failures
    values = dict(facts["values"])
    assert values.pop("first") == ["int", "1", False]
    assert values.pop("last") == ["int", "2", False]
    assert [name for name, (_, _, is_0) in values.items() if is_0] == []
    for name, (kind, text, _) in values.items():
        if name in PROGRAMS:
            assert (kind, text) == ("int", str(EXPECTED[name][1])), name
        else:
            assert kind == "TaskError", name
            assert text.startswith(f"task {name} failed: "), name


@pytest.mark.parametrize("name", EXPECTED)
def test_record(failures: Any, name: str) -> None:
    _, facts, cwd = failures
    status, code, error, output = EXPECTED[name]
    record = facts["records"][name]
    assert (record["status"], record["exit_status"]) == (status, code)
    assert record["error"].startswith(error.format(cwd=cwd, host=record["host"]))
    assert record["output"].endswith(output)
    assert bool(output) == bool(record["output"])
    assert len(record["output"]) <= 4096
    assert record["attempts"] == 1
    assert bool(record["host"] and record["worker"]) == (name not in HOMELESS)
    assert record["elapsed_time"] < 60
    assert record["start_time"] > 0


def test_the_end_of_long_output_is_kept_wherever_it_went(failures: Any) -> None:
    _, facts, _ = failures
    records = facts["records"]
    assert len(records["code"]["output"]) == len(records["code in a log file"]["output"]) == 4096
    assert records["first"]["output"] == ""


def test_tracebacks_show_the_users_code(failures: Any) -> None:
    _, facts, _ = failures
    for name in ("raises", "raises, isolated", "raises, log file"):
        traceback = facts["records"][name]["traceback"]
        assert 'driver.py", line' in traceback
        assert "in helper\n" in traceback
        assert traceback.endswith("ValueError: no such plasma\n")
        assert "ips_core" not in traceback
    assert "nobody else knows it" in facts["records"]["own error"]["traceback"]
    assert facts["records"]["code"]["traceback"] == ""


@pytest.mark.parametrize("name", ["first", "last", *EXPECTED])
def test_the_log_says_the_same(failures: Any, name: str) -> None:
    outcome, facts, _ = failures
    record = facts["records"][name]
    (event,) = [e for e in outcome.of_type("IPS_TASK_END") if e.get("task_name") == name]
    assert event["ok"] == (record["status"] == "finished")
    same = ("status", "exit_status", "host", "worker", "start_time", "elapsed_time")
    assert {key: event[key] for key in same} == {key: record[key] for key in same}
    assert event["attempt"] == record["attempts"]
    assert event.get("error", "") == record["error"]
    assert event.get("output", "") == record["output"]
    if record["error"]:
        assert f"ERROR    task {name}: " in outcome.log
