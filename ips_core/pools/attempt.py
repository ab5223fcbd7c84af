"""Track attempts at tasks and make the records of those whose end no worker reports."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ips_core.tasks.record import TaskRecord
from ips_core.tasks.task import Task

__all__ = ["Attempt", "InFlight"]


@dataclass(eq=False, slots=True)
class Attempt:
    """An attempt to run a task."""

    task: Task
    key: str  #: unique among all attempts of all pools
    number: int = 1  #: count of the task's starts, from 1
    lost: int = 0  #: earlier attempts that were lost with their worker
    failed: int = 0  #: earlier attempts that failed
    alone: bool = False  #: not in a chunk with other tasks
    latest_start: float | None = None  #: seconds since the epoch; None: no limit
    work: str = ""  #: fingerprint of the task, for the runner's record
    keep: bool = True  #: whether to keep the task's record
    begun: dict[str, Any] | None = None  #: first part of the runner's record, once started
    chunk: str = ""  #: key of the first attempt in the chunk

    def payload(self, pool: str) -> dict[str, Any]:
        """Return the attempt as ``tasks.runner.Runner.run`` takes it; ``pool`` names the run."""
        found = self.task.payload(pool)
        if self.work:
            found["work"] = self.work
        if self.latest_start is not None:
            found["latest_start"] = self.latest_start
        return found

    @property
    def is_plain(self) -> bool:
        """True if the task may run in a chunk with others."""
        return self.task.is_plain and not self.alone

    def again(self, key: str, lost: int = 0, failed: int = 0) -> Attempt:
        """Return the attempt that follows this one after it was lost or failed."""
        return replace(
            self,
            key=key,
            number=self.number + (self.begun is not None),
            lost=self.lost + lost,
            failed=self.failed + failed,
            alone=True,
            begun=None,
        )

    def unseen(self, **known: Any) -> dict[str, Any]:
        """Return a runner's record for an attempt whose end no worker reports."""
        now = time.time()
        begun = self.begun or {"host": "", "worker": "", "start_time": now}
        return {
            "name": self.task.name,
            "host": begun["host"],
            "worker": begun["worker"],
            "start_time": begun["start_time"],
            "elapsed_time": now - begun["start_time"],
            "exit_status": None,
            "value": None,
            "error": "",
            "traceback": "",
            "output": "",
            **known,
        }

    def record(self, found: Mapping[str, Any]) -> TaskRecord:
        """Return the record of the task, which has ended with this attempt."""
        words = ("status", "host", "worker")  # Few different texts: interning saves memory.
        shared = {key: sys.intern(found[key]) for key in words if key in found}
        return TaskRecord.of(
            {**found, **shared},
            name=self.task.name,
            attempts=self.number if self.begun is not None else self.number - 1,
            slots=self.task.nproc,
            is_program=self.task.function is None,
        )


class InFlight:
    """Attempts that an executor has, alone or in chunks."""

    def __init__(self) -> None:
        self._attempts: dict[str, Attempt] = {}
        self._left: dict[str, int] = {}  # attempts left in each chunk, by the key of its first
        #: Slots in use; the attempts of a chunk take turns in one slot.
        self.load = 0

    def __bool__(self) -> bool:
        return bool(self._attempts)

    def __contains__(self, key: str) -> bool:
        return key in self._attempts

    def get(self, key: str) -> Attempt | None:
        """Return an attempt, None if it is not in flight."""
        return self._attempts.get(key)

    def take_all(self) -> Iterator[Attempt]:
        """Remove all attempts and yield them."""
        for key in list(self._attempts):
            yield self.take(key)

    def add(self, chunk: list[Attempt]) -> None:
        """Add the attempts of a chunk."""
        first = chunk[0]
        self.load += first.task.nproc
        self._left[first.key] = len(chunk)
        for attempt in chunk:
            attempt.chunk = first.key
            self._attempts[attempt.key] = attempt

    def take(self, key: str) -> Attempt:
        """Remove an attempt and return it."""
        attempt = self._attempts.pop(key)
        self._left[attempt.chunk] -= 1
        if not self._left[attempt.chunk]:
            del self._left[attempt.chunk]
            self.load -= attempt.task.nproc
        return attempt
