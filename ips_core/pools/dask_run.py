"""Works off the tasks of a pool on a Dask cluster.

A thread of the component's process keeps a bounded number of Dask tasks in flight, takes records
as they come, and reports every start and end. A task's own failure is part of its record; Dask
errors mean that a worker or the cluster was lost. Whether a task whose worker was lost had ended is
in that worker's journal: what has ended is never run again.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle

from ips_core.errors import TaskError, describe
from ips_core.pools.journal import JournalReader
from ips_core.pools.on_cluster import cancel_function, task_function
from ips_core.pools.task import Task

__all__ = ["DaskRun", "PoolReport"]

_CANCEL_SECONDS = 10
_FAILED = {"status": "failed", "exit_status": 1}
_WINDOW = 2  # Dask tasks in flight for each thread of the cluster
_JOURNAL_SECONDS = 0.5  # for the kernel to write out the files of a worker that was killed


@dataclass
class _Attempt:
    """A task on its way."""

    task: Task
    number: int = 1
    begun: dict[str, Any] | None = None
    future: Any = None


@dataclass(frozen=True)
class _News:
    """What the run's thread is told: a start, a record, a future's or the cluster's end."""

    kind: str
    body: Any = None
    key: str = ""


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
    journal : pathlib.Path
        Where the workers keep their journals.
    report : PoolReport
        Hears of starts and ends.
    retries : int
        How often a task is run again whose worker was lost.
    plugin : WorkerPlugin or None
        Lives on every worker for as long as the run.
    """

    def __init__(
        self,
        pool: str,
        tasks: list[Task],
        client: Any,
        slots: int,
        journal: Path,
        report: PoolReport,
        retries: int,
        plugin: Any = None,
    ) -> None:
        self._pool = pool
        self._tasks = tasks
        self._client = client
        self._window = max(1, slots * _WINDOW)
        self._report = report
        self._retries = retries
        self._plugin = plugin
        self._news: queue.SimpleQueue[_News] = queue.SimpleQueue()
        self._results: dict[str, Any] = {}
        self._error: BaseException | None = None
        self._in_flight: dict[str, _Attempt] = {}  # by the key of the Dask task
        self._journal = JournalReader(journal, self._in_flight)
        self._doubtful: dict[str, Any] = {}  # why the future ended although no record came
        self._settle_at = 0.0
        self._stopped = ""
        self._function = task_function()
        self._end_topic = f"ips-task-end-{uuid.uuid4().hex}"
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
        self._client.subscribe_topic(self._end_topic, self._hear_end)
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

    def hear_start(self, key: str, record: dict[str, Any]) -> None:
        """Tell the run that a task has started."""
        if record["pool"] == self._pool:
            self._news.put(_News("started", record, key))

    def _hear_end(self, event: tuple[float, dict[str, Any]]) -> None:
        self._news.put(_News("record", event[1], event[1]["key"]))

    # -- the run's thread --------------------------------------------------------------------

    def _run(self) -> None:
        try:
            # made as they are needed: one that is kept would keep its future, and Dask its result
            waiting = (_Attempt(task) for task in self._tasks)
            self._fill(waiting)
            while self._in_flight:
                self._take(self._next_news())
                self._fill(waiting)
        except BaseException as error:
            self._error = error
        finally:
            self._end()

    def _next_news(self) -> _News:
        if not self._doubtful:
            return self._news.get()
        try:
            return self._news.get(timeout=max(0.0, self._settle_at - time.monotonic()))
        except queue.Empty:
            return _News("settle")

    def _end(self) -> None:
        trouble = self._stopped
        with contextlib.suppress(Exception):
            self._client.unsubscribe_topic(self._end_topic)
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
        # any bytes may be in a name that comes from a file
        key = f"{attempt.task.name.encode('ascii', 'replace').decode()}-{uuid.uuid4().hex}"
        self._in_flight[key] = attempt
        attempt.future = self._client.submit(
            self._function,
            *(key, self._end_topic, payload),
            key=key,
            pure=False,
            resources={"slot": 1},
        )
        attempt.future.add_done_callback(lambda done: self._news.put(_News("done", done, key)))

    def _take(self, news: _News) -> None:
        if news.kind == "settle":
            self._settle()
        elif news.kind in ("cancel", "lost"):
            if not self._stopped:
                self._stop("cancelled" if news.kind == "cancel" else news.body, news.kind)
        elif news.key in self._in_flight:
            attempt = self._in_flight[news.key]
            if news.kind == "started":
                self._launch(attempt, news.body)
            elif news.kind == "record":
                self._take_record(news.key, self._bytes(news.body))
            else:  # the record comes first, if it comes
                self._doubtful[news.key] = news.body.status, _error_of(news.body)
                self._settle_at = time.monotonic() + _JOURNAL_SECONDS

    def _bytes(self, event: dict[str, Any]) -> bytes | None:
        return event["record"] if "record" in event else self._journal.take_file(event["file"])

    def _take_record(self, key: str, record: bytes | None) -> None:
        attempt = self._in_flight.pop(key)
        self._doubtful.pop(key, None)
        found = self._read(attempt, record)
        if found["status"] != "cancelled" or (self._stopped and not self._cluster_lost):
            self._finish(attempt, found)
        else:  # not by this pool: its worker was told to leave
            self._lose(attempt, "lost", None)

    def _read(self, attempt: _Attempt, record: bytes | None) -> dict[str, Any]:
        if record is None:
            text = "it has ended, but its result could not be stored and was lost with its worker"
            return self._failed(attempt, text) | {"status": "result-lost"}
        try:
            return cloudpickle.loads(record)
        except Exception as error:
            text = f"its result cannot be read here: {type(error).__name__}: {error}"
            return self._failed(attempt, text) | _FAILED

    def _settle(self) -> None:
        """Decide what became of the tasks whose worker was lost."""
        self._journal.read()
        doubtful, self._doubtful = self._doubtful, {}
        for key, (status, error) in doubtful.items():
            attempt = self._in_flight.get(key)
            if attempt is None:
                continue
            if self._journal.has_ended(key):
                self._take_record(key, self._journal.record(key))
                continue
            begun = self._journal.begun(key)
            if begun is not None:
                self._launch(attempt, begun)
            del self._in_flight[key]
            self._lose(attempt, status, error)

    def _lose(self, attempt: _Attempt, status: str, error: BaseException | None) -> None:
        """Run a task again whose worker was lost, if that is allowed."""
        worker_lost = type(error).__name__ == "KilledWorker" or status in ("lost", "finished")
        if worker_lost and not self._stopped and attempt.number <= self._retries:
            if attempt.begun is not None:
                self._report.ended(attempt.task, self._failed(attempt, "its worker was lost"))
            self._submit(_Attempt(attempt.task, attempt.number + 1))
        elif error is not None:
            self._finish(attempt, self._failed(attempt, f"{type(error).__name__}: {error}"))
        else:  # the scheduler is gone; the keeper's reason is on its way
            gone = self._stopped or f"the cluster is lost (Dask says: {status})"
            self._finish(attempt, self._failed(attempt, gone))

    def _stop(self, reason: str, kind: str) -> None:
        """End all that is in flight; what was not started yet ends with the same reason."""
        cancel = kind == "cancel"
        self._stopped = reason
        self._cluster_lost = not cancel
        if cancel:
            for begun in self._cancel_on_workers():
                self._take_begun(begun)  # if that was not heard yet
            self._client.cancel([each.future for each in self._in_flight.values()], force=True)
        else:
            self._journal.read()
        for key, attempt in list(self._in_flight.items()):
            if self._journal.has_ended(key):
                self._take_record(key, self._journal.record(key))
                continue
            del self._in_flight[key]
            status = {"status": "cancelled"} if cancel else {}
            self._finish(attempt, self._failed(attempt, reason) | status)
        self._doubtful.clear()

    def _take_begun(self, begun: dict[str, Any]) -> None:
        for attempt in self._in_flight.values():
            if attempt.task.name == begun["name"]:
                self._launch(attempt, begun)

    def _cancel_on_workers(self) -> list[dict[str, Any]]:
        """End what runs on the workers; return the first part of its records.

        A worker that does not answer is not waited for: it is ended with its cluster.
        """
        with contextlib.suppress(Exception):
            answers = self._client.sync(
                self._client._run,
                cancel_function(),
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
        self._results[attempt.task.name] = _result(attempt.task, record)


def _error_of(future: Any) -> BaseException | None:
    return future.exception() if future.status == "error" else None


def _result(task: Task, record: dict[str, Any]) -> Any:
    """Return what ``get_finished_tasks`` says: a return value, an exit code, or an error."""
    if record["status"] in ("lost", "result-lost"):  # not even a program's exit code is known
        return TaskError(task.name, record["error"])
    if task.function is None:
        return record["exit_status"]
    if record["status"] == "finished":
        return record["value"]
    return TaskError(task.name, record["error"], record["traceback"])
