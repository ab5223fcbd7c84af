"""Run tasks on Dask workers: the plugin that holds the runner, and the work of one Dask task.

The module travels by value, since workers need not have this package; see ``on_cluster.plugins``.
"""

from __future__ import annotations

import os
import pickle
import threading
import time
import traceback
from typing import Any

import cloudpickle
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.utils import sync

from ips_core.tasks.runner import Journal, Runner, install_output
from ips_dask_cluster.by_value import dumps

__all__ = ["Chunk", "TaskRunner"]

_GIVE_BACK_SECONDS = 2.0  # Then the rest of a chunk is requeued instead of waiting longer.
_TELL_SECONDS = 0.25  # Least time between two events of a chunk.


class TaskRunner(WorkerPlugin):
    """Worker plugin that runs the tasks of all pools.

    ``journal_directory`` must be visible on all nodes; ``processes`` is the number of workers on
    each node, which share its cores.
    """

    name = "ips-task-runner"
    idempotent = True

    def __init__(self, journal_directory: str, processes: int = 1) -> None:
        self._journal_directory = journal_directory
        self._processes = processes
        self._released: dict[str, threading.Event] = {}

    async def setup(self, worker: Any) -> None:
        """Start the runner and the journal of this worker."""
        # The output of callables appears while they run, with stderr in stdout as for programs.
        # Dask's own log lines stay on the worker's stderr.
        install_output()
        self.worker = worker
        name, threads = str(worker.name), worker.state.nthreads
        gpus = int(worker.state.total_resources.get("gpu", 0))
        cores = _cores(name, self._processes)
        # Set before any library reads it: else each task would use all cores.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(cores) // threads)))
        self.runner = Runner(name, threads, cores, _devices(gpus))
        self.journal = Journal(self._journal_directory, name)
        # Every task takes slots, so that tasks with several cores never overbook a node. Workers
        # start with this resource; it is set again in case the number of threads is another.
        await worker.set_resources(slot=threads)

    def work_off(self, key: str, first: str, topic: str, run: str, payloads: bytes) -> None:
        """Run the tasks of a Dask task; ``first`` is the key of its first task.

        The journal records the key before the payloads are unpacked, since unpacking may kill the
        worker. A chunk that only waited here has no part in the worker's death.
        """
        self.journal.taken(first)
        Chunk(self, key, topic, run).work_off(payloads)

    def hold_slots(self, key: str, topic: str, run: str) -> None:
        """Take slots and do nothing until they are released or the run is cancelled."""
        released = self._released.setdefault(key, threading.Event())
        self.worker.log_event(topic, {"run": run, "held": key})
        while not (released.wait(1.0) or self.runner.is_cancelled(run)):
            pass
        self._released.pop(key, None)

    def release_slots(self, key: str) -> None:
        """Release the slots that :meth:`hold_slots` holds under this key or is about to hold."""
        self._released.setdefault(key, threading.Event()).set()

    def teardown(self, worker: Any) -> None:
        """End the running tasks."""
        self.runner.cancel()


class Chunk:
    """Work of one Dask task: one task, or several short ones that run one after the other.

    ``key`` is that of the Dask task, and ``topic`` that of the events to the component.
    """

    def __init__(self, plugin: TaskRunner, key: str, topic: str, run: str) -> None:
        self._plugin = plugin
        self._worker = plugin.worker
        self._key = key
        self._topic = topic
        self._run = run
        self._lock = threading.Lock()
        self._waiting: list[tuple[str, dict[str, Any]]] = []
        self._running: list[tuple[str, bytes]] = []
        self._ended: list[dict[str, Any]] = []
        self._is_single = True
        self._is_first: bool | None = None

    def work_off(self, payloads: bytes) -> None:
        """Run the tasks, given as pickled pairs of a key and a runner's payload."""
        try:
            self._waiting = cloudpickle.loads(payloads)[::-1]
        except Exception as error:
            self._tell(unreadable=self._key, error=f"{type(error).__name__}: {error}")
            return
        self._is_single = len(self._waiting) == 1
        told = time.monotonic()
        while (item := self._next()) is not None:
            self._run_one(*item)
            if time.monotonic() - told > _TELL_SECONDS:
                self._tell_ended()
                told = time.monotonic()
        self._tell_ended()

    def _next(self) -> tuple[str, dict[str, Any]] | None:
        with self._lock:
            self._running = []
            return self._waiting.pop() if self._waiting else None

    def _run_one(self, key: str, payload: dict[str, Any]) -> None:
        def begin(begun: dict[str, Any]) -> bool:
            # Pickled: a name that is not valid UTF-8 would break the worker's connection.
            record = pickle.dumps(begun)
            if self._is_first is None:
                self._is_first = self._ask(key, record)
            if not self._is_first:
                return False
            self._plugin.journal.begun(key, record)
            with self._lock:
                self._running = [(key, record)]
            return True

        record = self._plugin.runner.run(payload, begin)
        if self._is_first is False:  # The worker that began this chunk first reports all of it.
            with self._lock:
                self._waiting = []
            return
        ended = self._plugin.journal.ended(key, _pickled(record))
        with self._lock:
            self._ended.append({"key": key} | ended)

    def _ask(self, key: str, record: bytes) -> bool:
        """Ask the scheduler whether this chunk may begin, and report the start of a single task."""
        news = self._packed(begun=[(key, record)]) if self._is_single else {}

        async def ask() -> bool:
            if not self._is_single:
                self._worker.loop.call_later(_GIVE_BACK_SECONDS, self._give_back)
            scheduler = self._worker.scheduler
            return await scheduler.ips_begin_task(key=self._key, topic=self._topic, news=news)

        try:
            return sync(self._worker.loop, ask)
        except Exception:  # The scheduler is gone, so this worker will end, too.
            return False

    def _give_back(self) -> None:
        """Report that a task takes long and requeue the tasks behind it."""
        with self._lock:
            rest, self._waiting = self._waiting, []
            begun = self._running
        self._tell_ended()
        if begun or rest:
            self._tell(begun=begun, given_back=[key for key, _ in reversed(rest)])

    def _tell_ended(self) -> None:
        with self._lock:
            ended, self._ended = self._ended, []
        if ended:
            self._tell(ended=ended)

    def _tell(self, **news: Any) -> None:
        self._worker.log_event(self._topic, self._packed(**news))

    def _packed(self, **news: Any) -> dict[str, Any]:
        # As bytes: Dask measures the size of other objects item by item on every hop.
        return {"run": self._run, "news": pickle.dumps(news)}


def _cores(worker: str, processes: int) -> list[int]:
    """Return a worker's share of its node's cores; worker names end with a number."""
    cores = sorted(os.sched_getaffinity(0))
    if processes == 1:
        return cores
    share, number = len(cores) // processes, int(worker.rpartition("-")[2])
    return cores[number * share : (number + 1) * share]


def _devices(count: int) -> list[str]:
    """Return the names of the worker's GPUs as Slurm and ``worker.sh`` have set them."""
    for variable in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
        if os.environ.get(variable):
            return os.environ[variable].split(",")[:count]
    return [str(number) for number in range(count)]


def _pickled(record: dict[str, Any]) -> bytes:
    if record["value"] is None:
        return pickle.dumps(record)  # Nothing in the record has to travel by value.
    try:
        return dumps(record)
    except Exception as error:
        lost = {
            "status": "failed",
            "exit_status": 1,
            "value": None,
            "error": f"its result cannot be pickled: {error}",
            "traceback": traceback.format_exc(),
        }
        return dumps(record | lost)
