"""A task on its way: how often it was tried, and what its record is when nobody else makes one."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ips_core.tasks.record import TaskRecord
from ips_core.tasks.task import Task

__all__ = ["Attempt", "OnWay"]


@dataclass(eq=False, slots=True)
class Attempt:
    """A task on its way.

    Parameters
    ----------
    task : Task
        What to run.
    key : str
        Names the attempt among all of all pools.
    number : int
        Counts the starts of the task, from 1.
    lost, failed : int
        How many attempts before it were lost with their worker, or failed.
    alone : bool
        True: not in one go with other tasks.
    latest_start : float or None
        When it has to have begun, in seconds since the epoch; None: whenever.
    work : str
        A digest of what the task does, for the runner's record.
    keep : bool
        False: nothing is kept of the task once it has ended.
    begun : dict or None
        The first part of the runner's record, once that is known.
    chunk : str
        Key of the first of those that travel together.
    """

    task: Task
    key: str
    number: int = 1
    lost: int = 0
    failed: int = 0
    alone: bool = False
    latest_start: float | None = None
    work: str = ""
    keep: bool = True
    begun: dict[str, Any] | None = None
    chunk: str = ""

    def payload(self, pool: str) -> dict[str, Any]:
        """Return what ``tasks.runner.Runner.run`` takes."""
        found = self.task.payload(pool)
        if self.work:
            found["work"] = self.work
        if self.latest_start is not None:
            found["latest_start"] = self.latest_start
        return found

    @property
    def is_plain(self) -> bool:
        """True if it may travel with others."""
        return self.task.is_plain and not self.alone

    def again(self, key: str, lost: int = 0, failed: int = 0) -> Attempt:
        """Return the attempt that follows this one, which was lost, or failed."""
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
        """Return the runner's record of an attempt whose end no worker tells."""
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
        words = ("status", "host", "worker")  # few, and the same for all tasks
        shared = {key: sys.intern(found[key]) for key in words if key in found}
        return TaskRecord.of(
            {**found, **shared},
            name=self.task.name,
            attempts=self.number if self.begun is not None else self.number - 1,
            slots=self.task.nproc,
            is_program=self.task.function is None,
        )


class OnWay:
    """The attempts that an executor has, alone or as chunks of several."""

    def __init__(self) -> None:
        self._attempts: dict[str, Attempt] = {}
        self._left: dict[str, int] = {}  # of each chunk, by the key of its first
        #: Slots that they take; those of a chunk take turns in one.
        self.load = 0

    def __bool__(self) -> bool:
        return bool(self._attempts)

    def __contains__(self, key: str) -> bool:
        return key in self._attempts

    def get(self, key: str) -> Attempt | None:
        """Return an attempt, None if it is not on its way."""
        return self._attempts.get(key)

    def take_all(self) -> Iterator[Attempt]:
        """Yield every attempt, none of which is on its way any more."""
        for key in list(self._attempts):
            yield self.take(key)

    def add(self, chunk: list[Attempt]) -> None:
        """Take note of attempts that travel together."""
        first = chunk[0]
        self.load += first.task.nproc
        self._left[first.key] = len(chunk)
        for attempt in chunk:
            attempt.chunk = first.key
            self._attempts[attempt.key] = attempt

    def take(self, key: str) -> Attempt:
        """Return an attempt that is no longer on its way."""
        attempt = self._attempts.pop(key)
        self._left[attempt.chunk] -= 1
        if not self._left[attempt.chunk]:
            del self._left[attempt.chunk]
            self.load -= attempt.task.nproc
        return attempt
