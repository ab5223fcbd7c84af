"""What is asked wrongly of a pool: one error at the call that caused it, and nothing half-done.

The driver goes on after each of them, with the same pool: mended, it runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

DRIVER = """
import json
import math
import os
from pathlib import Path

from ips_core import Task
from ipsframework import Component


def work(number, scale=1):
    return number * scale


class Driver(Component):
    def step(self, timestamp=0.0, **keywords):
        services, self.cwd = self.services, self.services.get_working_dir()
        self.refusals, nan = {}, float("nan")
        refuse = self.refuse
        services.create_task_pool("pool")

        # calls with a pool that is not there, or is there already
        refuse("duplicate pool", services.create_task_pool, "pool")
        refuse("add to no pool", services.add_task, "nope", "t", 1, self.cwd, "true")
        refuse("fill no pool", services.add_tasks, "nope", [])
        refuse("submit no pool", services.submit_tasks, "nope", use_dask=True)
        refuse("results of no pool", services.get_finished_tasks, "nope")
        refuse("follow no pool", services.iter_finished_tasks, "nope")
        refuse("records of no pool", services.get_task_records, "nope")
        refuse("remove no pool", services.remove_task_pool, "nope")
        refuse("nothing submitted", services.get_finished_tasks, "pool")
        refuse("nothing to follow", services.iter_finished_tasks, "pool")
        refuse("empty", services.submit_tasks, "pool", use_dask=True)

        # tasks
        services.add_task("pool", "first", 1, self.cwd, "true")
        refuse("duplicate task", services.add_task, "pool", "first", 1, self.cwd, "false")
        for nproc in (0, -1, 1.5, "two", nan, None):
            refuse(f"nproc {nproc}", services.add_task, "pool", "t", nproc, self.cwd, "true")
        for value in (0, -1, nan, math.inf, "soon"):
            self.add(f"timeout {value}", "true", timeout=value)
        for key, value in {
            "time_request": -1, "gpus": -1, "priority": 1.5, "retries": -1, "retry_failed": 0.5,
            "task_env": "A=1", "isolate": 1, "pin": "yes", "mpi": "no", "stdin": 3, "logfile": 3,
        }.items():
            self.add(key, work if key == "isolate" else "true", **{key: value})
        self.add("typo of a program's", "true", tmeout=3)
        self.add("typo of a callable's", work, 1, tmeout=3)
        self.add("typo of its own", work, 1, scail=3)
        self.add("nothing like it", work, 1, xyzzy=3)
        self.add("argument too few", work)
        self.add("no program", "no-such-program")
        Path("text").write_text("echo")
        self.add("no executable", "./text")
        self.add("no task", 42)
        self.add("isolated program", "true", isolate=True)
        self.add("parallel callable", work, 1, mpi=True)
        nowhere = os.path.join(self.cwd, "nowhere")
        refuse("no directory", services.add_task, "pool", "t", 1, nowhere, "true")
        refuse("no own directory", services.add_task, "pool", "t", 1, nowhere, work, 1, gpus=1)
        refuse("no iterable", services.add_tasks, "pool", 42)
        refuse("made outside", Task, "t", 0, self.cwd, "true")

        # submissions
        for key, value in {
            "retries": -1, "retry_failed": 1.5, "max_failures": -1, "launch_interval": -0.1,
            "time_request": nan, "dask_nodes": 3, "dask_ppw": 0, "use_shifter": True,
            "oversubscribe": True, "dask_node": 2, "maxfailures": 2,
        }.items():
            self.submit(key, **{key: value})
        self.submit("many retries", retries=math.inf)
        self.submit("no retries", retries=None)
        self.submit("text", launch_interval="fast")
        self.submit("nodes", dask_nodes=-1)
        self.submit("half a node", dask_nodes=1.5)

        # what only the cluster shows; the pool is as it was
        services.create_task_pool("wide")
        services.add_task("wide", "fits", 1, self.cwd, work, 1)
        services.add_task("wide", "callable", 99, self.cwd, work, 1)
        self.submit("wide callable", pool="wide", dask_ppw=2)
        services.remove_task_pool("wide")
        services.create_task_pool("wide")
        services.add_task("wide", "program", 99, self.cwd, "true", mpi=False)
        self.submit("wide program", pool="wide", dask_ppw=2)
        services.create_task_pool("gpus")
        services.add_task("gpus", "devices", 1, self.cwd, "true", gpus=3)
        self.submit("devices", pool="gpus", dask_ppw=2)

        # mended
        services.add_task("pool", "second", 1, self.cwd, work, 21, scale=2)
        print(services.submit_tasks("pool", use_dask=True, dask_ppw=2))
        self.submit("twice", dask_ppw=2)
        print(services.get_finished_tasks("pool"))
        refuse("taken already", services.get_finished_tasks, "pool")
        print(json.dumps(self.refusals))

    def refuse(self, what, call, *args, **keywords):
        try:
            found = call(*args, **keywords)
        except Exception as error:
            self.refusals[what] = type(error).__name__, str(error)
        else:
            self.refusals[what] = "", repr(found)

    def add(self, what, *args, **keywords):
        self.refuse(what, self.services.add_task, "pool", "t", 1, self.cwd, *args, **keywords)

    def submit(self, what, pool="pool", **keywords):
        submit = self.services.submit_tasks
        self.refuse(f"submit: {what}", submit, pool, use_dask=True, **keywords)
"""

_COUNT = "expected a whole number of 0 or more"
_SECONDS = "expected a number of seconds above 0"
#: By what was done: the error's type and sentence.
SENTENCES = {
    "duplicate pool": ("TaskPoolError", "Error: Duplicate task pool name pool"),
    **dict.fromkeys(
        (
            *("add to no pool", "fill no pool", "submit no pool", "results of no pool"),
            *("follow no pool", "records of no pool", "remove no pool"),
        ),
        ("KeyError", "'no task pool nope'"),
    ),
    **dict.fromkeys(
        ("nothing submitted", "nothing to follow", "taken already"),
        ("TaskPoolError", "No more active tasks in task pool pool"),
    ),
    "empty": ("TaskPoolError", "pool pool has no tasks: call add_task before submit_tasks"),
    "duplicate task": ("TaskPoolError", "Duplicate task name first in task pool pool"),
    **{
        f"nproc {value}": (
            "TaskPoolError",
            f"task t: nproc = {value!r}: expected a whole number of 1 or more",
        )
        for value in (0, -1, 1.5, "two", float("nan"), None)
    },
    **{
        f"timeout {value}": ("TaskPoolError", f"task t: timeout = {value!r}: {_SECONDS}")
        for value in (0, -1, float("nan"), float("inf"), "soon")
    },
    **{
        key: ("TaskPoolError", f"task t: {key} = {value!r}: {expected}")
        for key, value, expected in (
            ("time_request", -1, _SECONDS),
            ("gpus", -1, _COUNT),
            ("priority", 1.5, "expected a whole number"),
            ("retries", -1, _COUNT),
            ("retry_failed", 0.5, _COUNT),
            ("task_env", "A=1", "expected a dict"),
            ("isolate", 1, "expected True or False"),
            ("pin", "yes", "expected True or False"),
            ("mpi", "no", "expected True or False"),
            ("stdin", 3, "expected a path, or bytes"),
            ("logfile", 3, "expected a path"),
        )
    },
    "typo of a program's": (
        "TaskPoolError",
        "task t: unknown keyword tmeout; did you mean timeout?",
    ),
    "typo of a callable's": (
        "TaskPoolError",
        "task t: work() cannot be called so: got an unexpected keyword argument 'tmeout'; "
        "did you mean timeout?",
    ),
    "typo of its own": (
        "TaskPoolError",
        "task t: work() cannot be called so: got an unexpected keyword argument 'scail'; "
        "did you mean scale?",
    ),
    "nothing like it": (
        "TaskPoolError",
        "task t: work() cannot be called so: got an unexpected keyword argument 'xyzzy'",
    ),
    "argument too few": (
        "TaskPoolError",
        "task t: work() cannot be called so: missing a required argument: 'number'",
    ),
    "no program": (
        "TaskPoolError",
        "task t of pool pool: Program no-such-program is not in path or is not executable",
    ),
    "no executable": (
        "TaskPoolError",
        "task t of pool pool: Program ./text is not in path or is not executable",
    ),
    "no task": ("TaskPoolError", "task t: expected the path of a program or a callable, found int"),
    "isolated program": (
        "TaskPoolError",
        "task t: isolate= is for callables; a program always is",
    ),
    "parallel callable": ("TaskPoolError", "task t: mpi=True is for programs"),
    **dict.fromkeys(
        ("no directory", "no own directory"),
        ("TaskPoolError", "task t of pool pool: there is no directory {cwd}/nowhere"),
    ),
    "no iterable": ("TaskPoolError", "pool pool: expected an iterable of Task, found 42"),
    "made outside": (
        "TaskPoolError",
        "task t: nproc = 0: expected a whole number of 1 or more",
    ),
    **{
        f"submit: {what}": ("TaskPoolError", f"pool pool: {text}")
        for what, text in {
            "retries": f"retries = -1: {_COUNT}",
            "many retries": f"retries = inf: {_COUNT}",
            "no retries": f"retries = None: {_COUNT}",
            "retry_failed": f"retry_failed = 1.5: {_COUNT}",
            "max_failures": "max_failures = -1: expected a number of 0 or more",
            "launch_interval": "launch_interval = -0.1: expected a number of 0 or more",
            "text": "launch_interval = 'fast': expected a number of 0 or more",
            "time_request": "time_request = nan: expected a number of 0 or more",
            "dask_nodes": "dask_nodes = 3, but there are only 2",
            "nodes": "dask_nodes = -1: expected a whole number of 1 or more",
            "half a node": "dask_nodes = 1.5: expected a whole number of 1 or more",
            "dask_ppw": "dask_ppw = 0: expected a whole number of 1 or more",
            "use_shifter": "use_shifter=True, but shifter is not on PATH",
            "oversubscribe": "oversubscribe=True is not supported",
            "dask_node": "unknown keyword dask_node; did you mean dask_nodes?",
            "maxfailures": "unknown keyword maxfailures; did you mean max_failures?",
        }.items()
    },
    "submit: wide callable": (
        "TaskPoolError",
        "task callable of pool wide: nproc = 99, but a worker has 2 slots",
    ),
    "submit: wide program": (
        "TaskPoolError",
        "task program of pool wide: nproc = 99, but a worker has 2 slots",
    ),
    "submit: devices": (
        "TaskPoolError",
        "task devices of pool gpus: gpus = 3, but a worker has 0",
    ),
    "submit: twice": (
        "TaskPoolError",
        "pool pool {is running}: call get_finished_tasks before the next submit_tasks",
    ),
}


@pytest.fixture
def refusals(simulation: Any, once: Callable[..., Any]) -> Any:
    """One driver's bad calls: the outcome, and what each was answered."""

    def run() -> Any:
        outcome = simulation.write(DRIVER).run("--nodes", "2", CUDA_VISIBLE_DEVICES="")
        assert (outcome.code, outcome.stderr) == (0, "")
        cwd = simulation.root / "work" / "DRIVER__Driver_1"
        return outcome, json.loads(outcome.stdout.splitlines()[-1]), str(cwd)

    return once("refusals", run)


def test_all_are_refused(refusals: Any) -> None:
    _, seen, _ = refusals
    assert seen.keys() == SENTENCES.keys()


@pytest.mark.parametrize("what", SENTENCES)
def test_sentence(refusals: Any, what: str) -> None:
    _, seen, cwd = refusals
    kind, text = SENTENCES[what]
    is_running = "has results" if "has results" in seen[what][1] else "is running"
    assert seen[what] == [kind, text.replace("{cwd}", cwd).replace("{is running}", is_running)]


def test_the_mended_pool_runs_what_was_added_well(refusals: Any) -> None:
    outcome, _, _ = refusals
    assert outcome.stdout.splitlines()[-3:-1] == ["2", "{'first': 0, 'second': 42}"]


def test_nothing_of_a_refused_submission_is_in_the_log(refusals: Any) -> None:
    outcome, _, _ = refusals
    launched = [event["task_name"] for event in outcome.of_type("IPS_LAUNCH_DASK_TASK")]
    assert sorted(launched) == ["first", "second"]
    pools = [event["comment"] for event in outcome.of_type("IPS_TASK_POOL_BEGIN")]
    # what does not fit is known only once there is a cluster
    assert pools == [f"task_pool = {name} " for name in ("wide", "wide", "gpus", "pool")]
    ends = outcome.of_type("IPS_TASK_POOL_END")
    assert [event["ok"] for event in ends] == [False, False, False, True]
    assert ["nproc = 99" in event["error"] for event in ends[:2]] == [True, True]
    assert len(outcome.of_type("IPS_LAUNCH_TASK")) == 1  # a cluster, which the next one uses
