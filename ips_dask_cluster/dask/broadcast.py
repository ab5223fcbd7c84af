"""Runs a function on workers, by way of the scheduler, without a client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ips_dask_cluster.by_value import dumps

__all__ = ["run_on_workers"]


async def run_on_workers(
    scheduler: Any, workers: Sequence[str], function: Callable[..., Any], **keywords: Any
) -> dict[str, Any]:
    """Return what a function answers on workers, by address; only of those that answer.

    Parameters
    ----------
    scheduler : distributed.core.rpc
        Connection to the scheduler.
    workers : sequence of str
        Addresses.
    function : callable
        A function, or coroutine function, that pickles by value: workers may lack this package.
        One with a parameter ``dask_worker`` is given the worker.
    **keywords
        For the function.
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
