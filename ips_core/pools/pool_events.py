"""What the simulation log, and the log file, are told of task pools."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from ips_core.events import span_id, trace
from ips_core.link import FrameworkLink
from ips_core.pools.task import Task

__all__ = ["PoolEvents"]


class PoolEvents:
    """The events of a component's pools.

    Parameters
    ----------
    link : FrameworkLink
        Takes the events.
    logger : logging.Logger
        Takes the reasons of failures.
    span : callable
        Returns the id of the call that is running, the parent of the tasks' spans.
    """

    def __init__(
        self, link: FrameworkLink, logger: logging.Logger, span: Callable[[], str]
    ) -> None:
        self._link = link
        self._logger = logger
        self._span = span

    def pool_began(self, pool: str, begin: float) -> None:
        """A pool was submitted at that time."""
        self._link.emit("IPS_TASK_POOL_BEGIN", f"task_pool = {pool} ", at=begin)

    def pool_ended(self, pool: str, begin: float, trouble: str = "") -> None:
        """All that was submitted at that time has ended; trouble is what the pool itself had."""
        elapsed = time.time() - begin
        fields: dict[str, Any] = {"elapsed_time": elapsed} | ({"error": trouble} if trouble else {})
        comment = f"task_pool = {pool}  elapsed time = {elapsed:.2f} S"
        self._link.emit("IPS_TASK_POOL_END", comment, ok=not trouble, **fields)
        if trouble:
            self._logger.error("pool %s: %s", pool, trouble)

    def task_started(self, task: Task, record: dict[str, Any]) -> None:
        """A task runs; the record is the first part of ``task_runner.Runner``'s."""
        self._link.emit(
            "IPS_LAUNCH_DASK_TASK",
            f"task_name = {task.name}, Target = {task.target}",
            at=record["start_time"],
            task_name=task.name,
            start_time=record["start_time"],
            host=record["host"],
            worker=record["worker"],
        )

    def task_ended(self, task: Task, record: dict[str, Any]) -> None:
        """A task, or an attempt at it, has ended."""
        begin, elapsed = record["start_time"], record["elapsed_time"]
        how = "timed-out after" if record["status"] == "timed_out" else "elapsed time ="
        if record["error"]:
            why = record["traceback"].rstrip() or record["error"]
            self._logger.error("task %s: %s", task.name, why)
        self._link.emit(
            "IPS_TASK_END",
            f"task_name = {task.name}, {how} {elapsed:.2f}s",
            at=begin + elapsed,
            ok=record["status"] == "finished",
            trace=trace(
                record["worker"],
                task.target,
                span=span_id(task.target, task.name, begin),
                begin=begin,
                end=begin + elapsed,
                parent=self._span(),
            ),
            task_name=task.name,
            exit_status=record["exit_status"],
            start_time=begin,
            elapsed_time=elapsed,
            host=record["host"],
            worker=record["worker"],
            **({"error": record["error"]} if record["error"] else {}),
        )
