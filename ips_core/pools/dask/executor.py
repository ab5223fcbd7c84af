"""Runs tasks on a Dask cluster.

A Dask task brings one task, or several short ones. What becomes of them arrives as events of the
workers; Dask's own word on a Dask task matters only where those are missing: then a worker or the
cluster was lost, and the workers' journals tell what had begun and what had ended.
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
from ips_core.pools.executor import Begun, Broken, Ended, GivenBack, Hear, Lost, News
from ips_core.resources.allocation_end import AllocationEnd
from ips_core.tasks.task import Task
from ips_dask_cluster.by_value import dumps

__all__ = ["DaskExecutor"]

_CANCEL_SECONDS = 8
_JOURNAL_SECONDS = 0.5  # for the kernel to write out the files of a worker that was killed


@dataclass
class _Chunk:
    """What one Dask task brings, and has not been told to have ended."""

    future: Any
    attempts: dict[str, Attempt]
    first: str
    is_single: bool
    doubt: tuple[str, BaseException | None] | None = None
    begun: set[str] = field(default_factory=set)  # told so by the worker, as its journal may not


class DaskExecutor:
    """Runs a pool's tasks on a Dask cluster.

    Parameters
    ----------
    run : str
        Name of the submission.
    pool : str
        What the dashboard calls several tasks in one.
    client : distributed.Client
        Connected to the cluster.
    topic : str
        Under which the workers tell their news to this process.
    reached : ClusterAddress
        What is known of the cluster.
    plugin : WorkerPlugin or None
        Lives on every worker for as long as the run.
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
        self._hear: Hear = lambda news: None
        self._chunks: dict[str, _Chunk] = {}
        self._chunk_of: dict[str, str] = {}  # by the key of the attempt
        self._journal = JournalReader(self.journal_directory, self._chunk_of)
        self._doubted: list[str] = []  # keys of Dask tasks
        self._settling: list[str] = []  # of those whose turn it is
        self._lost = False
        #: True if functions run on that were to be ended: they keep the slots of their workers.
        self.spoiled = False
        self._function = task_function()

    @property
    def ends_at(self) -> float | None:
        """When all have to have ended, in seconds since the epoch; None: not known."""
        return self._end.ends_at

    def why_not(self, task: Task) -> str:
        """Return why a task can never run here."""
        if self._mpi.wants(task):
            return self._mpi.why_not(task)
        if task.gpus > self._gpus:
            return f"gpus = {task.gpus}, but a worker has {self._gpus}"
        if task.nproc > self._most:
            return f"nproc = {task.nproc}, but a worker has {self._most} slots"
        return ""

    def start(self, hear: Hear) -> None:
        """Register the plugin.

        Raises
        ------
        Exception
            Whatever the plugin's ``setup`` raised on a worker.
        """
        self._hear = hear
        if self._plugin is not None:
            try:
                self._client.register_plugin(self._plugin, name=self._run)
            except BaseException:
                with contextlib.suppress(Exception):
                    self._client.unregister_worker_plugin(self._run)
                raise
        self._end.follow(lambda: hear(lambda: ()))

    def submit(self, attempts: Sequence[Attempt]) -> None:
        """Send tasks as one Dask task, or start a program on several nodes."""
        first = attempts[0]
        if self._mpi.wants(first.task):
            self._mpi.submit(first, self._hear)
            return
        payloads = dumps([(each.key, each.payload(self._run)) for each in attempts])
        label = f"{self._pool} x {len(attempts)}" if len(attempts) > 1 else first.task.name
        key = f"{dask_name(label)}-{first.key}"
        resources = {"slot": first.task.nproc}
        if first.task.gpus:
            resources["gpu"] = first.task.gpus
        future = self._client.submit(
            self._function,
            *(key, first.key, self._topic, self._run, payloads),
            key=key,
            pure=False,
            resources=resources,
            priority=first.task.priority,
        )
        self._chunks[key] = _Chunk(
            future, {each.key: each for each in attempts}, first.key, len(attempts) == 1
        )
        self._chunk_of.update((each.key, key) for each in attempts)
        future.add_done_callback(lambda done: self._hear(partial(self._done, key, done)))

    def hear_event(self, event: dict[str, Any]) -> None:
        """Take news of a worker, as ``on_worker`` makes them; returns at once."""
        if "held" in event:
            self._mpi.take_held(event["held"])
            return
        self._hear(partial(self._read, event["news"]))

    def lose(self, reason: str) -> None:
        """Take note that the cluster is lost, and why; returns at once."""
        self._hear(partial(self._break, reason))

    def hold(self) -> None:
        """Begin nothing more on the workers."""
        self._mpi.hold()
        self._tell_workers("hold")

    def cancel(self) -> None:
        """End what runs on the workers.

        A worker that does not answer is not waited for: it is ended with its cluster.
        """
        programs = threading.Thread(target=self._mpi.cancel, daemon=True)
        programs.start()  # side by side: each may take its time
        running = self._cancel_on_workers()
        programs.join(_CANCEL_SECONDS)
        for attempt, begun in running:
            self._hear(Begun(attempt.key, begun))
        if any(_is_endless(attempt.task) for attempt, _ in running):  # or it was: look again
            still = self._cancel_on_workers()
            self.spoiled = any(_is_endless(attempt.task) for attempt, _ in still)
        futures = [chunk.future for chunk in self._chunks.values()]
        with contextlib.suppress(Exception):
            self._client.cancel(futures, force=True)

    def _cancel_on_workers(self) -> list[tuple[Attempt, dict[str, Any]]]:
        """End what workers run, and return what that is, with the first part of its record."""
        answers = self._tell_workers("cancel")
        attempts = {a.task.name: a for c in self._chunks.values() for a in c.attempts.values()}
        records = [record for answer in answers.values() for record in answer]
        return [(attempts[each["name"]], each) for each in records if each["name"] in attempts]

    def close(self) -> str:
        """Tear the plugin down; return what went wrong with that."""
        self._end.close()
        self._mpi.close()
        if self._plugin is None or self._lost:
            return ""
        try:
            self._client.unregister_worker_plugin(self._run)
        except BaseException as error:  # costs no result
            return f"tearing down the worker plugin failed: {describe(error)}"
        return ""

    def _tell_workers(self, method: str) -> dict[str, Any]:
        return ask_workers(self._client, runner_function(method), self._run, _CANCEL_SECONDS)

    # -- in the dispatcher's thread ----------------------------------------------------------

    def _read(self, packed: bytes) -> Iterator[News]:
        """Yield the news of a worker's event."""
        told = pickle.loads(packed)
        for key, record in told.get("begun", ()):
            if key in self._chunk_of:
                self._chunks[self._chunk_of[key]].begun.add(key)
            yield Begun(key, pickle.loads(record))
        for ended in told.get("ended", ()):
            record = ended["record"] if "record" in ended else self._file(ended["file"])
            yield from self._ended(ended["key"], record)
        if told.get("given_back"):
            yield self._take_back(tuple(told["given_back"]))
        if "unreadable" in told:
            yield from self._unreadable(told["unreadable"], told["error"])

    def _file(self, name: str) -> bytes | None:
        return self._journal.take_file(name)

    def _ended(self, key: str, record: bytes | None) -> Iterator[News]:
        attempt = self._forget(key)
        if attempt is not None:
            yield Ended(key, _read_record(record))

    def _forget(self, key: str) -> Attempt | None:
        """Return an attempt that has ended; None if that was told before."""
        chunk = self._chunk_of.pop(key, None)
        if chunk is None:
            return None
        attempt = self._chunks[chunk].attempts.pop(key)
        if not self._chunks[chunk].attempts:
            del self._chunks[chunk]  # and its future: one that is kept would keep Dask's result
        return attempt

    def _take_back(self, keys: tuple[str, ...], alone: bool = False) -> GivenBack:
        return GivenBack(tuple(key for key in keys if self._forget(key) is not None), alone)

    def _unreadable(self, chunk: str, error: str) -> Iterator[News]:
        """Yield what to do with tasks that a worker cannot read: find out which it is."""
        keys = tuple(self._chunks[chunk].attempts) if chunk in self._chunks else ()
        if len(keys) > 1:
            yield self._take_back(keys, alone=True)
        for key in keys if len(keys) == 1 else ():
            if self._forget(key) is not None:
                yield Ended(key, _failed(f"it cannot be read on the worker: {error}"))

    def _done(self, key: str, future: Any) -> Iterable[News]:
        """Dask says that a Dask task is over; the news of it come first, if they come."""
        chunk = self._chunks.get(key)
        if chunk is not None:
            chunk.doubt = future.status, future.exception() if future.status == "error" else None
            self._doubted.append(key)
            if not self._settling:
                self._give_time()
        return ()

    def _give_time(self) -> None:
        """Settle the doubts there are after a while; each is given all of it."""
        self._settling, self._doubted = self._doubted, []
        if self._settling:
            timer = threading.Timer(_JOURNAL_SECONDS, lambda: self._hear(self._settle))
            timer.daemon = True
            timer.start()

    def _settle(self) -> Iterator[News]:
        """Yield what became of tasks whose worker was lost."""
        keys = self._settling
        self._give_time()
        self._journal.read()
        for key in keys:
            chunk = self._chunks.get(key)
            if chunk is not None and chunk.doubt is not None:
                yield from self._settle_chunk(chunk, *chunk.doubt)

    def _settle_chunk(
        self, chunk: _Chunk, status: str, error: BaseException | None
    ) -> Iterator[News]:
        worker_lost = type(error).__name__ == "KilledWorker" or status in ("lost", "finished")
        if not worker_lost and error is None:  # the scheduler is gone
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
            yield self._take_back(tuple(chunk.attempts))  # it waited for a slot
            return
        lost = list(chunk.attempts) if chunk.is_single else begun
        for key in lost:
            self._forget(key)
            yield Lost(key, "its worker was lost")
        if chunk.attempts:  # had none begun, any of them may be what kills a worker
            yield self._take_back(tuple(chunk.attempts), alone=not begun)

    def _from_journal(self, chunk: _Chunk) -> Iterator[News]:
        """Yield what a worker has noted of its tasks."""
        for key in [*chunk.attempts]:
            if (first_part := self._journal.begun(key)) is not None:
                yield Begun(key, first_part)
            if self._journal.has_ended(key):
                yield from self._ended(key, self._journal.record(key))

    def _break(self, reason: str) -> Iterator[News]:
        if self._lost:
            return
        self._lost = True
        self._journal.read()
        for chunk in list(self._chunks.values()):
            yield from self._from_journal(chunk)
        yield Broken(reason)


def _is_endless(task: Task) -> bool:
    """Tell whether a task that was begun ends by itself only: a thread cannot be ended."""
    return task.function is not None and not task.isolate


def _read_record(record: bytes | None) -> dict[str, Any]:
    """Return a runner's record; None: it could not be stored."""
    if record is None:
        text = "it has ended, but its result could not be stored and was lost with its worker"
        return _failed(text, status="result_lost", exit_status=None)
    try:
        return cloudpickle.loads(record)
    except Exception as error:
        return _failed(f"its result cannot be read here: {type(error).__name__}: {error}")


def _failed(reason: str, status: str = "failed", exit_status: int | None = 1) -> dict[str, Any]:
    return {"status": status, "exit_status": exit_status, "error": reason}
