"""Watch the end of an allocation, which may change while the allocation runs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace

from ips_dask_cluster.slurm.allocation import Allocation
from ips_dask_cluster.slurm.commands import JobTimes

__all__ = ["watch_end"]

_SECONDS_BETWEEN_LOOKS = 60.0
#: Least seconds to sleep, so that a clock that is a little late causes one more look, not many.
_LEAST_SECONDS = 1.0


async def watch_end(
    allocation: Allocation,
    margin: float,
    look: Callable[[str], Awaitable[JobTimes | None]],
    moved: Callable[[Allocation], None],
    near: Callable[[Allocation, float], None],
) -> None:
    """Call ``near`` once, ``margin`` seconds before the end of an allocation.

    The limit of a job may change while it runs (``scontrol update TimeLimit=``), so ``look`` asks
    Slurm each minute, and once more before the call; it returns None if the end cannot be known.
    ``moved`` is called with the allocation when its end has changed. If the new end is beyond the
    margin, ``near`` is called again when it comes near.
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
