"""Let workers finish the tasks that they are executing before they leave; asks the scheduler only.

The functions that run on a worker are nested functions, which are pickled by value: workers may
lack this package.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from ips_dask_cluster.dask.broadcast import run_on_workers

__all__ = ["dismiss", "drain"]

_ROUND_SECONDS = 20.0


async def drain(
    scheduler: Any,
    names: Collection[str],
    before_leaving: Callable[[list[str]], Awaitable[None]],
    deadline: float | None = None,
) -> None:
    """Let workers finish the tasks that they are executing, take no new ones, and leave.

    ``names`` are names of workers; those that are not connected are ignored. ``before_leaving`` is
    awaited with the workers' addresses after their tasks have ended. ``deadline`` limits the wait
    for running tasks, in seconds; None waits as long as they take. ``Client.retire_workers`` does
    not wait: Dask would run these tasks a second time elsewhere (seen with distributed 2026.8).
    """

    async def finish_executing(seconds: float, dask_worker: Any = None) -> bool:
        import asyncio
        import time

        from distributed.core import Status

        end = time.monotonic() + seconds
        dask_worker.status = Status.closing_gracefully
        state = dask_worker.state
        while (state.executing or state.long_running) and time.monotonic() < end:
            await asyncio.sleep(0.02)
        return not (state.executing or state.long_running)

    loop = asyncio.get_running_loop()
    end = None if deadline is None else loop.time() + deadline
    while True:
        identity = await scheduler.identity(n_workers=-1)
        workers = [a for a, info in identity["workers"].items() if info["name"] in names]
        if not workers:
            return
        seconds = _ROUND_SECONDS if end is None else min(_ROUND_SECONDS, end - loop.time())
        # In rounds: a connection that is lost during a wait of hours must not look like "done"
        done = await run_on_workers(scheduler, workers, finish_executing, seconds=max(0.0, seconds))
        if all(done.get(worker) for worker in workers) or (end is not None and loop.time() >= end):
            break
        await asyncio.sleep(0.1)
    await before_leaving(workers)
    await scheduler.retire_workers(names=list(names), close_workers=True, remove=True)


async def dismiss(scheduler: Any, workers: Sequence[str]) -> None:
    """Close workers, by address, and tear down their plugins, without waiting for their tasks.

    The scheduler's own request to close waits up to 30 s for a callable that runs.
    """

    async def leave(dask_worker: Any = None) -> None:
        import asyncio

        idle = not dask_worker.state.executing
        coroutine = dask_worker.close(executor_wait=idle, reason="the cluster closes")
        # As a task, so that the worker answers before it closes
        dask_worker.leaving = asyncio.ensure_future(coroutine)

    await run_on_workers(scheduler, workers, leave)
