"""What of a pool runs on the Dask cluster: the runner on workers, who was first on the scheduler.

All of it travels by value, since workers and the scheduler need not have this package.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cloudpickle

__all__ = ["START_TOPIC", "cancel_function", "plugins", "task_function"]

START_TOPIC = "ips-task-start"
_REMEMBERED = 100_000  # keys that the scheduler has forgotten and FirstCome has not


class _ByValue:
    """A callable that arrives on workers by value.

    ``Client.submit`` pickles a function of an importable module by reference, also when the
    module is registered for pickling by value (distributed #8607).
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._pickled = cloudpickle.dumps(function)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[bytes]]:
        return cloudpickle.loads, (self._pickled,)

    def __call__(self, *args: Any) -> Any:
        return cloudpickle.loads(self._pickled)(*args)


def plugins(journal_directory: str) -> list[Any]:
    """Return the plugins that a cluster needs for pools, for its workers and for its scheduler.

    Parameters
    ----------
    journal_directory : str
        Where workers note what they have begun and what has ended; seen by all nodes.
    """
    return [_runner_plugin(journal_directory), _first_come_plugin()]


def _runner_plugin(journal_directory: str) -> Any:
    from distributed.diagnostics.plugin import WorkerPlugin

    from ips_core import task_runner

    for module in task_runner.BY_VALUE:
        cloudpickle.register_pickle_by_value(module)
    runner_class, journal_class = task_runner.Runner, task_runner.Journal
    install_output = task_runner.install_output

    class TaskRunner(WorkerPlugin):  # type: ignore[misc]  # local, so that it travels by value
        name = "ips-task-runner"
        idempotent = True

        async def setup(self, worker: Any) -> None:
            # What a callable prints is seen while it runs, and so are its warnings: as for
            # programs, stderr joins stdout. Dask's own logging keeps the worker's.
            install_output()
            self.runner = runner_class(str(worker.name), worker.state.nthreads)
            self.journal = journal_class(journal_directory, str(worker.name))
            # Every task takes slots, so that tasks of several can never overbook a node. The worker
            # has them from the start; here only in case it was given another number of threads.
            await worker.set_resources(slot=worker.state.nthreads)

        def teardown(self, worker: Any) -> None:
            self.runner.cancel()

    return TaskRunner()


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

        def begin(self, key: str, topic: str, record: bytes) -> bool:
            if key in self.begun:
                return False
            self.begun.add(key)
            self.scheduler.log_event(topic, {"key": key, "record": record})
            return True

        def transition(self, key: Any, start: Any, finish: Any, *args: Any, **kwargs: Any) -> None:
            if finish == "forgotten":
                # not at once: a worker may be about to run it
                self.forgotten.append(key)
                if len(self.forgotten) > remembered:
                    self.begun.discard(self.forgotten.popleft())

    return FirstCome()


def task_function() -> Any:
    """Return the function that is a Dask task: ``run_task(key, end_topic, payload)``.

    It returns nothing: the record goes the way of events, which reaches the pool before Dask says
    that the task has ended, and into the worker's journal.
    """

    def run_task(key: str, end_topic: str, payload: bytes) -> None:
        import traceback

        import cloudpickle
        from distributed import get_worker
        from distributed.utils import sync

        worker = get_worker()
        plugin = worker.plugins["ips-task-runner"]
        first = True

        def begin(begun: dict[str, Any]) -> bool:
            nonlocal first
            # pickled: an odd name would break the worker's connection, which knows only UTF-8
            record = cloudpickle.dumps(begun)
            plugin.journal.begun(key, record)
            try:
                first = sync(
                    worker.loop,
                    worker.scheduler.ips_begin_task,
                    key=key,
                    topic="ips-task-start",
                    record=record,
                )
            except Exception:  # no scheduler any more, so that this worker ends, too
                first = False
            return first

        record = plugin.runner.run(cloudpickle.loads(payload), begin)
        if not first:
            return
        try:
            text = cloudpickle.dumps(record)
        except Exception as error:
            lost = {
                "status": "failed",
                "exit_status": 1,
                "value": None,
                "error": f"its result cannot be pickled: {error}",
                "traceback": traceback.format_exc(),
            }
            text = cloudpickle.dumps(record | lost)
        worker.log_event(end_topic, {"key": key, **plugin.journal.ended(key, text)})

    return _ByValue(run_task)


def cancel_function() -> Any:
    """Return the function that ends what a pool runs on a worker: ``cancel(pool, dask_worker)``."""

    def cancel(pool: str, dask_worker: Any = None) -> list[dict[str, Any]]:
        return dask_worker.plugins["ips-task-runner"].runner.cancel(pool)

    return _ByValue(cancel)
