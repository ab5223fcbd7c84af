"""How many short tasks travel together."""

from __future__ import annotations

__all__ = ["ChunkSize"]

_TARGET_SECONDS = 0.5  # of work in a chunk, so that its results are seen soon
_LEAST_SECONDS = 0.05  # which the last chunks have as well
_LIMIT_SECONDS = 1.0  # of work, if all were as long as the longest of late
_MOST = 100
_MEMORY = 0.05  # how much a new duration counts


class ChunkSize:
    """Follows the durations of a pool's plain tasks.

    One Dask task for each piece of work costs about 2 ms; for tasks that are shorter it pays to
    send several as one. Long ones always travel alone.
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
        self._longest = max(elapsed, (1 - _MEMORY) * self._longest)

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
            int(_TARGET_SECONDS / max(self._mean, 1e-6)),
            int(_LIMIT_SECONDS / max(self._longest, 1e-6)),
        )
        if waiting is not None:
            share = max(waiting // slots, int(_LEAST_SECONDS / max(self._mean, 1e-6)))
            size = min(size, share)
        return max(1, size)
