"""Between a pool's dispatcher, which decides what runs, and an executor, which knows where.

An executor runs what it is given and tells news of it, in any thread and any order; the dispatcher
takes the news one after the other. Nothing here knows of Dask, or of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ips_core.pools.attempt import Attempt
from ips_core.tasks.task import Task

__all__ = ["Begun", "Broken", "Ended", "Executor", "GivenBack", "Hear", "Lost", "News"]


@dataclass(frozen=True, slots=True)
class Begun:
    """An attempt has begun; ``record`` is the first part of the runner's."""

    key: str
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt has ended; ``record`` is the runner's."""

    key: str
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class GivenBack:
    """Attempts that have not begun, and will not; ``alone`` if they were the executor's trouble."""

    keys: tuple[str, ...]
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """An attempt had begun, and nobody will see its end: its worker was lost."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The whole executor is lost: nothing that runs on it will be heard of any more."""

    reason: str


News = Begun | Ended | GivenBack | Lost | Broken
#: Takes news, or a function that returns some, which is then called in the dispatcher's thread.
Hear = Callable[[News | Callable[[], Iterable[News]]], None]


class Executor(Protocol):
    """Where tasks run."""

    @property
    def slots(self) -> int:
        """How many tasks of one core it can run side by side."""
        ...

    @property
    def ends_at(self) -> float | None:
        """When all have to have ended, in seconds since the epoch; None: not known."""
        ...

    @property
    def journal_directory(self) -> Path | None:
        """Where ended tasks are noted, for who comes after a process that was killed."""
        ...

    def why_not(self, task: Task) -> str:
        """Return why a task can never run here, in a sentence; nothing if it can."""
        ...

    def start(self, hear: Hear) -> None:
        """Get ready; from now on tell the news to ``hear``, which returns at once."""
        ...

    def submit(self, attempts: Sequence[Attempt]) -> None:
        """Run these, one after the other in one place, as soon as there is room.

        Raises
        ------
        Exception
            They cannot be sent. Nothing was started.
        """
        ...

    def hold(self) -> None:
        """Begin nothing more: what has not begun comes back as :class:`GivenBack` or ``Ended``."""
        ...

    def cancel(self) -> None:
        """End what runs, for good; return when that is so, after 10 s at most.

        What had begun is told as :class:`Begun`, and as ``Ended`` where its end was seen.
        """
        ...

    def close(self) -> str:
        """Tidy up; return a sentence about what went wrong with that, or nothing."""
        ...
