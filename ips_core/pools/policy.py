"""What a submission is told to do about failures and time, and whom it tells what happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ips_core.tasks.record import TaskRecord
from ips_core.tasks.task import Task

__all__ = ["Policy", "Report"]


@dataclass(frozen=True)
class Policy:
    """What a pool does about failures and time.

    Parameters
    ----------
    retries : int
        How often a task is run again whose worker was lost.
    retry_failed : int
        How often a task is run again that failed.
    max_failures : int, float or None
        Failed tasks after which no more are started: above this count, or, below 1, above this
        share of the tasks. None: all are started.
    time_request : float or None
        Seconds that have to be left before the end for a task to be started.
    launch_interval : float
        Seconds between two starts.
    """

    retries: int = 2
    retry_failed: int = 0
    max_failures: float | None = None
    time_request: float | None = None
    launch_interval: float = 0.0


class Report(Protocol):
    """Hears what happens, in the dispatcher's thread."""

    def started(self, task: Task, number: int, record: dict[str, Any]) -> None:
        """An attempt, the task's ``number``-th, has begun."""
        ...

    def ended(self, task: Task, number: int, record: dict[str, Any], again: bool) -> None:
        """An attempt has ended; ``again`` tells whether another follows."""
        ...

    def recorded(self, record: TaskRecord, work: str, resumed: bool) -> None:
        """This is what has become of a task, for good, in this run or in the one before."""
        ...

    def flush(self) -> None:
        """That is all for now."""
        ...

    def finished(self, trouble: str) -> None:
        """All have ended; trouble is what the submission itself had, or nothing."""
        ...
