"""Run tasks on a Dask cluster.

A Dask task carries one task, or a chunk of short ones. The workers report what becomes of them as
events. What Dask says about a Dask task matters only if these events are missing: then a worker or
the cluster was lost, and the worker journals tell which tasks had started and which had ended.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle

from ips_core.errors import describe
from ips_core.pools.attempt import Attempt
from ips_core.pools.dask.cluster_adapter import ClusterAddress
from ips_core.pools.dask.journal import JournalReader
from ips_core.pools.dask.mpi import DaskMPI
from ips_core.pools.dask.on_cluster import ask_workers, dask_name, runner_function, task_function
from ips_core.pools.executor import (
    AttemptLost,
    Ended,
    ExecutorEvent,
    ExecutorLost,
    Post,
    Requeued,
    Started,
)
from ips_core.resources.allocation_end import AllocationEnd
from ips_core.tasks.task import Task
from ips_dask_cluster.by_value import dumps

__all__ = ["DaskExecutor"]

_CANCEL_SECONDS = 8
_JOURNAL_SECONDS = 0.5  # Time in which the files of a killed worker become visible here.


@dataclass
class _Chunk:
    """Attempts of a Dask task whose ends were not reported yet."""

    future: Any
    attempts: dict[str, Attempt]
    first: str
    is_single: bool
    #: Status and exception by which Dask has reported the end of the Dask task.
    doubt: tuple[str, BaseException | None] | None = None
    #: Attempts whose start the worker has reported; its journal may lack them.
    begun: set[str] = field(default_factory=set)


class DaskExecutor:
    """Executor on a Dask cluster.

    ``pool`` is the name of a chunk on the dashboard, ``topic`` that of the workers' events, and
    ``plugin`` is on every worker for as long as the run.
    """

    def __init__(
        self,
        run: str,
        pool: str,
        client: Any,
        topic: str,
        reached: ClusterAddress,
        plugin: Any = None,
    ) -> None:
        self._pool = pool
        self.slots = reached.slots
        self._end = AllocationEnd(reached.end)
        self.journal_directory = Path(reached.run_directory)
        self._most = max(place.slots for place in reached.workers)
        self._gpus = max(place.gpus for place in reached.workers)
        self._mpi = DaskMPI(run, client, topic, reached)
        self._run = run
        self._client = client
        self._topic = topic
        self._plugin = plugin
        self._post: Post = lambda news: None
        self._chunks: dict[str, _Chunk] = {}
        self._chunk_of: dict[str, str] = {}  # by the key of the attempt
        self._journal = JournalReader(self.journal_directory, self._chunk_of)
        self._doubted: list[str] = []  # Dask tasks whose attempts are to be settled next
        self._settling: list[str] = []  # Dask tasks for which the timer runs
        self._lost = False
        #: True if cancelled functions run on: they keep the slots of their workers.
        self.spoiled = False
        self._function = task_function()

    @property
    def ends_at(self) -> float | None:
        """When all have to have ended, in seconds since the epoch; None: not known."""
        return self._end.ends_at

    def why_not(self, task: Task) -> str:
        """Return the reason why a task can never run here, empty if it can."""
        if self._mpi.wants(task):
            return self._mpi.why_not(task)
        if task.gpus > self._gpus:
            return f"gpus = {task.gpus}, but a worker has {self._gpus}"
        if task.nproc > self._most:
            return f"nproc = {task.nproc}, but a worker has {self._most} slots"
        return ""

    def start(self, post: Post) -> None:
        """Register the plugin; exceptions are those of the plugin's ``setup`` on a worker."""
        self._post = post
        if self._plugin is not None:
            try:
                self._client.register_plugin(self._plugin, name=self._run)
            except BaseException:
                with contextlib.suppress(Exception):
                    self._client.unregister_worker_plugin(self._run)
                raise
        self._end.follow(lambda: post(lambda: ()))

    def submit(self, attempts: Sequence[Attempt]) -> None:
        """Send attempts as one Dask task, or start a program on several nodes."""
        first = attempts[0]
        if self._mpi.wants(first.task):
            self._mpi.submit(first, self._post)
            return
        payloads = dumps([(each.key, each.payload(self._run)) for each in attempts])
        label = f"{self._pool} x {len(attempts)}" if len(attempts) > 1 else first.task.name
        key = f"{dask_name(label)}-{first.key}"
        resources = {"slot": first.task.nproc}
        if first.task.gpus:
            resources["gpu"] = first.task.gpus
        future = self._client.submit(
            self._function,
            key,
            first.key,
            self._topic,
            self._run,
            payloads,
            key=key,
            pure=False,
            resources=resources,
            priority=first.task.priority,
        )
        self._chunks[key] = _Chunk(
            future, {each.key: each for each in attempts}, first.key, len(attempts) == 1
        )
        self._chunk_of.update((each.key, key) for each in attempts)
        future.add_done_callback(lambda done: self._post(partial(self._done, key, done)))

    def take_event(self, event: dict[str, Any]) -> None:
        """Handle an event of ``on_worker``; return at once."""
        if "held" in event:
            self._mpi.take_held(event["held"])
            return
        self._post(partial(self._read, event["news"]))

    def lose(self, reason: str) -> None:
        """Handle the loss of the cluster; return at once."""
        self._post(partial(self._break, reason))

    def hold(self) -> None:
        """Start nothing more on the workers."""
        self._mpi.hold()
        self._tell_workers("hold")

    def cancel(self) -> None:
        """End the running tasks on the workers.

        A worker that does not answer is skipped: its tasks end with its cluster.
        """
        programs = threading.Thread(target=self._mpi.cancel, daemon=True)
        programs.start()  # In parallel with the workers: both may take several seconds.
        running = self._cancel_on_workers()
        programs.join(_CANCEL_SECONDS)
        for attempt, begun in running:
            self._post(Started(attempt.key, begun))
        if any(_is_endless(attempt.task) for attempt, _ in running):  # It may have ended since.
            still = self._cancel_on_workers()
            self.spoiled = any(_is_endless(attempt.task) for attempt, _ in still)
        futures = [chunk.future for chunk in self._chunks.values()]
        with contextlib.suppress(Exception):
            self._client.cancel(futures, force=True)

    def _cancel_on_workers(self) -> list[tuple[Attempt, dict[str, Any]]]:
        """End what workers run; return the attempts, with the first part of their records."""
        answers = self._tell_workers("cancel")
        attempts = {a.task.name: a for c in self._chunks.values() for a in c.attempts.values()}
        records = [record for answer in answers.values() for record in answer]
        return [(attempts[each["name"]], each) for each in records if each["name"] in attempts]

    def close(self) -> str:
        """Remove the plugin; return the reason if that failed, else an empty text."""
        self._end.close()
        self._mpi.close()
        if self._plugin is None or self._lost:
            return ""
        try:
            self._client.unregister_worker_plugin(self._run)
        except BaseException as error:  # The results are complete, so this must not raise.
            return f"tearing down the worker plugin failed: {describe(error)}"
        return ""

    def _tell_workers(self, method: str) -> dict[str, Any]:
        return ask_workers(self._client, runner_function(method), self._run, _CANCEL_SECONDS)

    # -- the dispatcher's thread -------------------------------------------------------------

    def _read(self, packed: bytes) -> Iterator[ExecutorEvent]:
        """Yield the executor events in an event of a worker."""
        told = pickle.loads(packed)
        for key, record in told.get("begun", ()):
            if key in self._chunk_of:
                self._chunks[self._chunk_of[key]].begun.add(key)
            yield Started(key, pickle.loads(record))
        for ended in told.get("ended", ()):
            record = ended["record"] if "record" in ended else self._file(ended["file"])
            yield from self._ended(ended["key"], record)
        if told.get("given_back"):
            yield self._take_back(tuple(told["given_back"]))
        if "unreadable" in told:
            yield from self._unreadable(told["unreadable"], told["error"])

    def _file(self, name: str) -> bytes | None:
        return self._journal.take_file(name)

    def _ended(self, key: str, record: bytes | None) -> Iterator[ExecutorEvent]:
        attempt = self._forget(key)
        if attempt is not None:
            yield Ended(key, _read_record(record))

    def _forget(self, key: str) -> Attempt | None:
        """Return an attempt that has ended, None if its end was reported before."""
        chunk = self._chunk_of.pop(key, None)
        if chunk is None:
            return None
        attempt = self._chunks[chunk].attempts.pop(key)
        if not self._chunks[chunk].attempts:
            del self._chunks[chunk]  # This drops the future, so that Dask drops the result.
        return attempt

    def _take_back(self, keys: tuple[str, ...], alone: bool = False) -> Requeued:
        return Requeued(tuple(key for key in keys if self._forget(key) is not None), alone)

    def _unreadable(self, chunk: str, error: str) -> Iterator[ExecutorEvent]:
        """Yield the end of a task that a worker cannot unpack; requeue a chunk's tasks alone."""
        keys = tuple(self._chunks[chunk].attempts) if chunk in self._chunks else ()
        if len(keys) > 1:
            yield self._take_back(keys, alone=True)
        for key in keys if len(keys) == 1 else ():
            if self._forget(key) is not None:
                yield Ended(key, _failed(f"it cannot be read on the worker: {error}"))

    def _done(self, key: str, future: Any) -> Iterable[ExecutorEvent]:
        """Note the end of a Dask task as Dask reports it, after the workers' events if any came."""
        chunk = self._chunks.get(key)
        if chunk is not None:
            chunk.doubt = future.status, future.exception() if future.status == "error" else None
            self._doubted.append(key)
            if not self._settling:
                self._give_time()
        return ()

    def _give_time(self) -> None:
        """Start the timer after which the doubted Dask tasks are settled."""
        self._settling, self._doubted = self._doubted, []
        if self._settling:
            timer = threading.Timer(_JOURNAL_SECONDS, lambda: self._post(self._settle))
            timer.daemon = True
            timer.start()

    def _settle(self) -> Iterator[ExecutorEvent]:
        """Yield what became of the tasks whose worker was lost."""
        keys = self._settling
        self._give_time()
        self._journal.read()
        for key in keys:
            chunk = self._chunks.get(key)
            if chunk is not None and chunk.doubt is not None:
                yield from self._settle_chunk(chunk, *chunk.doubt)

    def _settle_chunk(
        self, chunk: _Chunk, status: str, error: BaseException | None
    ) -> Iterator[ExecutorEvent]:
        worker_lost = type(error).__name__ == "KilledWorker" or status in ("lost", "finished")
        if not worker_lost and error is None:  # The scheduler is gone.
            yield from self._break(f"the cluster is lost (Dask says: {status})")
            return
        yield from self._from_journal(chunk)
        begun = [
            key
            for key in chunk.attempts
            if key in chunk.begun or self._journal.begun(key) is not None
        ]
        if not worker_lost:
            for key in list(chunk.attempts):
                self._forget(key)
                reason = f"{type(error).__name__}: {error}"
                yield Ended(key, _failed(reason, status="lost", exit_status=None))
            return
        if not (begun or self._journal.was_taken(chunk.first)):
            yield self._take_back(tuple(chunk.attempts))  # The chunk only waited for a slot.
            return
        lost = list(chunk.attempts) if chunk.is_single else begun
        for key in lost:
            self._forget(key)
            yield AttemptLost(key, "its worker was lost")
        if chunk.attempts:  # If none had started, any of them may kill a worker: send each alone.
            yield self._take_back(tuple(chunk.attempts), alone=not begun)

    def _from_journal(self, chunk: _Chunk) -> Iterator[ExecutorEvent]:
        """Yield the events that a worker's journal has of a chunk."""
        for key in [*chunk.attempts]:
            if (first_part := self._journal.begun(key)) is not None:
                yield Started(key, first_part)
            if self._journal.has_ended(key):
                yield from self._ended(key, self._journal.record(key))

    def _break(self, reason: str) -> Iterator[ExecutorEvent]:
        if self._lost:
            return
        self._lost = True
        self._journal.read()
        for chunk in list(self._chunks.values()):
            yield from self._from_journal(chunk)
        yield ExecutorLost(reason)


def _is_endless(task: Task) -> bool:
    """Tell whether a started task cannot be ended, as it runs in a thread of the worker."""
    return task.function is not None and not task.isolate


def _read_record(record: bytes | None) -> dict[str, Any]:
    """Return a runner's record from its bytes; None means that it could not be stored."""
    if record is None:
        text = "it has ended, but its result could not be stored and was lost with its worker"
        return _failed(text, status="result_lost", exit_status=None)
    try:
        return cloudpickle.loads(record)
    except Exception as error:
        return _failed(f"its result cannot be read here: {type(error).__name__}: {error}")


def _failed(reason: str, status: str = "failed", exit_status: int | None = 1) -> dict[str, Any]:
    return {"status": status, "exit_status": exit_status, "error": reason}
