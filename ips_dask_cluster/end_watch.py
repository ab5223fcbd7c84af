"""Watch the end of an allocation, which may be moved while it runs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace

from ips_dask_cluster.slurm.allocation import Allocation
from ips_dask_cluster.slurm.commands import JobTimes

__all__ = ["watch_end"]

_SECONDS_BETWEEN_LOOKS = 60.0
#: So that a clock that is a little late leads to one look more, not to many.
_LEAST_SECONDS = 1.0


async def watch_end(
    allocation: Allocation,
    margin: float,
    look: Callable[[str], Awaitable[JobTimes | None]],
    moved: Callable[[Allocation], None],
    near: Callable[[Allocation, float], None],
) -> None:
    """Announce the end of an allocation some seconds before it.

    The limit of a job may be changed while it runs (``scontrol update TimeLimit=``), so Slurm is
    asked each minute, and once more before the announcement. An end that is moved beyond the
    margin is announced again when it comes near.

    Parameters
    ----------
    allocation : Allocation
        As it is known now.
    margin : float
        Seconds before its end.
    look : callable
        Returns when a job ends; None when that cannot be known.
    moved : callable
        Called with the allocation when it has another end.
    near : callable
        Called with the allocation and the seconds that are left.
    """
    announced, fresh = False, True
    while allocation.job_id is not None or allocation.end_time is not None:
        if allocation.job_id is not None and not fresh:
            found = await look(allocation.job_id)
            if found is not None and found.end != allocation.end_time:
                allocation = replace(allocation, end_time=found.end)
                moved(allocation)
        fresh = False
        left = allocation.time_left()
        is_near = left is not None and left <= margin
        if is_near and not announced:
            near(allocation, max(0.0, left or 0.0))
        announced = is_near
        away = math.inf if left is None or is_near else max(left - margin, _LEAST_SECONDS)
        await asyncio.sleep(min(away, _SECONDS_BETWEEN_LOOKS))
