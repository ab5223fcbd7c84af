"""Run programs with several processes on the nodes of a Dask cluster, beside its workers.

Dask tasks that do nothing (holders) hold the slots of a program, one holder on each of its nodes.
An srun of this process starts the program, see ``tasks.srun``.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distributed import Semaphore

from ips_core.errors import TaskPoolError, describe
from ips_core.pools.attempt import Attempt
from ips_core.pools.dask.cluster_adapter import ClusterAddress, Place
from ips_core.pools.dask.on_cluster import ask_workers, dask_name, release_function, slot_holder
from ips_core.pools.executor import Ended, Post, Requeued, Started
from ips_core.tasks.launch import TaskShape
from ips_core.tasks.orphan_reaper import OrphanReaper
from ips_core.tasks.runner import Runner
from ips_core.tasks.srun import MPITasks
from ips_core.tasks.task import Task

__all__ = ["DaskMPI"]

_TURN = "ips-mpi"
_FIRST = 1_000_000  # Dask priority of a holder, which gets the next free slots.
_LOOK_SECONDS = 1.0
_LEAVE_SECONDS = 10.0
_MISSING_SECONDS = 120.0  # Seconds for lost workers to come back.


@dataclass(frozen=True)
class _Held:
    """Hold slots on nodes by the keys of their holders; the futures keep the slots reserved."""

    places: dict[str, Place]
    futures: Sequence[Any]


class DaskMPI:
    """Run the programs with several processes of one run.

    The workers send their events to this process under ``topic``; ``reached`` describes the
    cluster.
    """

    def __init__(self, run: str, client: Any, topic: str, reached: ClusterAddress) -> None:
        self._run = run
        self._client = client
        self._topic = topic
        self._places = reached.workers
        # Kept, because `wants` needs it for each task.
        self._most = max(place.slots for place in reached.workers)
        self._job_id = reached.job_id
        shifter = reached.request.shifter
        self._prefix = () if shifter is None else ("shifter", *shifter)
        self._runner = Runner("srun", threads=reached.slots)
        self._post: Post = lambda news: None
        self._guard: OrphanReaper | None = None
        # Only one program gathers slots at a time, in this process and among all components on the
        # cluster: two programs that each held half of their nodes would wait for each other without
        # end. The turn is free again 30 s after the death of a component.
        self._turn_here = threading.Lock()
        self._turn: Semaphore | None = None
        self._rotation = itertools.cycle(range(len(self._places)))
        self._changed = threading.Condition()
        self._missing: set[str] = set()  # Holders that have no slots yet.
        self._leaving = False
        self._threads: list[threading.Thread] = []

    def wants(self, task: Task) -> bool:
        """Return whether a task runs here: it has ``mpi=True``, or is too large for one worker."""
        by_size = task.nproc > self._most and task.function is None and task.mpi is None
        return bool(task.mpi) or by_size

    def why_not(self, task: Task) -> str:
        """Return why a task can never run, in a sentence; empty if it can."""
        if self._job_id is None:
            return f"nproc = {task.nproc}: MPI tasks of a pool need srun, and this is no Slurm job"
        if len({place.node for place in self._places}) < len(self._places):
            return "MPI tasks need pools with one worker a node"
        gpus = min(place.gpus for place in self._places)
        if task.gpus > gpus:
            return f"gpus = {task.gpus} for each process, but a node has {gpus}"
        fitting = self._per_node(task)
        if task.nproc > fitting * len(self._places):
            least = min(place.slots for place in self._places)
            room = f"of {least} slots" if fitting == least else f"for {fitting} such processes each"
            return f"nproc = {task.nproc}, but the pool has {len(self._places)} nodes {room}"
        return ""

    def _per_node(self, task: Task) -> int:
        """Return how many processes of a task fit on each node."""
        limits = [min(place.slots for place in self._places) // _cores(task)]
        if task.gpus:
            limits.append(min(place.gpus for place in self._places) // task.gpus)
        if asked := task.launcher_number("task_ppn"):
            limits.append(asked)
        return min(limits)

    def submit(self, attempt: Attempt, post: Post) -> None:
        """Start a thread that runs a program as soon as it has slots; ``post`` takes its events."""
        self._post = post
        if self._guard is None:
            self._guard = OrphanReaper()
        thread = threading.Thread(target=self._work, args=(attempt,), daemon=True)
        thread.start()
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]

    def take_held(self, key: str) -> None:
        """Record that a holder has its slots."""
        with self._changed:
            self._missing.discard(key)
            self._changed.notify_all()

    def hold(self) -> None:
        """Start no more programs."""
        with self._changed:
            self._leaving = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """End all running programs, and start no more."""
        deadline = time.monotonic() + _LEAVE_SECONDS
        self.hold()
        self._runner.cancel(self._run)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """End the remaining programs and processes, and stop the timer of the turn."""
        if self._guard is not None:
            self.cancel()
            self._guard.close()
        if self._turn is not None:  # Its timer would keep the semaphore alive.
            self._client.loop.add_callback(self._turn.refresh_callback.stop)

    # -- in the thread of an attempt ---------------------------------------------------------

    def _work(self, attempt: Attempt) -> None:
        try:
            held = self._gather_in_turn(attempt)
            if held is None:
                self._post(Requeued((attempt.key,)))
                return
            try:
                record = self._start(attempt, list(held.places.values()))
                self._post(Ended(attempt.key, record))
            finally:
                self._release(held)
        except Exception as error:  # Any error must end the task, for which the dispatcher waits.
            text = f"it could not be started: {describe(error)}"
            failed = {"status": "failed", "exit_status": 126, "error": text}
            self._post(Ended(attempt.key, failed))

    def _gather_in_turn(self, attempt: Attempt) -> _Held | None:
        with self._turn_here:
            turn = self._take_turn()
            if turn is None:
                return None
            try:
                return self._gather(attempt)
            finally:
                with contextlib.suppress(Exception):  # The cluster is lost.
                    turn.release()

    def _take_turn(self) -> Semaphore | None:
        """Wait until no other component gathers slots and return the turn; None: the run ends."""
        while not self._leaving:
            try:
                if self._turn is None:
                    self._turn = Semaphore(1, _TURN, self._client.scheduler, self._client.loop)
                if self._turn.acquire(_LOOK_SECONDS):
                    return self._turn
            except Exception:  # The cluster is lost; the executor reports it.
                self._pause()
        return None

    def _gather(self, attempt: Attempt) -> _Held | None:
        """Return held slots for an attempt, or None if they are not available or the run ends.

        Raises TaskPoolError if too many workers are lost for good.
        """
        task = attempt.task
        nodes = -(-task.nproc // self._per_node(task))
        addresses = self._find(nodes)
        if not addresses:
            return None
        found = self._least_used(addresses)[:nodes]
        found.sort(key=self._places.index)  # In Slurm's order of the ranks.
        held = _Held({f"{attempt.key}-{count}": place for count, place in enumerate(found)}, [])
        with self._changed:
            self._missing = set(held.places)
        share = -(-task.nproc // nodes)
        resources = {"slot": share * _cores(task)}
        if task.gpus:
            resources["gpu"] = share * task.gpus
        try:
            futures = [
                self._client.submit(
                    slot_holder(),
                    key,
                    self._topic,
                    self._run,
                    key=f"{dask_name(task.name)} on {place.node}-{key}",
                    pure=False,
                    workers=[addresses[place.worker]],
                    resources=resources,
                    priority=_FIRST + task.priority,
                )
                for key, place in held.places.items()
            ]
            # Without the futures, Dask would release the slots.
            held = _Held(held.places, futures)
            if self._wait_for(held, addresses):
                return held
        except Exception:  # The cluster is lost; the executor reports it.
            self._pause()
        with contextlib.suppress(Exception):
            self._client.cancel(held.futures, force=True)
        self._release(held)
        return None

    def _find(self, nodes: int) -> dict[str, str]:
        """Return worker addresses by name once there are enough of them; empty: the run ends."""
        deadline = time.monotonic() + _MISSING_SECONDS
        while not self._leaving:
            found: dict[str, str] = {}
            with contextlib.suppress(Exception):  # The cluster is lost; the executor reports it.
                found = self._addresses()
            if len(found.keys() & {place.worker for place in self._places}) >= nodes:
                return found
            if time.monotonic() > deadline:
                raise TaskPoolError(
                    f"it needs workers on {nodes} nodes, and only {len(found)} have been there for "
                    f"{_MISSING_SECONDS:g} s; the log of the cluster says why"
                )
            self._pause()
        return {}

    def _least_used(self, addresses: dict[str, str]) -> list[Place]:
        """Return nodes with workers, those with the fewest tasks first; rotate among equals."""
        first = next(self._rotation)
        rotated = [*self._places[first:], *self._places[:first]]
        tasks: dict[str, Any] = {}
        with contextlib.suppress(Exception):  # The cluster is lost; the executor reports it.
            tasks = self._client.processing()
        there = [place for place in rotated if place.worker in addresses]
        return sorted(there, key=lambda place: len(tasks.get(addresses[place.worker], ())))

    def _wait_for(self, held: _Held, addresses: dict[str, str]) -> bool:
        """Wait for all slots and return whether they are held.

        They are not if a worker is lost, if enough other nodes are idle, or if the run ends.
        """
        while not self._leaving:
            with self._changed:
                self._changed.wait_for(lambda: self._leaving or not self._missing, _LOOK_SECONDS)
                if not self._missing:
                    break
            if any(future.status not in ("pending", "finished") for future in held.futures):
                return False
            now = self._addresses()  # A worker may have come back without its tasks.
            workers = [place.worker for place in held.places.values()]
            if any(now.get(worker) != addresses[worker] for worker in workers):
                return False
            if self._is_elsewhere(held, now):
                return False
        return not self._leaving

    def _is_elsewhere(self, held: _Held, addresses: dict[str, str]) -> bool:
        """Return whether enough other nodes are idle to start there.

        The choice of nodes may have missed tasks that were on their way to the chosen ones.
        """
        tasks, ours = self._client.processing(), {future.key for future in held.futures}
        idle = {
            place.worker
            for place in self._places
            if place.worker in addresses and ours.issuperset(tasks.get(addresses[place.worker], ()))
        }
        chosen = {place.worker for place in held.places.values()}
        return len(idle) >= len(chosen) and not chosen <= idle

    def _pause(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._leaving, _LOOK_SECONDS)

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
        shape = TaskShape(
            nproc=task.nproc,
            nodes=len(places),
            cores=task.launcher_number("task_cpp"),
            gpus=task.gpus,
            node_gpus=min(place.gpus for place in self._places),
            node_names=tuple(place.node for place in places),
            extra_args=task.launcher_arguments,
        )
        return MPITasks(self._runner, self._job_id).run(
            payload,
            shape,
            attempt.key,
            lambda begun: self._post(Started(attempt.key, begun)),
        )

    def _release(self, held: _Held) -> None:
        keys = {place.worker: key for key, place in held.places.items()}
        ask_workers(self._client, release_function(), keys, _LEAVE_SECONDS)


def _cores(task: Task) -> int:
    """Return the cores of each process."""
    return max(1, task.launcher_number("task_cpp"))
