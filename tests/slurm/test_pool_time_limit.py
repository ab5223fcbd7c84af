"""Pools in an allocation with a time limit: what cannot end in time does not start."""

from __future__ import annotations

import re
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ips_core import read_log

LIMIT_MINUTES = 5
#: Pools have to stop so long after the allocation has begun.
WORKING_SECONDS = 40
IPS = (sys.executable, "-m", "ips_core", "--config", "pool.config")

DRIVER = """
from ipsframework import Component


class Pool(Component):
    def step(self, timestamp=0.0, **keywords):
        self.cwd = self.services.get_working_dir()
        self.first()
        self.second()
        self.third()

    def first(self):
        # pools have to stop 40 s after the allocation's begin
        self.services.create_task_pool("each")
        self.add("each", "short", "true")
        self.add("each", "has a limit", "true", time_request=1)
        self.add("each", "too long", "true", time_request=100)
        self.add("each", "failing", "false", time_request=1)
        print("each:", self.run("each"))
        self.services.create_task_pool("all")
        self.add("all", "its own", "true", time_request=1)
        self.add("all", "that of the pool", "true")
        print("all:", self.run("all", time_request=100))

    def second(self):
        self.services.create_task_pool("apart")
        for number in range(6):
            self.add("apart", f"t{number}", "true")
        self.run("apart", launch_interval=0.8)

    def third(self):
        self.services.create_task_pool("stopped")
        for number in range(4):
            self.add("stopped", f"short {number}", "true")
        for number in range(12):
            self.add("stopped", f"long {number}", "sleep", "321")
        print("stopped:", self.run("stopped"))
        for record in self.services.get_task_records("stopped").values():
            print("record: " + ", ".join([record.name, record.status, record.error]))
        self.services.create_task_pool("too late")
        self.add("too late", "t", "true")
        print("too late:", self.run("too late"))

    def add(self, pool, name, *command, **keywords):
        self.services.add_task(pool, name, 1, self.cwd, *command, **keywords)

    def run(self, pool, **keywords):
        self.services.submit_tasks(pool, use_dask=True, dask_nodes=4, **keywords)
        return self.services.get_finished_tasks(pool)
"""


@pytest.fixture
def outcome(slurm: Any, pool_simulation: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """How it ended, and its events."""
    margin = 60 * LIMIT_MINUTES - WORKING_SECONDS
    monkeypatch.setenv("DASK_JOBQUEUE__SLURM_ALLOCATION__WALLTIME_MARGIN", f"{margin} s")
    root = pool_simulation()
    Path("pool.py").write_text(DRIVER)
    options = ("--exclusive", f"--time={LIMIT_MINUTES}")
    done = slurm.salloc([*IPS], nodes=4, options=options, timeout=100)
    return done, read_log(root / "simulation_log")


def pool_end(events: list[dict[str, Any]], pool: str) -> dict[str, Any]:
    (end,) = [
        event
        for event in events
        if event["eventtype"] == "IPS_TASK_POOL_END" and f"= {pool} " in event["comment"]
    ]
    return end


def late(name: str) -> str:
    return f"'{name}': TaskError('{name}', 'it cannot end before the allocation does')"


def test_pools_end_before_the_allocation_does(outcome: Any) -> None:
    done, events = outcome
    said = [line.partition(": ") for line in done.stdout.splitlines() if ": " in line]
    results = {topic: text for topic, _, text in said if topic != "record"}
    assert results["each"] == f"{{'short': 0, 'has a limit': 0, {late('too long')}, 'failing': 1}}"
    assert results["all"] == f"{{'its own': 0, {late('that of the pool')}}}"
    for pool, number in (("each", 2), ("all", 1)):
        counts = {"finished": number, "not_started": 1} | ({"failed": 1} if number > 1 else {})
        assert pool_end(events, pool)["counts"] == counts
    assert done.returncode == 0

    starts = sorted(
        event["start_time"]
        for event in events
        if event["eventtype"] == "IPS_LAUNCH_DASK_TASK" and re.match(r"t\d", event["task_name"])
    )
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    # what delays one start brings it nearer to the next
    assert len(gaps) == 5
    assert sum(gaps) / len(gaps) > 0.5

    records = {line[0]: line[1:] for line in (t.split(", ") for w, _, t in said if w == "record")}
    reason = "the allocation is about to end"
    assert sorted(records) == sorted(
        [f"short {number}" for number in range(4)] + [f"long {number}" for number in range(12)]
    )
    # which of the long ones begin is open: what waits behind one in a chunk is given to others
    ends = Counter((name.split()[0], *end) for name, end in records.items())
    assert ends == {
        ("short", "finished", ""): 4,
        ("long", "cancelled", reason): 8,
        ("long", "not_started", reason): 4,
    }

    end = pool_end(events, "stopped")
    assert (end["ok"], end["error"]) == (False, reason)
    assert end["counts"] == {"finished": 4, "cancelled": 8, "not_started": 4}
    assert results["too late"] == f"{{'t': TaskError('t', '{reason}')}}"
    # the cluster, which asks Slurm for the allocation's end, starts after it; tasks end at SIGTERM
    assert end["elapsed_time"] < WORKING_SECONDS
    (step,) = [e for e in events if e["eventtype"] == "IPS_TASK_END" and "host" not in e]
    assert step["ok"]
    assert events[-1]["eventtype"] == "IPS_END"
    assert events[-1]["ok"]


CHANGING = """
import os
import subprocess
from ipsframework import Component


class Pool(Component):
    def step(self, timestamp=0.0, **keywords):
        job = os.environ["SLURM_JOB_ID"]
        subprocess.run(["scontrol", "update", f"JobId={job}", "TimeLimit=30"], check=True)
        for use_dask in (False, True):
            name = f"dask {use_dask}"
            self.services.create_task_pool(name)
            for task, seconds in (("fits now", 600), ("too long", 3000)):
                cwd = self.services.get_working_dir()
                self.services.add_task(name, task, 1, cwd, "true", time_request=seconds)
            self.services.submit_tasks(name, use_dask=use_dask, dask_nodes=1)
            print(f"{name}: {self.services.get_finished_tasks(name)}")
"""


def test_limit_that_was_raised_since_the_start_counts(slurm: Any, pool_simulation: Any) -> None:
    pool_simulation()
    Path("pool.py").write_text(CHANGING)
    options = ("--exclusive", f"--time={LIMIT_MINUTES}")
    done = slurm.salloc([*IPS], nodes=2, options=options, timeout=100)
    said = [line for line in done.stdout.splitlines() if line.startswith("dask ")]
    assert said == [
        f"dask {use_dask}: {{'fits now': 0, {late('too long')}}}" for use_dask in (False, True)
    ]
    assert done.returncode == 0
