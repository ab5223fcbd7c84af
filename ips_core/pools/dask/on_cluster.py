"""Code shipped to Dask: the task entry point and the run-once scheduler plugin.

All of it travels by value, since workers and the scheduler need not have this package.
"""

from __future__ import annotations

import contextlib
from typing import Any

import cloudpickle

from ips_dask_cluster.by_value import ByValue

__all__ = [
    "ask_workers",
    "dask_name",
    "plugins",
    "release_function",
    "runner_function",
    "slot_holder",
    "task_function",
]

_REMEMBERED = 100_000  # Keys that the scheduler has forgotten and FirstCome still knows.


def plugins(journal_directory: str, processes: int = 1) -> list[Any]:
    """Return the worker and scheduler plugins that a cluster needs for pools.

    ``journal_directory`` must be visible on all nodes; ``processes`` is the number of workers on
    each node.
    """
    return [_on_worker().TaskRunner(journal_directory, processes), _first_come_plugin()]


def _on_worker() -> Any:
    """Return the module that runs on workers, registered so that all of it travels by value."""
    from ips_core.pools.dask import on_worker
    from ips_core.tasks import runner

    for module in (*runner.BY_VALUE, on_worker):
        cloudpickle.register_pickle_by_value(module)
    return on_worker


def _first_come_plugin() -> Any:
    from distributed.diagnostics.plugin import SchedulerPlugin

    remembered = _REMEMBERED

    class FirstCome(SchedulerPlugin):  # type: ignore[misc]  # A local class travels by value.
        """Let each key run only once.

        When a worker dies with the result of a task that has ended, Dask runs the task again as
        long as a client holds its future, whatever ``allowed-failures`` says.
        """

        name = "ips-first-come"
        idempotent = True

        async def start(self, scheduler: Any) -> None:
            from collections import deque

            self.begun: set[str] = set()
            self.forgotten: deque[str] = deque()
            self.scheduler = scheduler
            scheduler.handlers["ips_begin_task"] = self.begin

        def begin(self, key: str, topic: str, news: dict[str, Any]) -> bool:
            if key in self.begun:
                return False
            self.begun.add(key)
            if news:
                self.scheduler.log_event(topic, news)
            return True

        def transition(self, key: Any, start: Any, finish: Any, *args: Any, **kwargs: Any) -> None:
            if finish == "forgotten":
                # Not removed at once: a worker may be about to run it.
                self.forgotten.append(key)
                if len(self.forgotten) > remembered:
                    self.begun.discard(self.forgotten.popleft())

    return FirstCome()


def dask_name(name: object) -> str:
    """Return the name of a task for Dask: in ASCII, since a name from a file may have any bytes."""
    return str(name).encode("ascii", "replace").decode()


def task_function() -> Any:
    """Return the entry point of a Dask task: ``run_tasks(key, first, topic, run, payloads)``.

    It returns nothing: records travel as events, which reach the pool before Dask reports the end
    of the Dask task, and in the worker's journal.
    """

    # Short, since the scheduler pickles it again for each Dask task.
    def run_tasks(key: str, first: str, topic: str, run: str, payloads: bytes) -> None:
        from distributed import get_worker

        get_worker().plugins["ips-task-runner"].work_off(key, first, topic, run, payloads)

    return ByValue(run_tasks)


def ask_workers(client: Any, function: Any, argument: Any, seconds: float) -> dict[str, Any]:
    """Call a function of this module with an argument on every worker, beside its running tasks.

    Return the answers by worker address: without workers that take longer than ``seconds``, and
    empty if the cluster is lost.
    """
    with contextlib.suppress(Exception):
        answers: dict[str, Any] = client.sync(
            client._run, function, argument, on_error="ignore", callback_timeout=seconds
        )
        return answers
    return {}


def runner_function(method: str) -> Any:
    """Return a function that calls ``cancel`` or ``hold`` of a worker's runner for a run."""

    def call(run: str, dask_worker: Any = None) -> Any:
        return getattr(dask_worker.plugins["ips-task-runner"].runner, method)(run)

    return ByValue(call)


def slot_holder() -> Any:
    """Return the function of a Dask task that holds slots: ``hold(key, topic, run)``."""

    def hold(key: str, topic: str, run: str) -> None:
        from distributed import get_worker

        get_worker().plugins["ips-task-runner"].hold_slots(key, topic, run)

    return ByValue(hold)


def release_function() -> Any:
    """Return a function that releases the slots held on a worker; it takes keys by worker name."""

    def release(keys: dict[str, str], dask_worker: Any = None) -> None:
        name = str(dask_worker.name)
        if name in keys:
            dask_worker.plugins["ips-task-runner"].release_slots(keys[name])

    return ByValue(release)
