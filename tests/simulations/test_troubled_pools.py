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


def test_pools_end_when_the_keeper_of_the_clusters_dies(simulation: Any) -> None:
    outcome = simulation.write(
        """
        services.create_task_pool("pool")
        for number in range(6):
            services.add_task("pool", f"t{number}", 1, cwd, "sh", "-c", "touch begun; sleep 300")
        services.submit_tasks("pool", use_dask=True, dask_ppw=2)
        while not os.path.exists("begun"):
            time.sleep(0.02)
        for process in os.listdir("/proc"):
            if process.isdigit():
                try:
                    with open(f"/proc/{process}/stat") as file:
                        parent = int(file.read().rpartition(")")[2].split()[1])
                    with open(f"/proc/{process}/cmdline") as file:
                        ours = "component_process" in file.read()
                except OSError:
                    continue
                if ours and parent == os.getppid() and int(process) != os.getpid():
                    os.kill(int(process), signal.SIGKILL)
        results = services.get_finished_tasks("pool")
        print(sorted(results), {type(value).__name__ for value in results.values()})
        print(results["t5"])
        """
    ).run()
    names, reason = outcome.stdout.splitlines()[1:]
    assert names == "['t0', 't1', 't2', 't3', 't4', 't5'] {'TaskError'}"
    assert "the keeper of the cluster: its process was killed by signal 9" in reason
    launched = [event["task_name"] for event in outcome.of_type("IPS_LAUNCH_DASK_TASK")]
    assert set(launched) <= {"t0", "t1", "t2", "t3"}


def test_odd_calls_and_names_are_told(simulation: Any) -> None:
    outcome = simulation.write(
        """
        try:
            services.call(self.component_id, "step", 0.0)
        except Exception as error:
            print(error)
        services.create_task_pool("pool")
        odd = os.fsdecode(b"odd\\xe9.dat")
        services.add_task("pool", odd, 1, cwd, "touch", odd)
        services.add_task("pool", "fine", 1, cwd, "true")
        services.submit_tasks("pool", use_dask=True)

        def alarm(number, frame):
            raise InterruptedError

        signal.signal(signal.SIGALRM, alarm)
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        try:
            services.get_finished_tasks("pool")
        except InterruptedError:
            pass
        print(list(services.get_finished_tasks("pool").values()), os.path.exists(odd))
        """
    ).run()
    assert outcome.stderr == ""
    called, results = outcome.stdout.splitlines()[1:]
    assert called.startswith(
        "DRIVER__Driver_1 cannot wait for its own step, which would begin only"
    )
    assert results == "[0, 0] True"


def test_a_function_that_never_ends_does_not_keep_the_next_pool_waiting(simulation: Any) -> None:
    """It cannot be ended, so its cluster is nobody else's, and is closed."""
    outcome = simulation.write(
        """
        import threading

        def hang():
            open(f"{cwd}/begun", "w").close()
            threading.Event().wait()

        services.create_task_pool("endless")
        services.add_task("endless", "hang", 1, cwd, hang)
        services.submit_tasks("endless", use_dask=True, dask_ppw=1)
        while not os.path.exists("begun"):
            time.sleep(0.02)
        services.remove_task_pool("endless")
        services.create_task_pool("next")
        services.add_task("next", "short", 1, cwd, "true")
        services.submit_tasks("next", use_dask=True, dask_ppw=1)
        print(services.get_finished_tasks("next"))
        """
    ).run()
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.splitlines()[1:] == ["{'short': 0}"]
    assert len(outcome.of_type("IPS_LAUNCH_TASK")) == 2
