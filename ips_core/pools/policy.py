"""Define how a run handles failures and time limits, and which reports it makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ips_core.tasks.record import TaskRecord
from ips_core.tasks.task import Task

__all__ = ["Policy", "Report"]


@dataclass(frozen=True)
class Policy:
    """How a run handles failures and time limits."""

    retries: int = 2  #: how often a task runs again after its worker was lost
    retry_failed: int = 0  #: how often a task runs again after it failed or timed out
    #: Failed tasks after which no more start: a count, or below 1 a share of all; None: no limit.
    max_failures: float | None = None
    #: Seconds that must be left before the executor ends for a task to start; None: no limit.
    time_request: float | None = None
    launch_interval: float = 0.0  #: seconds between two starts


class Report(Protocol):
    """Receiver of a run's events, in the dispatcher's thread."""

    def started(self, task: Task, number: int, record: dict[str, Any]) -> None:
        """Report the start of an attempt, the ``number``-th of its task."""
        ...

    def ended(self, task: Task, number: int, record: dict[str, Any], again: bool) -> None:
        """Report the end of an attempt; ``again`` is True if another attempt follows."""
        ...

    def recorded(self, record: TaskRecord, work: str, resumed: bool) -> None:
        """Report the final record of a task; ``resumed`` is True if an earlier run made it."""
        ...

    def flush(self) -> None:
        """Send the reports so far."""
        ...

    def finished(self, trouble: str) -> None:
        """Report the end of the run; ``trouble`` is the run's own error or empty."""
        ...
