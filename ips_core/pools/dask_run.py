"""Works off the tasks of a pool on a Dask cluster.

A thread of the component's process keeps a bounded number of Dask tasks in flight, takes results
as they come, and reports every start and end. A task's own failure is part of its record; Dask
errors mean that a worker or the cluster was lost.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cloudpickle

from ips_core.errors import TaskError, describe
from ips_core.pools.task import Task

__all__ = ["START_TOPIC", "DaskRun", "PoolReport", "runner_plugin"]

START_TOPIC = "ips-task-start"
_RETRIES_OF_LOST_WORKERS = 2
_CANCEL_SECONDS = 10
_FAILED = {"status": "failed", "exit_status": 1}
_WINDOW = 2  # Dask tasks in flight for each thread of the cluster


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


def runner_plugin() -> Any:
    """Return the worker plugin that carries ``task_runner.Runner`` to a cluster's workers."""
    from distributed.diagnostics.plugin import WorkerPlugin

    from ips_core import task_runner

    cloudpickle.register_pickle_by_value(task_runner)
    runner_class = task_runner.Runner

    class TaskRunner(WorkerPlugin):  # type: ignore[misc]  # local, so that it travels by value
        name = "ips-task-runner"
        idempotent = True

        async def setup(self, worker: Any) -> None:
            import sys

            # What a callable prints is seen while it runs, and so are its warnings: as for
            # programs, stderr joins stdout. Dask's own logging keeps the worker's.
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
            sys.stderr = sys.stdout
            self.runner = runner_class(str(worker.name))
            # every task takes slots, so that tasks of several slots can never overbook a node
            await worker.set_resources(slot=worker.state.nthreads)

        def teardown(self, worker: Any) -> None:
            self.runner.cancel()

    return TaskRunner()


def _make_stub() -> _ByValue:
    def run_task(payload: bytes) -> bytes:
        import traceback

        import cloudpickle
        from distributed import get_worker

        worker = get_worker()
        runner = worker.plugins["ips-task-runner"].runner
        record = runner.run(
            cloudpickle.loads(payload),
            # pickled: an odd name would break the worker's connection, which knows only UTF-8
            lambda begun: worker.log_event("ips-task-start", {"record": cloudpickle.dumps(begun)}),
        )
        try:
            return cloudpickle.dumps(record)
        except Exception as error:
            lost = {
                "status": "failed",
                "exit_status": 1,
                "value": None,
                "error": f"its result cannot be pickled: {error}",
                "traceback": traceback.format_exc(),
            }
            return cloudpickle.dumps(record | lost)

    return _ByValue(run_task)


def _make_canceller() -> _ByValue:
    def cancel(pool: str, dask_worker: Any = None) -> list[dict[str, Any]]:
        return dask_worker.plugins["ips-task-runner"].runner.cancel(pool)

    return _ByValue(cancel)


@dataclass
class _Attempt:
    """A task on its way."""

    task: Task
    number: int = 1
    begun: dict[str, Any] | None = None


@dataclass(frozen=True)
class _News:
    """What the run's thread is told: a start, an end, or that the cluster is lost."""

    kind: str
    body: Any = None


@dataclass
class PoolReport:
    """Where a run tells what happens; each is called in the run's thread.

    Parameters
    ----------
    started : callable
        ``started(task, record)``.
    ended : callable
        ``ended(task, record)``.
    finished : callable
        ``finished(trouble)`` once, when all have ended and plugins are torn down; trouble is a
        sentence about the run itself, or empty.
    """

    started: Callable[[Task, dict[str, Any]], None]
    ended: Callable[[Task, dict[str, Any]], None]
    finished: Callable[[str], None]


class DaskRun:
    """A submission of tasks to a Dask cluster.

    Parameters
    ----------
    pool : str
        Name of the pool.
    tasks : list of Task
        What to run.
    client : distributed.Client
        Connected to the cluster.
    slots : int
        Threads of the whole cluster.
    report : PoolReport
        Hears of starts and ends.
    plugin : WorkerPlugin or None
        Lives on every worker for as long as the run.
    """

    def __init__(
        self,
        pool: str,
        tasks: list[Task],
        client: Any,
        slots: int,
        report: PoolReport,
        plugin: Any = None,
    ) -> None:
        self._pool = pool
        self._tasks = tasks
        self._client = client
        self._window = max(1, slots * _WINDOW)
        self._report = report
        self._plugin = plugin
        self._news: queue.SimpleQueue[_News] = queue.SimpleQueue()
        self._results: dict[str, Any] = {}
        self._error: BaseException | None = None
        self._in_flight: dict[Any, _Attempt] = {}
        self._running: dict[str, _Attempt] = {}
        self._stopped = ""
        self._stub = _make_stub()
        self._cluster_lost = False
        # Waited for instead of the thread: after a join that a signal has interrupted, Python takes
        # the thread for ended (bpo-45274)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"ips-pool-{pool}", daemon=True)

    def start(self) -> None:
        """Register the plugin and begin.

        Raises
        ------
        Exception
            Whatever the plugin's ``setup`` raised on a worker.
        """
        if self._plugin is not None:
            try:
                self._client.register_plugin(self._plugin, name=self._pool)
            except BaseException:
                with contextlib.suppress(Exception):
                    self._client.unregister_worker_plugin(self._pool)
                raise
        self._thread.start()

    def ended(self) -> bool:
        """Tell whether all tasks have ended."""
        return self._ended.is_set()

    def results(self) -> dict[str, Any]:
        """Wait until all tasks have ended; return exit codes and values by name, as added."""
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return {task.name: self._results[task.name] for task in self._tasks}

    def cancel(self) -> None:
        """End what runs; start nothing more; wait until that is so."""
        self._news.put(_News("cancel"))
        self._ended.wait()

    def lose_cluster(self, reason: str) -> None:
        """Tell the run that its cluster is lost."""
        self._news.put(_News("lost", reason))

    def hear_start(self, record: dict[str, Any]) -> None:
        """Tell the run that a task has started."""
        if record["pool"] == self._pool:
            self._news.put(_News("started", record))

    # -- the run's thread --------------------------------------------------------------------

    def _run(self) -> None:
        try:
            waiting = iter([_Attempt(task) for task in self._tasks])
            self._fill(waiting)
            while self._in_flight:
                self._take(self._news.get())
                self._fill(waiting)
        except BaseException as error:
            self._error = error
        finally:
            self._end()

    def _end(self) -> None:
        trouble = self._stopped
        try:
            if self._plugin is not None and not self._cluster_lost:
                self._client.unregister_worker_plugin(self._pool)
        except BaseException as error:  # costs no result
            trouble = f"tearing down the worker plugin failed: {describe(error)}"
        try:
            self._report.finished(trouble)
        finally:
            self._ended.set()

    def _fill(self, waiting: Iterator[_Attempt]) -> None:
        while len(self._in_flight) < self._window:
            attempt = next(waiting, None)
            if attempt is None:
                return
            if self._stopped:
                self._finish(attempt, self._failed(attempt, self._stopped))
            else:
                self._submit(attempt)

    def _submit(self, attempt: _Attempt) -> None:
        try:
            payload = cloudpickle.dumps(attempt.task.payload(self._pool))
        except Exception as error:
            text = f"it cannot be sent to a worker: {type(error).__name__}: {error}"
            self._finish(attempt, self._failed(attempt, text) | _FAILED)
            return
        future = self._client.submit(
            self._stub,
            payload,
            # any bytes may be in a name that comes from a file
            key=f"{attempt.task.name.encode('ascii', 'replace').decode()}-{uuid.uuid4().hex}",
            pure=False,
            resources={"slot": 1},
        )
        self._in_flight[future] = attempt
        self._running[attempt.task.name] = attempt
        future.add_done_callback(lambda done: self._news.put(_News("ended", done)))

    def _take(self, news: _News) -> None:
        if news.kind == "started":
            attempt = self._running.get(news.body["name"])
            if attempt is not None:
                self._launch(attempt, news.body)
        elif news.kind == "ended":
            attempt = self._in_flight.pop(news.body, None)
            if attempt is not None:
                self._end_attempt(attempt, news.body)
        elif not self._stopped:
            self._stop("cancelled" if news.kind == "cancel" else news.body, news.kind == "cancel")

    def _end_attempt(self, attempt: _Attempt, future: Any) -> None:
        if future.status == "finished":
            self._finish(attempt, self._read(attempt, future))
            return
        error = future.exception() if future.status == "error" else None
        if type(error).__name__ == "KilledWorker" and attempt.number <= _RETRIES_OF_LOST_WORKERS:
            if attempt.begun is not None:
                self._report.ended(attempt.task, self._failed(attempt, "its worker was lost"))
            self._submit(_Attempt(attempt.task, attempt.number + 1))
            return
        if error is None:  # the scheduler is gone; the keeper's reason is on its way
            lost = "its worker was lost before its result had left it"
            gone = self._stopped or f"the cluster is lost (Dask says: {future.status})"
            self._finish(attempt, self._failed(attempt, lost if future.status == "lost" else gone))
            return
        self._finish(attempt, self._failed(attempt, f"{type(error).__name__}: {error}"))

    def _read(self, attempt: _Attempt, future: Any) -> dict[str, Any]:
        try:
            return cloudpickle.loads(future.result())
        except Exception as error:
            text = f"its result cannot be read here: {type(error).__name__}: {error}"
            return self._failed(attempt, text) | _FAILED

    def _stop(self, reason: str, cancel: bool) -> None:
        """End all that is in flight; what was not started yet ends with the same reason."""
        self._stopped = reason
        self._cluster_lost = not cancel
        if cancel:
            for begun in self._cancel_on_workers():
                self._take(_News("started", begun))  # if that was not heard yet
            self._client.cancel(list(self._in_flight), force=True)
        for future in list(self._in_flight):
            attempt = self._in_flight.pop(future)
            status = {"status": "cancelled"} if cancel else {}
            self._finish(attempt, self._failed(attempt, reason) | status)

    def _cancel_on_workers(self) -> list[dict[str, Any]]:
        """End what runs on the workers; return the first part of its records.

        A worker that does not answer is not waited for: it is ended with its cluster.
        """
        with contextlib.suppress(Exception):
            answers = self._client.sync(
                self._client._run,
                _make_canceller(),
                self._pool,
                on_error="ignore",
                callback_timeout=_CANCEL_SECONDS,
            )
            return [record for answer in answers.values() for record in answer]
        return []

    def _failed(self, attempt: _Attempt, reason: str) -> dict[str, Any]:
        """Return the record of a task whose end no worker tells: it is lost."""
        now = time.time()
        begun = attempt.begun or {"host": "", "worker": "", "start_time": now}
        return {
            "pool": self._pool,
            "name": attempt.task.name,
            "host": begun["host"],
            "worker": begun["worker"],
            "start_time": begun["start_time"],
            "elapsed_time": now - begun["start_time"],
            "status": "lost",
            "exit_status": None,
            "value": None,
            "error": reason,
            "traceback": "",
        }

    def _launch(self, attempt: _Attempt, record: dict[str, Any]) -> None:
        if attempt.begun is None:
            attempt.begun = record
            self._report.started(attempt.task, record)

    def _finish(self, attempt: _Attempt, record: dict[str, Any]) -> None:
        ran = attempt.begun is not None or bool(record["worker"])
        if ran or record["status"] == "failed":
            # The start may have been announced already; the result is authoritative
            self._launch(attempt, record)
            self._report.ended(attempt.task, record)
        self._running.pop(attempt.task.name, None)
        self._results[attempt.task.name] = _result(attempt.task, record)


def _result(task: Task, record: dict[str, Any]) -> Any:
    """Return what ``get_finished_tasks`` says: a return value, an exit code, or an error."""
    if record["status"] == "lost":  # not even a program's exit code is known
        return TaskError(task.name, record["error"])
    if task.function is None:
        return record["exit_status"]
    if record["status"] == "finished":
        return record["value"]
    return TaskError(task.name, record["error"], record["traceback"])
