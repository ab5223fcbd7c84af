"""How many short tasks travel together."""

from __future__ import annotations

__all__ = ["ChunkSize"]

_TARGET_SECONDS = 1.0  # of work in a chunk: what is behind a long task waits for it
_LEAST_SECONDS = 0.2  # which the last chunks have as well
_LIMIT_SECONDS = 2.0  # of work, if all were as long as the longest of late
_MOST = 300
_MOST_IN_ALL = 100_000  # for all slots together: each task on its way takes memory here
_MEMORY = 0.05  # how much a new duration counts
_FADING = 0.2  # how much of the longest is forgotten with each


class ChunkSize:
    """Follows the durations of a pool's plain tasks.

    A Dask task costs 2 ms, and several times as much where its worker, the scheduler and this
    process share their cores with the work; for tasks that are not much longer it pays to send
    several as one. Long ones always travel alone.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._mean = 0.0
        self._longest = 0.0

    def take(self, elapsed: float) -> None:
        """Take note of how long a task took, in seconds."""
        self._seen += 1
        weight = max(_MEMORY, 1 / self._seen)
        self._mean += weight * (elapsed - self._mean)
        self._longest = max(elapsed, (1 - _FADING) * self._longest)

    def next(self, waiting: int | None, slots: int) -> int:
        """Return how many tasks the next chunk should have.

        Parameters
        ----------
        waiting : int or None
            Tasks that are still to be sent, as far as known: the last ones are shared out.
        slots : int
            Tasks that can run at the same time.
        """
        if not self._seen:
            return 1
        size = min(
            _MOST,
            _MOST_IN_ALL // slots,
            int(_TARGET_SECONDS / max(self._mean, 1e-6)),
            int(_LIMIT_SECONDS / max(self._longest, 1e-6)),
        )
        if waiting is not None:
            share = max(waiting // slots, int(_LEAST_SECONDS / max(self._mean, 1e-6)))
            size = min(size, share)
        return max(1, size)
