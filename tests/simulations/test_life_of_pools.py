"""Pools one after the other, filled again, empty, removed while they run, and with a plugin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

DRIVER = """
import os
import time
from pathlib import Path

from distributed.diagnostics.plugin import WorkerPlugin
from ipsframework import Component


class Notes(WorkerPlugin):
    def __init__(self, folder):
        self.folder = Path(folder)

    def setup(self, worker):
        (self.folder / "setup").write_text(f"{worker.name} {time.time()}")

    def teardown(self, worker):
        (self.folder / "teardown").write_text(worker.name)


class Broken(WorkerPlugin):
    def setup(self, worker):
        raise RuntimeError("no disk")


def how_fast(begin):
    seconds = time.monotonic() - begin
    return "quickly" if seconds < 2 else f"in {seconds:.1f} s"


class Driver(Component):
    def step(self, timestamp=0.0, **keywords):
        self.cwd = self.services.get_working_dir()
        for name in ("first", "second", "removed", "plugin"):
            self.services.create_task_pool(name)
        self.empty("at first")
        self.add("first", "a", "true")
        print("first:", self.go("first"))
        self.empty("later")
        self.add("second", "a", "sh", "-c", "exit 4")
        print("second:", self.go("second"))
        self.add("first", "a", "false")
        self.add("first", "b", "true")
        print("again:", self.go("first"))
        try:
            self.services.get_finished_tasks("first")
        except Exception as error:
            print("nothing:", error)
        self.remove()
        self.add("plugin", "of plugin", "true")
        try:
            self.go("plugin", dask_worker_plugin=Broken())
        except Exception as error:
            print("broken:", error)
        print("plugin:", self.go("plugin", dask_worker_plugin=Notes(self.cwd)))
        print("torn down:", os.path.exists("teardown"))
        self.add("second", "b", "true")
        print("after:", self.go("second"))

    def add(self, pool, name, *command):
        self.services.add_task(pool, name, 1, self.cwd, *command)

    def go(self, pool, **keywords):
        number = self.services.submit_tasks(pool, use_dask=True, **keywords)
        return number, self.services.get_finished_tasks(pool)

    def empty(self, when):
        try:
            self.go("first")
        except Exception as error:
            print(f"empty {when}:", error)

    def remove(self):
        self.add("removed", "long", "sh", "-c", "echo $$ > pid; exec sleep 300")
        self.services.submit_tasks("removed", use_dask=True)
        pid = Path("pid")
        while not (pid.exists() and pid.read_text()):
            time.sleep(0.02)
        begin = time.monotonic()
        self.services.remove_task_pool("removed")
        fast = how_fast(begin)
        print(f"removed: {fast}, alive: {Path('/proc', pid.read_text().strip()).exists()}")
"""


@pytest.fixture
def pools(simulation: Any, once: Callable[..., Any]) -> Any:
    """One driver's pools: the outcome, what the driver says of each, and its work directory."""

    def run() -> Any:
        outcome = simulation.write(DRIVER).run()
        assert outcome.stderr == ""
        assert outcome.code == 0
        said = dict(line.split(": ", 1) for line in outcome.stdout.splitlines()[1:])
        return outcome, said, simulation.root / "work" / "DRIVER__Driver_1"

    return once("pools", run)


def test_pools_share_one_cluster(pools: Any) -> None:
    outcome, said, _ = pools
    assert said["first"] == "(1, {'a': 0})"
    assert said["second"] == "(1, {'a': 4})"
    assert said["after"] == "(1, {'b': 0})"
    assert len(outcome.of_type("IPS_LAUNCH_TASK")) == 1
    begun, ended = (outcome.of_type(f"IPS_TASK_POOL_{what}") for what in ("BEGIN", "END"))
    assert len(begun) == len(ended) == 7


def test_a_pool_can_be_filled_again(pools: Any) -> None:
    _, said, _ = pools
    assert said["again"] == "(2, {'a': 1, 'b': 0})"
    assert said["nothing"] == "No more active tasks in task pool first"


def test_an_empty_pool_is_an_error_and_starts_nothing(pools: Any) -> None:
    outcome, said, _ = pools
    assert said["empty at first"] == "pool first has no tasks: call add_task before submit_tasks"
    assert said["empty later"] == "pool first has no tasks: call add_task before submit_tasks"
    types = [event["eventtype"] for event in outcome.events]
    assert types.index("IPS_LAUNCH_TASK") > types.index("IPS_TASK_POOL_BEGIN")


def test_removing_a_pool_ends_what_runs(pools: Any) -> None:
    outcome, said, _ = pools
    assert said["removed"] == "quickly, alive: False"
    (end,) = [e for e in outcome.of_type("IPS_TASK_END") if e["task_name"] == "long"]
    assert end["ok"] is False
    assert end["error"] == "cancelled"


def test_a_worker_plugin_lives_as_long_as_its_pool(pools: Any) -> None:
    outcome, said, work = pools
    assert said["plugin"] == "(1, {'of plugin': 0})"
    assert said["torn down"] == "True"
    worker, since = (work / "setup").read_text().split()
    launches = outcome.of_type("IPS_LAUNCH_DASK_TASK")
    (launch,) = [event for event in launches if event["task_name"] == "of plugin"]
    assert launch["worker"] == worker == (work / "teardown").read_text()
    assert float(since) <= launch["start_time"]


def test_a_pool_that_could_not_start_keeps_its_tasks(pools: Any) -> None:
    outcome, said, _ = pools
    assert said["broken"] == "no disk"
    assert said["plugin"] == "(1, {'of plugin': 0})"
    troubles = [e["error"] for e in outcome.of_type("IPS_TASK_POOL_END") if not e["ok"]]
    assert sorted(troubles) == ["RuntimeError: no disk", "cancelled"]


def test_pools_of_one_name_in_two_components_are_two(simulation: Any) -> None:
    begin = """
    services.create_task_pool("pool")
    services.add_task("pool", "t", 1, cwd, "sh", "-c", "touch begun; sleep {seconds}; exit 7")
    services.submit_tasks("pool", use_dask=True, dask_ppw=2)
    while not os.path.exists("begun"):
        time.sleep(0.02)
    """
    wait = "    print(services.get_finished_tasks('pool'))\n"
    leave = """
    worker = services.get_port("WORKER")
    other = services.call_nonblocking(worker, "step", 0.0)
    while not os.path.exists("../WORKERS__Worker_2/begun"):
        time.sleep(0.02)
    services.remove_task_pool("pool")
    services.wait_call(other)
    """
    outcome = simulation.write(
        driver=begin.format(seconds=300) + leave, worker=begin.format(seconds=1) + wait
    ).run()
    assert outcome.stderr == ""
    assert outcome.stdout.splitlines()[1:] == ["{'t': 7}"]
    assert len(outcome.of_type("IPS_LAUNCH_TASK")) == 1
    for code, error in (("DRIVER__Driver_1", "cancelled"), ("WORKERS__Worker_2", "exit code 7")):
        tasks = [event for event in outcome.events if event["code"] == code and "host" in event]
        assert [event["eventtype"] for event in tasks] == ["IPS_LAUNCH_DASK_TASK", "IPS_TASK_END"]
        assert tasks[1]["error"] == error
