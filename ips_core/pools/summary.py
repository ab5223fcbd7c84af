"""Summarize a run in figures, in constant memory."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from typing import Any

from ips_core.tasks.record import TaskRecord

__all__ = ["PoolSummary"]

_SLOWEST = 5
_ENDED = ("finished", "failed", "timed_out")  # The durations of these say how long tasks are.


class PoolSummary:
    """Figures of a run, from the records of its tasks."""

    def __init__(self, pool: str) -> None:
        self._pool = pool
        self._counts: Counter[str] = Counter()
        self._resumed = 0
        self._attempts = 0
        self._slot_seconds = 0.0
        # Welford (1962), doi:10.1080/00401706.1962.10490022; plain sums of squares would cancel.
        self._timed = 0
        self._mean = self._squares = 0.0
        self._min, self._max = math.inf, 0.0
        self._slowest: list[tuple[float, str]] = []  # a heap with the shortest task first

    def add(self, record: TaskRecord, resumed: bool = False) -> None:
        """Add the final record of a task; the time of a resumed task is not counted."""
        self._counts[record.status] += 1
        if resumed:
            self._resumed += 1
            return
        self._attempts += record.attempts
        if record.start_time:
            self._slot_seconds += record.slots * record.elapsed_time
        if record.status in _ENDED and record.start_time:
            self._time(record.name, record.elapsed_time)

    def add_lost(self, slots: int, elapsed_time: float) -> None:
        """Add the cost of an attempt that another one followed, in cores and seconds."""
        self._slot_seconds += slots * elapsed_time

    def _time(self, name: str, seconds: float) -> None:
        self._timed += 1
        before = seconds - self._mean
        self._mean += before / self._timed
        self._squares += before * (seconds - self._mean)
        self._min, self._max = min(self._min, seconds), max(self._max, seconds)
        if len(self._slowest) < _SLOWEST:
            heapq.heappush(self._slowest, (seconds, name))
        elif seconds > self._slowest[0][0]:
            heapq.heapreplace(self._slowest, (seconds, name))

    def fields(self, slots: int, wall_time: float) -> dict[str, Any]:
        """Return the figures as the simulation log has them; ``wall_time`` is in seconds.

        ``tasks``; ``counts`` by status; ``resumed``, the tasks that an earlier run finished;
        ``attempts``; ``elapsed_min``, ``_mean``, ``_max`` and ``_sd`` (sample standard deviation)
        in seconds, of tasks that finished, failed or timed out, None if too few did;
        ``core_hours_used``, with those of repeated attempts; ``core_hours_available`` on ``slots``
        cores; ``slowest``, the name and seconds of at most five tasks, the slowest first.
        """
        timed = self._timed > 0
        deviation = math.sqrt(self._squares / (self._timed - 1)) if self._timed > 1 else None
        return {
            "tasks": sum(self._counts.values()),
            "counts": dict(self._counts),
            "resumed": self._resumed,
            "attempts": self._attempts,
            "elapsed_min": self._min if timed else None,
            "elapsed_mean": self._mean if timed else None,
            "elapsed_max": self._max if timed else None,
            "elapsed_sd": deviation,
            "core_hours_used": self._slot_seconds / 3600,
            "core_hours_available": slots * wall_time / 3600,
            "slowest": [[name, seconds] for seconds, name in sorted(self._slowest, reverse=True)],
        }

    def text(self, slots: int, wall_time: float) -> str:
        """Return the figures as a line for the log file; parameters as for :meth:`fields`."""
        fields = self.fields(slots, wall_time)
        tasks = fields["tasks"]
        statuses = sorted(self._counts.items(), key=lambda item: (item[0] != "finished", item[0]))
        counted = [f"{count} {status.replace('_', ' ')}" for status, count in statuses]
        parts = [", ".join([f"pool {self._pool}: {tasks} task{'s' * (tasks != 1)}", *counted])]
        if self._resumed:
            parts[0] += f" ({self._resumed} in the run before)"
        if self._timed == 1:
            parts.append(f"{_figure(self._mean)} s")
        elif self._timed:
            least, most = _figure(self._min), _figure(self._max)
            spread = f"{least} to {most} s, sd {_figure(fields['elapsed_sd'])} s"
            parts.append(f"{_figure(self._mean)} s mean ({spread})")
        used, available = (fields[f"core_hours_{which}"] for which in ("used", "available"))
        parts.append(f"{_figure(used)} of {_figure(available)} core hours used")
        return "; ".join(parts)


def _figure(value: float) -> str:
    """Return a number with three digits or three decimals, never with an exponent."""
    return (
        f"{value:.0f}" if value >= 100 else f"{float(f'{value:.3g}'):.3f}".rstrip("0").rstrip(".")
    )
