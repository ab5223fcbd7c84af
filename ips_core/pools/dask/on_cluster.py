"""What of a pool runs on the Dask cluster: the runner on workers, who was first on the scheduler.

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

_REMEMBERED = 100_000  # keys that the scheduler has forgotten and FirstCome has not


def plugins(journal_directory: str, processes: int = 1) -> list[Any]:
    """Return the plugins that a cluster needs for pools, for its workers and for its scheduler.

    Parameters
    ----------
    journal_directory : str
        Where workers note what they have begun and what has ended; seen by all nodes.
    processes : int
        Workers on each node.
    """
    return [_on_worker().TaskRunner(journal_directory, processes), _first_come_plugin()]


def _on_worker() -> Any:
    """Return the module of what runs on workers, where all of it arrives by value."""
    from ips_core.pools.dask import on_worker
    from ips_core.tasks import runner

    for module in (*runner.BY_VALUE, on_worker):
        cloudpickle.register_pickle_by_value(module)
    return on_worker


def _first_come_plugin() -> Any:
    from distributed.diagnostics.plugin import SchedulerPlugin

    remembered = _REMEMBERED

    class FirstCome(SchedulerPlugin):  # type: ignore[misc]  # local, so that it travels by value
        """Lets each key be run once.

        When a worker dies with the result of a task that has ended, Dask runs the task again as
        long as anybody holds its future, whatever ``allowed-failures`` says.
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
                # not at once: a worker may be about to run it
                self.forgotten.append(key)
                if len(self.forgotten) > remembered:
                    self.begun.discard(self.forgotten.popleft())

    return FirstCome()


def dask_name(name: object) -> str:
    """Return what Dask calls a task: any bytes may be in a name that comes from a file."""
    return str(name).encode("ascii", "replace").decode()


def task_function() -> Any:
    """Return the function that is a Dask task: ``run_tasks(key, first, topic, run, payloads)``.

    It returns nothing: records go the way of events, which reach the pool before Dask says that
    the Dask task has ended, and into the worker's journal.
    """

    # Short: the scheduler pickles it anew for each Dask task
    def run_tasks(key: str, first: str, topic: str, run: str, payloads: bytes) -> None:
        from distributed import get_worker

        get_worker().plugins["ips-task-runner"].work_off(key, first, topic, run, payloads)

    return ByValue(run_tasks)


def ask_workers(client: Any, function: Any, argument: Any, seconds: float) -> dict[str, Any]:
    """Call a function with an argument on every worker, beside what runs there.

    Parameters
    ----------
    client : distributed.Client
        Connected to the cluster.
    function : callable
        Of this module, such as :func:`runner_function`.
    argument : object
        Its argument.
    seconds : float
        A worker that does not answer is waited for so long.

    Returns
    -------
    dict
        What it returned, by the address of the worker; empty if the cluster is lost.
    """
    with contextlib.suppress(Exception):
        answers: dict[str, Any] = client.sync(
            client._run, function, argument, on_error="ignore", callback_timeout=seconds
        )
        return answers
    return {}


def runner_function(method: str) -> Any:
    """Return a function that calls a method of a worker's runner with a run's name.

    Parameters
    ----------
    method : {"cancel", "hold"}
        As of ``tasks.runner.Runner``.
    """

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
    """Return a function that lets go, on a worker, of what is held there: keys by worker."""

    def release(keys: dict[str, str], dask_worker: Any = None) -> None:
        name = str(dask_worker.name)
        if name in keys:
            dask_worker.plugins["ips-task-runner"].release_slots(keys[name])

    return ByValue(release)
