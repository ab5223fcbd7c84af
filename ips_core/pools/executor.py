"""Define the contract between a dispatcher, which decides what runs, and an executor, which runs.

An executor posts events from any thread and in any order; the dispatcher handles them one by one.
Nothing here depends on Dask or on processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ips_core.pools.attempt import Attempt
from ips_core.tasks.task import Task

__all__ = [
    "Started",
    "ExecutorLost",
    "Ended",
    "Executor",
    "Requeued",
    "Post",
    "AttemptLost",
    "ExecutorEvent",
]


@dataclass(frozen=True, slots=True)
class Started:
    """An attempt has started; ``record`` is the first part of the runner's record."""

    key: str
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt has ended; ``record`` is the runner's record."""

    key: str
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Requeued:
    """Attempts that have not started and will not; with ``alone`` they must be sent one by one."""

    keys: tuple[str, ...]
    alone: bool = False


@dataclass(frozen=True, slots=True)
class AttemptLost:
    """An attempt had started, and its worker was lost before its end."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class ExecutorLost:
    """The whole executor is lost: no more events about its attempts will come."""

    reason: str


ExecutorEvent = Started | Ended | Requeued | AttemptLost | ExecutorLost
#: Takes an event, or a function that returns events, which the dispatcher calls in its own thread.
Post = Callable[[ExecutorEvent | Callable[[], Iterable[ExecutorEvent]]], None]


class Executor(Protocol):
    """A place where tasks run."""

    @property
    def slots(self) -> int:
        """Number of one-core tasks that run side by side."""
        ...

    @property
    def ends_at(self) -> float | None:
        """Time at which all tasks must have ended, in seconds since the epoch; None if unknown."""
        ...

    @property
    def journal_directory(self) -> Path | None:
        """Directory of the records of finished tasks, for recovery after a crash."""
        ...

    def why_not(self, task: Task) -> str:
        """Return the reason why a task can never run here, empty if it can."""
        ...

    def start(self, post: Post) -> None:
        """Prepare for tasks; ``post`` takes all events from now on and returns at once."""
        ...

    def submit(self, attempts: Sequence[Attempt]) -> None:
        """Run these attempts one after the other in one place, as soon as there is room.

        Any exception means that they cannot be sent and none was started.
        """
        ...

    def hold(self) -> None:
        """Start nothing more; attempts not started return as :class:`Requeued` or ``Ended``."""
        ...

    def cancel(self) -> None:
        """End all running attempts; return when they have ended, after 10 s at most.

        Attempts that had started are posted as :class:`Started`, and those whose end was seen as
        ``Ended``.
        """
        ...

    def close(self) -> str:
        """Release what the executor uses; return the reason if that failed, else an empty text."""
        ...
