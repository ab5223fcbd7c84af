"""A task that fails costs nobody else's result, and says why: in its value, the log, LOG_FILE."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.versions

DRIVER = """
import os
import sys
import threading

from ipsframework import Component


def fine(number):
    return number


def raises():
    raise ValueError("no such plasma")


def leaves():
    sys.exit("enough")


def lock():
    return threading.Lock()


class Driver(Component):
    def step(self, timestamp=0.0, **keywords):
        cwd = self.services.get_working_dir()

        def add(name, *args, **keywords):
            self.services.add_task("pool", name, 1, cwd, *args, **keywords)

        self.services.create_task_pool("pool")
        add("first", fine, 1)
        add("raises", raises)
        add("three", "sh", "-c", "exit 3")
        add("killed", "sh", "-c", "kill -SEGV $$")
        add("leaves", leaves)
        add("lock back", lock)
        add("lock there", fine, threading.Lock())
        os.mkdir("vanishes")
        self.services.add_task("pool", "nowhere", 1, "vanishes", "true")
        os.rmdir("vanishes")
        add("true", "true")
        add("last", fine, 2)
        self.services.submit_tasks("pool", use_dask=True)
        values = self.services.get_finished_tasks("pool")
        print([(name, type(value).__name__, str(value)) for name, value in values.items()])
        print(not any(value == 0 for name, value in values.items() if name != "true"))
"""

REASONS = {
    "raises": "ValueError: no such plasma",
    "three": "exit code 3",
    "killed": "crashed (SIGSEGV) in compiled code",
    "leaves": "SystemExit: enough",
    "lock back": "its result cannot be pickled: ",
    "lock there": "it cannot be sent to a worker: TypeError: ",
    "nowhere": "working directory ",
}
EXIT_STATUS = {"three": 3, "killed": -11, "nowhere": 127}


@pytest.fixture
def failures(simulation: Any, once: Callable[..., Any]) -> Any:
    """One pool in which most tasks fail."""
    return once("failures", lambda: simulation.write(DRIVER).run())


def test_the_simulation_goes_on(failures: Any) -> None:
    assert failures.stderr == ""
    assert failures.code == 0
    assert failures.events[-1]["ok"] is True


def test_values(failures: Any) -> None:
    values, none_looks_fine = map(ast.literal_eval, failures.stdout.splitlines()[1:])
    assert [name for name, _, _ in values] == [
        *("first", "raises", "three", "killed", "leaves", "lock back", "lock there", "nowhere"),
        *("true", "last"),
    ]
    seen = {name: (kind, text) for name, kind, text in values}
    assert seen["first"] == ("int", "1")
    assert seen["last"] == ("int", "2")
    assert seen["true"] == ("int", "0")
    for name, code in EXIT_STATUS.items():
        assert seen[name] == ("int", str(code))
    for name in REASONS.keys() - EXIT_STATUS.keys():
        kind, text = seen[name]
        assert kind == "TaskError"
        assert text.startswith(f"task {name} failed: {REASONS[name]}")
    assert none_looks_fine is True


def test_events(failures: Any) -> None:
    launched = [event["task_name"] for event in failures.of_type("IPS_LAUNCH_DASK_TASK")]
    ended = {event["task_name"]: event for event in failures.of_type("IPS_TASK_END")}
    assert sorted(launched) == sorted(ended.keys() - {"dask-worker"})
    for name in ("first", "last", "true"):
        assert ended[name]["ok"] is True
        assert ended[name]["exit_status"] == 0
        assert "error" not in ended[name]
    for name, reason in REASONS.items():
        assert ended[name]["ok"] is False
        assert ended[name]["exit_status"] == EXIT_STATUS.get(name, 1)
        assert reason in ended[name]["error"]


def test_log_file(failures: Any) -> None:
    assert 'raise ValueError("no such plasma")\nValueError: no such plasma\n' in failures.log
    for name in REASONS:
        assert f"ERROR    task {name}: " in failures.log
    assert "task first" not in failures.log
