"""Run a function on workers through the scheduler, without a client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ips_dask_cluster.by_value import dumps

__all__ = ["run_on_workers"]


async def run_on_workers(
    scheduler: Any, workers: Sequence[str], function: Callable[..., Any], **keywords: Any
) -> dict[str, Any]:
    """Run a function on workers and return its results by address, without those of failed workers.

    ``workers`` are addresses. The function or coroutine function must pickle by value, since
    workers may lack this package; a parameter ``dask_worker`` receives the worker.
    """
    answers = await scheduler.broadcast(
        msg={
            "op": "run",
            "function": dumps(function),
            "kwargs": dumps(keywords),
            "wait": True,
        },
        workers=list(workers),
        on_error="ignore",
    )
    return {
        worker: answer["result"] for worker, answer in answers.items() if answer["status"] == "OK"
    }
