"""Track the time at which tasks must have ended, even if the limit of the Slurm job changes."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ips_dask_cluster.errors import SlurmCommandError
from ips_dask_cluster.slurm import commands
from ips_dask_cluster.slurm.commands import JobTimes

__all__ = ["AllocationEnd", "JobEnd"]

_SECONDS_BETWEEN_LOOKS = 60.0
_PATIENCE = 5.0  # Seconds for an answer of Slurm; a pool waits for the first one.

_lock = threading.Lock()
_latest: dict[str, tuple[float, JobTimes | None]] = {}


@dataclass(frozen=True)
class JobEnd:
    """Say when tasks must have ended, as known at some moment."""

    job_id: str | None = None  #: The Slurm job on whose nodes tasks run; None: not in a job.
    ends_at: float | None = None  #: Seconds since the epoch; None: the job has no end.
    margin: float = 0.0  #: Seconds between this time and the end of the job.


class AllocationEnd:
    """Hold ``ends_at``, the time at which tasks must have ended, and keep it up to date.

    ``known`` is the end as known at the start of the simulation or of the cluster. Slurm is asked
    when `follow` is called and then once a minute; all instances of a process share the answers.
    """

    def __init__(self, known: JobEnd) -> None:
        self.ends_at = known.ends_at
        self._known = known
        self._closed = threading.Event()

    def follow(self, moved: Callable[[], object]) -> None:
        """Ask Slurm now, and then once a minute until :meth:`close`.

        Another thread calls ``moved`` after each change of ``ends_at``.
        """
        if self._known.job_id is None:
            return
        self._look(self._known.job_id)
        arguments = (self._known.job_id, moved)
        threading.Thread(
            target=self._follow, args=arguments, name="allocation-end", daemon=True
        ).start()

    def close(self) -> None:
        """Stop asking Slurm."""
        self._closed.set()

    def _follow(self, job_id: str, moved: Callable[[], object]) -> None:
        while not self._closed.wait(_SECONDS_BETWEEN_LOOKS):
            before = self.ends_at
            self._look(job_id)
            if self.ends_at != before and not self._closed.is_set():
                moved()

    def _look(self, job_id: str) -> None:
        times = _times(job_id)
        if times is not None:
            end = times.end
            self.ends_at = None if end is None else end.timestamp() - self._known.margin


def _times(job_id: str) -> JobTimes | None:
    """Return Slurm's last answer about a job's end, at most a minute old; None if there is none."""
    with _lock:
        asked, times = _latest.get(job_id, (-math.inf, None))
        # Less than the period of one follower, so that its next question is not answered from the
        # cache.
        if time.monotonic() - asked < 0.9 * _SECONDS_BETWEEN_LOOKS:
            return times
        # The controller may be busy; its last answer is the best estimate.
        with contextlib.suppress(SlurmCommandError):
            times = commands.job_end(job_id, _PATIENCE) or times
        _latest[job_id] = (time.monotonic(), times)
        return times
