"""What of a pool runs on Dask workers: the plugin with the runner, and the work of one Dask task.

It arrives by value, since workers need not have this package: see ``on_cluster.plugins``.
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

_GIVE_BACK_SECONDS = 2.0  # after which the rest of a chunk does not wait for a long task
_TELL_SECONDS = 0.25  # between the news of a chunk


class TaskRunner(WorkerPlugin):
    """Runs the tasks of all pools on a worker.

    Parameters
    ----------
    journal_directory : str
        Where the worker notes what it has begun and what has ended; seen by all nodes.
    processes : int
        Workers on each node, which share its cores.
    """

    name = "ips-task-runner"
    idempotent = True

    def __init__(self, journal_directory: str, processes: int = 1) -> None:
        self._journal_directory = journal_directory
        self._processes = processes
        self._released: dict[str, threading.Event] = {}

    async def setup(self, worker: Any) -> None:
        """Get ready."""
        # What a callable prints is seen while it runs, and so are its warnings: as for
        # programs, stderr joins stdout. Dask's own logging keeps the worker's.
        install_output()
        self.worker = worker
        name, threads = str(worker.name), worker.state.nthreads
        gpus = int(worker.state.total_resources.get("gpu", 0))
        cores = _cores(name, self._processes)
        # Before any library asks for it: tasks side by side would each take all cores
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(cores) // threads)))
        self.runner = Runner(name, threads, cores, _devices(gpus))
        self.journal = Journal(self._journal_directory, name)
        # Every task takes slots, so that tasks of several can never overbook a node. The worker
        # has them from the start; here only in case it was given another number of threads.
        await worker.set_resources(slot=threads)

    def work_off(self, key: str, first: str, topic: str, run: str, payloads: bytes) -> None:
        """Run what a Dask task brings; parameters as for :class:`Chunk`.

        ``first`` is the key of the first task in it. The worker may die of what it is about to
        read; what has only waited here has nothing to do with its death.
        """
        self.journal.taken(first)
        Chunk(self, key, topic, run).work_off(payloads)

    def hold_slots(self, key: str, topic: str, run: str) -> None:
        """Take slots and do nothing until they are released, or the run is cancelled."""
        released = self._released.setdefault(key, threading.Event())
        self.worker.log_event(topic, {"run": run, "held": key})
        while not (released.wait(1.0) or self.runner.is_cancelled(run)):
            pass
        self._released.pop(key, None)

    def release_slots(self, key: str) -> None:
        """Let go what :meth:`hold_slots` holds under this key, or is just about to hold."""
        self._released.setdefault(key, threading.Event()).set()

    def teardown(self, worker: Any) -> None:
        """End what runs."""
        self.runner.cancel()


class Chunk:
    """What one Dask task brings: one task, or several short ones that run one after the other.

    Parameters
    ----------
    plugin : TaskRunner
        Of the worker.
    key : str
        Of the Dask task.
    topic : str
        Under which the component listens.
    run : str
        Name of the submission.
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
            # pickled: an odd name would break the worker's connection, which knows only UTF-8
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
        if self._is_first is False:  # all of it is told by the one that was first
            with self._lock:
                self._waiting = []
            return
        ended = self._plugin.journal.ended(key, _pickled(record))
        with self._lock:
            self._ended.append({"key": key} | ended)

    def _ask(self, key: str, record: bytes) -> bool:
        """Ask the scheduler whether this may begin; the start of a single task is told so."""
        news = self._packed(begun=[(key, record)]) if self._is_single else {}

        async def ask() -> bool:
            if not self._is_single:
                self._worker.loop.call_later(_GIVE_BACK_SECONDS, self._give_back)
            scheduler = self._worker.scheduler
            return await scheduler.ips_begin_task(key=self._key, topic=self._topic, news=news)

        try:
            return sync(self._worker.loop, ask)
        except Exception:  # no scheduler any more, so that this worker ends, too
            return False

    def _give_back(self) -> None:
        """Tell that a task takes long, and let others have what waits behind it."""
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
        # As bytes: Dask measures the size of all else, item by item, on every hop
        return {"run": self._run, "news": pickle.dumps(news)}


def _cores(worker: str, processes: int) -> list[int]:
    """Return a worker's share of its node's cores; workers are numbered at the end of the name."""
    cores = sorted(os.sched_getaffinity(0))
    if processes == 1:
        return cores
    share, number = len(cores) // processes, int(worker.rpartition("-")[2])
    return cores[number * share : (number + 1) * share]


def _devices(count: int) -> list[str]:
    """Return the names of the worker's devices, as Slurm and ``worker.sh`` have given them."""
    for variable in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
        if os.environ.get(variable):
            return os.environ[variable].split(",")[:count]
    return [str(number) for number in range(count)]


def _pickled(record: dict[str, Any]) -> bytes:
    if record["value"] is None:
        return pickle.dumps(record)  # nothing in it has to travel by value
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
