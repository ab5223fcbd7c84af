"""Choose how many short tasks form one chunk."""

from __future__ import annotations

__all__ = ["ChunkSize"]

_TARGET_SECONDS = 1.0  # Work in a chunk: tasks behind a long one wait for it.
_LEAST_SECONDS = 0.2  # Work in the last chunks, when the remaining tasks are shared out.
_LIMIT_SECONDS = 2.0  # Work in a chunk if every task took as long as the longest recent one.
_MOST = 300
_MOST_IN_ALL = 100_000  # Tasks in the chunks of all slots: each takes memory in this process.
_MEMORY = 0.05  # Weight of a new duration in the mean.
_FADING = 0.2  # Share of the longest duration that each new task forgets.


class ChunkSize:
    """Chunk size that follows the durations of a pool's plain tasks.

    A Dask task costs 2 ms, and several times as much where its worker, the scheduler and this
    process share their cores with the work. Tasks that are not much longer are sent in chunks; long
    ones are sent alone.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._mean = 0.0
        self._longest = 0.0

    def take(self, elapsed: float) -> None:
        """Record the duration of a task in seconds."""
        self._seen += 1
        weight = max(_MEMORY, 1 / self._seen)
        self._mean += weight * (elapsed - self._mean)
        self._longest = max(elapsed, (1 - _FADING) * self._longest)

    def next(self, waiting: int | None, slots: int) -> int:
        """Return how many tasks the next chunk should have.

        ``waiting`` is the number of tasks to be sent, or None; the last ones are shared among the
        ``slots`` tasks that run side by side.
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
