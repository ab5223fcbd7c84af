"""Know when tasks have to have ended, also when the limit of the Slurm job is changed."""

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
_PATIENCE = 5.0  # a pool waits for the first look

_lock = threading.Lock()
_latest: dict[str, tuple[float, JobTimes | None]] = {}


@dataclass(frozen=True)
class JobEnd:
    """When tasks have to have ended, as it was known at some moment.

    Parameters
    ----------
    job_id : str or None
        The Slurm job on whose nodes they run; None: not on those of a job.
    ends_at : float or None
        In seconds since the epoch; None: the job has no end.
    margin : float
        By so many seconds that is before the end of the job.
    """

    job_id: str | None = None
    ends_at: float | None = None
    margin: float = 0.0


class AllocationEnd:
    """When tasks have to have ended, as things stand now.

    Slurm is asked when somebody begins to follow it and then each minute; in one process, no more
    often than that for all who do.

    Parameters
    ----------
    known : JobEnd
        What was known at the start of the simulation, or of the cluster.
    """

    def __init__(self, known: JobEnd) -> None:
        self.ends_at = known.ends_at
        self._known = known
        self._closed = threading.Event()

    def follow(self, moved: Callable[[], object]) -> None:
        """Look now, and from now on until :meth:`close`.

        Parameters
        ----------
        moved : callable
            Called in another thread when ``ends_at`` has changed.
        """
        if self._known.job_id is None:
            return
        self._look(self._known.job_id)
        arguments = (self._known.job_id, moved)
        threading.Thread(
            target=self._follow, args=arguments, name="allocation-end", daemon=True
        ).start()

    def close(self) -> None:
        """Look no more."""
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
    """Return when a job ends, as Slurm told it within the last minute; None when it did not."""
    with _lock:
        asked, times = _latest.get(job_id, (-math.inf, None))
        # A little less than the time between two looks of one follower
        if time.monotonic() - asked < 0.9 * _SECONDS_BETWEEN_LOOKS:
            return times
        # The controller may be busy; what it said last is the best guess
        with contextlib.suppress(SlurmCommandError):
            times = commands.job_end(job_id, _PATIENCE) or times
        _latest[job_id] = (time.monotonic(), times)
        return times
