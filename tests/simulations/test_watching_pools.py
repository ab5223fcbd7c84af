"""Pools that are looked at while they run, and pools whose tasks come from iterables."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import pty
import statistics
import struct
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

DRIVER = """
import itertools
import os
import time

from ips_core import Component, Task
from ips_core.pools import results

results._CROWD = 500


def nothing(number):
    return number


def fail(number):
    raise ValueError(number)


class Driver(Component):
    def step(self, timestamp=0.0, **keywords):
        self.cwd = self.services.get_working_dir()
        self.pulled = 0
        for name in "looked_at slow_consumer raises no_task many_failures removed figures".split():
            self.services.create_task_pool(name)
            getattr(self, name)(name)

    def add(self, pool, name, *work, **keywords):
        self.services.add_task(pool, name, 1, self.cwd, *work, **keywords)

    def submit(self, pool, **keywords):
        self.services.submit_tasks(pool, use_dask=True, dask_ppw=4, **keywords)

    def looked_at(self, pool):
        for name in ("long a", "short a", "long b", "short b"):
            wait = "until test -e go; do sleep 0.05; done" if "long" in name else "exit 5"
            self.add(pool, name, "sh", "-c", wait)
        self.submit(pool)
        ending = self.services.iter_finished_tasks(pool)
        print("first:", sorted(next(ending).name for _ in range(2)))
        print("by now:", self.services.get_finished_tasks(pool, block=False))
        open("go", "w").close()
        print("then:", sorted(record.name for record in ending))
        print("all:", self.services.get_finished_tasks(pool, block=False))

    def tasks(self, count=None, function=nothing):
        for number in itertools.count() if count is None else range(count):
            self.pulled += 1
            yield Task(f"t{number}", 1, self.cwd, function, number)

    def slow_consumer(self, pool):
        self.services.add_tasks(pool, self.tasks(5000), keep_results=False)
        self.submit(pool)
        ending = self.services.iter_finished_tasks(pool)
        seen = {next(ending).value}
        before, since = -1, time.monotonic()
        while time.monotonic() - since < 2:
            if before != self.pulled:
                before, since = self.pulled, time.monotonic()
            time.sleep(0.02)
        print("pulled:", self.pulled)
        seen |= {record.value for record in ending}
        print("seen:", seen == set(range(5000)))
        print("kept:", self.services.get_finished_tasks(pool))

    def outcome(self, pool):
        try:
            return self.services.get_finished_tasks(pool)
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def raises(self, pool):
        def tasks():
            yield Task("good", 1, self.cwd, nothing, 7)
            raise OSError("no such list")

        self.services.add_tasks(pool, tasks())
        self.submit(pool)
        print("raises:", self.outcome(pool))
        print("and yet:", {r.name: r.value for r in self.services.get_task_records(pool).values()})

    def no_task(self, pool):
        self.services.add_tasks(pool, [Task("good", 1, self.cwd, nothing, 8), "true"])
        self.submit(pool)
        print("no task:", self.outcome(pool))

    def many_failures(self, pool):
        self.services.add_tasks(pool, self.tasks(function=fail), keep_results=False)
        self.submit(pool, max_failures=20)
        print("many failures:", self.outcome(pool))

    def removed(self, pool):
        self.services.add_tasks(pool, self.tasks(), keep_results=False)
        self.submit(pool)
        ending = self.services.iter_finished_tasks(pool)
        next(ending)
        self.services.remove_task_pool(pool)
        self.pulled = 0
        print("removed:", set(record.status for record in ending) <= {
            "finished", "cancelled", "not_started"})
        print("pulled after that:", self.pulled)

    def figures(self, pool):
        for number in range(8):
            self.add(pool, f"figure {number}", "sleep", f"0.{number}")
        self.add(pool, "figure that fails", "sh", "-c", "sleep 0.3; exit 2", retry_failed=2)
        self.add(pool, "figure that is late", "sleep", "60", timeout=0.4)
        self.submit(pool)
        print("figures:", len(self.outcome(pool)))
"""


@pytest.fixture
def pools(simulation: Any, once: Callable[..., Any]) -> Any:
    """One driver's pools: the outcome, and what the driver says of each."""

    def run() -> Any:
        outcome = simulation.write(DRIVER).run()
        assert (outcome.code, outcome.stderr) == (0, "")  # so there is no bar in a pipe
        return outcome, dict(line.split(": ", 1) for line in outcome.stdout.splitlines()[1:])

    return once("pools", run)


def pool_end(outcome: Any, pool: str) -> dict[str, Any]:
    ends = outcome.of_type("IPS_TASK_POOL_END")
    (end,) = [end for end in ends if end["comment"].startswith(f"task_pool = {pool} ")]
    return end


def test_results_so_far_and_an_iterator(pools: Any) -> None:
    _, said = pools
    assert said["first"] == "['short a', 'short b']"
    assert said["by now"] == "{'short a': 5, 'short b': 5}"
    assert said["then"] == "['long a', 'long b']"
    assert said["all"] == "{'long a': 0, 'short a': 5, 'long b': 0, 'short b': 5}"


def test_a_slow_consumer_holds_the_pool_up(pools: Any) -> None:
    outcome, said = pools
    assert 500 <= int(said["pulled"]) < 4000
    assert said["seen"] == "True"
    assert said["kept"] == "{}"
    assert pool_end(outcome, "slow_consumer")["counts"] == {"finished": 5000}


def test_an_iterable_that_breaks_off_costs_no_result(pools: Any) -> None:
    outcome, said = pools
    assert said["raises"] == "TaskPoolError: its tasks ended early: OSError: no such list"
    assert said["and yet"] == "{'good': 7}"
    assert (
        said["no task"]
        == "TaskPoolError: its tasks ended early: TypeError: expected a Task, found 'true'"
    )
    for pool in ("raises", "no_task"):
        end = pool_end(outcome, pool)
        assert (end["ok"], end["counts"]) == (False, {"finished": 1})
        assert end["error"].startswith("its tasks ended early: ")


def test_an_endless_iterable_ends_with_its_pool(pools: Any) -> None:
    outcome, said = pools
    assert said["many failures"] == "{}"
    end = pool_end(outcome, "many_failures")
    assert end["error"] == "stopped after 21 failed tasks (max_failures = 20)"
    assert end["counts"]["failed"] > 20
    assert said["removed"] == "True"
    assert said["pulled after that"] == "0"
    assert pool_end(outcome, "removed")["error"] == "cancelled"


def test_figures_of_a_pool_are_those_of_its_tasks(pools: Any) -> None:
    outcome, said = pools
    assert said["figures"] == "10"
    end = pool_end(outcome, "figures")
    tasks = [
        event
        for event in outcome.of_type("IPS_TASK_END")
        if event["task_name"].startswith("figure ")
    ]
    last = {event["task_name"]: event for event in tasks}
    assert end["tasks"] == len(last) == 10
    assert end["counts"] == Counter(event["status"] for event in last.values())
    assert end["counts"] == {"finished": 8, "failed": 1, "timed_out": 1}
    assert (end["resumed"], end["attempts"], len(tasks)) == (0, 12, 12)
    times = {name: event["elapsed_time"] for name, event in last.items()}
    assert end["elapsed_min"] == min(times.values())
    assert end["elapsed_max"] == max(times.values())
    assert math.isclose(end["elapsed_mean"], statistics.mean(times.values()))
    assert math.isclose(end["elapsed_sd"], statistics.stdev(times.values()))
    slowest = sorted(times.items(), key=lambda item: -item[1])[:5]
    assert end["slowest"] == [list(item) for item in slowest]
    used = sum(event["elapsed_time"] for event in tasks) / 3600
    assert math.isclose(end["core_hours_used"], used)
    assert math.isclose(end["core_hours_available"], 4 * end["elapsed_time"] / 3600)
    assert end["core_hours_used"] <= end["core_hours_available"]
    assert "pool figures: 10 tasks, 8 finished, 1 failed, 1 timed out; " in outcome.log


def test_a_bar_on_a_terminal(simulation: Any) -> None:
    simulation.write(
        """
        services.create_task_pool("seen")
        for number in range(3):
            services.add_task("seen", f"t{number}", 1, cwd, "sh", "-c", f"exit {number}")
        services.submit_tasks("seen", use_dask=True, dask_ppw=2)
        services.get_finished_tasks("seen")
        """
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "ips_core", "--config", "sim.config"],
        cwd=simulation.folder,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    drawn = b""
    with open(ours, "rb", buffering=0) as terminal, contextlib.suppress(OSError):  # EIO: all left
        while piece := terminal.read(4096):
            drawn += piece
    assert process.wait(30) == 0
    assert drawn.endswith(b"\n")
    last = drawn.decode().rstrip().rpartition("\r")[2]
    assert last.startswith("pool seen: 100%|")
    assert " 3/3 [" in last
    assert "failed=2" in last
