"""Runs programs of several processes on the nodes of a Dask cluster, beside its workers.

Their cores are held by Dask tasks that do nothing, one on each of the nodes, for as long as the
program runs; it is started by an srun of this process, see ``mpi_tasks``.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Sequence
from typing import Any

from ips_core.dask_cluster import ClusterAddress, Place
from ips_core.pools.attempt import Attempt
from ips_core.pools.executor import Begun, Ended, GivenBack, Hear
from ips_core.pools.guard import TaskGuard
from ips_core.pools.mpi_tasks import MPITasks
from ips_core.pools.on_cluster import dask_name, release_function, slot_holder
from ips_core.pools.task import Task
from ips_core.task_launch import TaskShape
from ips_core.task_runner import Runner

__all__ = ["DaskMPI"]

_FIRST = 1_000_000  # Dask's priority of a holder: the next slots that are free are its
_LOOK_SECONDS = 1.0
_LEAVE_SECONDS = 10.0


class DaskMPI:
    """The parallel programs of a submission.

    Parameters
    ----------
    run : str
        Name of the submission.
    client : distributed.Client
        Connected to the cluster.
    topic : str
        Under which the workers tell their news to this process.
    reached : ClusterAddress
        What is known of the cluster.
    """

    def __init__(self, run: str, client: Any, topic: str, reached: ClusterAddress) -> None:
        self._run = run
        self._client = client
        self._topic = topic
        self._places = reached.workers
        self._job_id = reached.job_id
        shifter = reached.request.shifter
        self._prefix = () if shifter is None else ("shifter", *shifter)
        self._runner = Runner("srun", threads=reached.slots)
        self._hear: Hear = lambda news: None
        self._guard: TaskGuard | None = None
        self._turn = threading.Lock()  # two that each had half of their nodes would wait for ever
        self._rotation = itertools.cycle(range(len(self._places)))
        self._changed = threading.Condition()
        self._held: set[str] = set()
        self._leaving = False
        self._threads: list[threading.Thread] = []

    def wants(self, task: Task) -> bool:
        """Tell whether a task is one of ours: it says so, or one worker has too few cores."""
        by_size = task.nproc > self._most and task.function is None and task.mpi is None
        return bool(task.mpi) or by_size

    @property
    def _most(self) -> int:
        return max(place.slots for place in self._places)

    def why_not(self, task: Task) -> str:
        """Return why a task can never run, in a sentence; nothing if it can."""
        if self._job_id is None:
            return f"nproc = {task.nproc}: MPI tasks of a pool need srun, and this is no Slurm job"
        if len({place.node for place in self._places}) < len(self._places):
            return "MPI tasks need pools with one worker a node"
        least = min(place.slots for place in self._places)
        if task.nproc > least * len(self._places):
            nodes = f"{len(self._places)} nodes of {least} slots"
            return f"nproc = {task.nproc}, but the pool has {nodes}"
        return ""

    def submit(self, attempt: Attempt, hear: Hear) -> None:
        """Run a program as soon as there are cores for it; what comes of it is told to ``hear``."""
        self._hear = hear
        if self._guard is None:
            self._guard = TaskGuard()
        thread = threading.Thread(target=self._work, args=(attempt,), daemon=True)
        thread.start()
        self._threads.append(thread)

    def take_held(self, key: str) -> None:
        """Take note that the slots of a holder are ours."""
        with self._changed:
            self._held.add(key)
            self._changed.notify_all()

    def hold(self) -> None:
        """Start nothing more."""
        with self._changed:
            self._leaving = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """End what runs, for good."""
        self.hold()
        self._runner.cancel(self._run)
        for thread in self._threads:
            thread.join(_LEAVE_SECONDS)

    def close(self) -> None:
        """End what is left."""
        if self._guard is not None:
            self.cancel()
            self._guard.close()

    # -- in the thread of an attempt ---------------------------------------------------------

    def _work(self, attempt: Attempt) -> None:
        least = min(place.slots for place in self._places)
        nodes = -(-attempt.task.nproc // least)
        with self._turn:
            holders = self._gather(attempt, nodes)
        try:
            if holders is None:
                self._hear(GivenBack((attempt.key,)))
            else:
                self._hear(Ended(attempt.key, self._start(attempt, list(holders.values()))))
        finally:
            self._release(holders or {})

    def _gather(self, attempt: Attempt, nodes: int) -> dict[str, Place] | None:
        """Return the nodes on which there are cores now, by their holders; None: not any more."""
        chosen = [self._places[next(self._rotation)] for _ in range(nodes)]
        holders = {f"{attempt.key}-{number}": place for number, place in enumerate(chosen)}
        share = -(-attempt.task.nproc // nodes)
        resources = {"slot": share} | (
            {"gpu": share * attempt.task.gpus} if attempt.task.gpus else {}
        )
        try:
            addresses = self._addresses()
            futures = [
                self._client.submit(
                    slot_holder(),
                    *(key, self._topic, self._run),
                    key=f"{dask_name(attempt.task.name)} on {place.node}-{key}",
                    pure=False,
                    workers=[addresses[place.worker]],
                    resources=resources,
                    priority=_FIRST + attempt.task.priority,
                )
                for key, place in holders.items()
            ]
            while not self._leaving:
                with self._changed:
                    if self._changed.wait_for(
                        lambda: self._leaving or holders.keys() <= self._held, _LOOK_SECONDS
                    ):
                        break
                lost = any(future.status not in ("pending", "finished") for future in futures)
                now = self._addresses()
                if lost or any(now.get(p.worker) != addresses[p.worker] for p in chosen):
                    break  # a worker has gone, and perhaps come back
            if not self._leaving and holders.keys() <= self._held:
                return holders
        except Exception:  # the cluster is lost, of which others tell
            futures = []
        with contextlib.suppress(Exception):
            self._client.cancel(futures, force=True)
        self._release(holders)
        return None

    def _addresses(self) -> dict[str, str]:
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        return {str(found["name"]): address for address, found in workers.items()}

    def _start(self, attempt: Attempt, places: Sequence[Place]) -> dict[str, Any]:
        task, payload = attempt.task, attempt.payload(self._run)
        assert self._guard is not None
        assert self._job_id is not None
        payload |= {
            "argv": [*self._prefix, *payload["argv"]],
            "env": payload.get("env", {}) | self._guard.environment,
        }
        extra = task.launcher.get("launch_cmd_extra_args") or ()
        shape = TaskShape(
            nproc=task.nproc,
            nodes=len(places),
            gpus=task.gpus,
            node_names=tuple(place.node for place in places),
            extra_args=tuple(extra.split() if isinstance(extra, str) else extra),
        )
        return MPITasks(self._runner, self._job_id).run(
            payload, shape, attempt.key, lambda begun: self._hear(Begun(attempt.key, begun))
        )

    def _release(self, holders: dict[str, Place]) -> None:
        with contextlib.suppress(Exception):  # the workers are gone, and the slots with them
            self._client.sync(
                self._client._run,
                release_function(),
                list(holders),
                workers=None,
                on_error="ignore",
                callback_timeout=_LEAVE_SECONDS,
            )
        with self._changed:
            self._held -= holders.keys()
