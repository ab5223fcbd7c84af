"""Decide which checkpoints are kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ips_core.config.checkpoint import CheckpointPlan, Moment

__all__ = ["CheckpointHistory", "checkpoint_name"]


@dataclass
class CheckpointHistory:
    """The checkpoints that one component has made, alone or with others, in this run."""

    #: When the last checkpoint was made; None before the first.
    last: Moment | None = None
    _own: dict[str, None] = field(default_factory=dict)
    _protected: set[str] = field(default_factory=set)
    _count: int = 0

    def note(self, name: str) -> None:
        """Record that this run has saved files in a checkpoint."""
        self._own[name] = None

    def add(self, name: str, moment: Moment, plan: CheckpointPlan, protect: bool) -> None:
        """Record a complete checkpoint; with `protect`, it is never removed."""
        self.note(name)
        self.last = moment
        self._count += 1
        if protect or (plan.protect_every and self._count % plan.protect_every == 0):
            self._protected.add(name)

    def obsolete(self, existing: Iterable[str], keep: int) -> list[str]:
        """Return which of the existing checkpoints to remove, so that `keep` of them stay.

        Checkpoints of earlier runs go first, by time, then those of this run, in the order in which
        they were made. Protected ones stay and do not count.
        """
        there = set(existing)
        earlier = sorted(there - self._own.keys(), key=float)
        own = [name for name in self._own if name in there and name not in self._protected]
        return [*earlier, *own][: max(0, len(earlier) + len(own) - keep)]


def checkpoint_name(time_stamp: Any) -> str:
    """Return the name of a checkpoint's directory, such as ``3.000``.

    Raise ValueError if the time stamp is not a number.
    """
    try:
        return f"{float(time_stamp):.3f}"
    except (TypeError, ValueError):
        raise ValueError(f"time stamp {time_stamp!r}: expected a number") from None
