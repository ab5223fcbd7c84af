"""Pools with trouble of their own: it is told, and costs nobody else anything."""

from __future__ import annotations

from typing import Any

WORKER_PLUGIN = """
from distributed.diagnostics.plugin import WorkerPlugin
from ipsframework import Component


class Untidy(WorkerPlugin):
    def teardown(self, worker):
        raise OSError("the disk is full")


class Loud(WorkerPlugin):
    def __init__(self, path):
        self.path = path

    def teardown(self, worker):
        open(self.path, "w").close()
"""


def test_the_next_pool_has_the_slots_of_a_removed_one(simulation: Any) -> None:
    """Also those of its tasks that waited on the worker, and would start next."""
    outcome = simulation.write(
        """
        services.create_task_pool("long")
        for name in ("first", "second", "third"):
            services.add_task("long", name, 1, cwd, "sh", "-c", f"touch {name}; exec sleep 300")
        services.submit_tasks("long", use_dask=True, dask_ppw=1)
        while not os.path.exists("first"):
            time.sleep(0.02)
        services.remove_task_pool("long")
        services.create_task_pool("next")
        services.add_task("next", "short", 1, cwd, "true")
        services.submit_tasks("next", use_dask=True, dask_ppw=1)
        print(services.get_finished_tasks("next"), os.path.exists("second"))
        """
    ).run()
    assert outcome.stdout.splitlines()[1:] == ["{'short': 0} False"]
    launched = [event["task_name"] for event in outcome.of_type("IPS_LAUNCH_DASK_TASK")]
    assert launched == ["first", "short"]


def test_trouble_costs_no_result(simulation: Any) -> None:
    outcome = simulation.write(
        WORKER_PLUGIN
        + """

def complain():
    import sys

    print("a warning", file=sys.stderr)
    return 1


class Unreadable:
    def __reduce__(self):
        return int, ("no number",)


class Driver(Component):
    def step(self, timestamp=0.0, **keywords):
        services, cwd = self.services, self.services.get_working_dir()
        services.create_task_pool("pool")
        services.add_task("pool", "fine", 1, cwd, complain)
        services.add_task("pool", "unreadable", 1, cwd, Unreadable)
        services.submit_tasks("pool", use_dask=True, dask_worker_plugin=Untidy())
        print(services.get_finished_tasks("pool"))

        services.create_task_pool("removed")
        services.add_task("removed", "nap", 1, cwd, "sleep", 300)
        services.submit_tasks("removed", use_dask=True, dask_worker_plugin=Loud(cwd + "/torn"))
        services.remove_task_pool("removed")
        import os

        print("torn down:", os.path.exists("torn"))
"""
    ).run()
    assert (outcome.code, outcome.stderr) == (0, "")
    warning, results, torn = outcome.stdout.splitlines()[1:]
    assert warning == "a warning"
    assert results.startswith("{'fine': 1, 'unreadable': TaskError('unreadable', ")
    assert "its result cannot be read here: ValueError: " in results
    assert torn == "torn down: True"
    first = outcome.of_type("IPS_TASK_POOL_END")[0]
    assert first["ok"] is False
    assert first["error"] == "tearing down the worker plugin failed: OSError: the disk is full"
    assert first["error"] in outcome.log


def test_a_driver_that_does_not_wait_is_told_what_became_of_its_tasks(simulation: Any) -> None:
    outcome = simulation.write(
        """
        services.create_task_pool("pool")
        services.add_task("pool", "nap", 1, cwd, "sleep", 300)
        services.submit_tasks("pool", use_dask=True)
        """
    ).run()
    assert outcome.code == 0
    (said,) = outcome.stderr.splitlines()
    assert said.startswith(
        "ips.py: DRIVER__Driver_1: the simulation ended while 1 task pool(s) were"
    )
    assert "get_finished_tasks" in said
