"""What a pool was in figures, in constant memory."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from typing import Any

from ips_core.tasks.record import TaskRecord

__all__ = ["PoolSummary"]

_SLOWEST = 5
_ENDED = ("finished", "failed", "timed_out")  # of themselves: their times say how long tasks are


class PoolSummary:
    """Takes the records of a pool one by one.

    Parameters
    ----------
    pool : str
        Name of the pool.
    """

    def __init__(self, pool: str) -> None:
        self._pool = pool
        self._counts: Counter[str] = Counter()
        self._resumed = 0
        self._attempts = 0
        self._slot_seconds = 0.0
        # Welford (1962), doi:10.1080/00401706.1962.10490022: sums of squares would cancel
        self._timed = 0
        self._mean = self._squares = 0.0
        self._min, self._max = math.inf, 0.0
        self._slowest: list[tuple[float, str]] = []  # a heap, the shortest of them first

    def add(self, record: TaskRecord, resumed: bool = False) -> None:
        """Take the last record of a task.

        Parameters
        ----------
        record : TaskRecord
            What became of it.
        resumed : bool
            True if that was in the run before, so that it has cost nothing in this one.
        """
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
        """Take what an attempt has cost that was followed by another.

        Parameters
        ----------
        slots : int
            Cores that it held.
        elapsed_time : float
            For so many seconds.
        """
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
        """Return the figures, as the simulation log has them.

        Parameters
        ----------
        slots : int
            Cores for tasks of the cluster.
        wall_time : float
            Seconds from the pool's submission to its end.

        Returns
        -------
        dict
            ``tasks``; ``counts`` (by status); ``resumed``, those of them that had finished in the
            run before; ``attempts``; ``elapsed_min``, ``_mean``, ``_max`` and ``_sd`` in seconds,
            of the tasks that ended of themselves (None if there are none; ``_sd``, the sample
            standard deviation, is None for one); ``core_hours_used`` by tasks, lost attempts too;
            ``core_hours_available`` on the cluster meanwhile; ``slowest``, the name and seconds of
            at most five, the slowest first.
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
        """Return the figures as a line for people; parameters as for :meth:`fields`."""
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
    """Return a number with three digits or three decimals, and never with an exponent."""
    return (
        f"{value:.0f}" if value >= 100 else f"{float(f'{value:.3g}'):.3f}".rstrip("0").rstrip(".")
    )
