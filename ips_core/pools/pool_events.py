"""What the simulation log, and the log file, are told of task pools."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from ips_core.ipc.link import FrameworkLink
from ips_core.ipc.messages import Start
from ips_core.log.events import component_event, span_id, trace
from ips_core.pools.pool_journal import Submission
from ips_core.pools.summary import PoolSummary
from ips_core.tasks.record import TaskRecord
from ips_core.tasks.task import Task

__all__ = ["SubmissionEvents"]


class SubmissionEvents:
    """The events of a submission of a pool; tasks' are sent together, see :meth:`flush`.

    Parameters
    ----------
    start : Start
        Whose pool it is.
    link : FrameworkLink
        Takes the events.
    logger : logging.Logger
        Takes the reasons of failures.
    pool : str
        Name of the pool.
    parent : str
        Id of the call that submitted it, the parent of the tasks' spans.
    launch : str
        What the start of a task is called: ``IPS_LAUNCH_DASK_TASK`` or ``IPS_LAUNCH_TASK_POOL``.
    """

    def __init__(
        self,
        start: Start,
        link: FrameworkLink,
        logger: logging.Logger,
        pool: str,
        parent: str,
        launch: str = "IPS_LAUNCH_DASK_TASK",
    ) -> None:
        self._code, self._started_at = start.name, start.start_time
        self._link = link
        self._logger = logger
        self._pool = pool
        self._parent = parent
        self._launch = launch
        self._events: list[dict[str, Any]] = []
        self._records: list[tuple[str, TaskRecord]] = []
        self._summary = PoolSummary(pool)
        self.begin = time.time()
        #: Cores for tasks, once they are known.
        self.slots = 0
        #: Takes what has ended with success, for a run that is resumed.
        self.journal: Submission | None = None
        #: Called at the end.
        self.on_finished: Callable[[], object] = lambda: None

    def pool_began(self) -> None:
        """The pool was submitted just now."""
        self._add("IPS_TASK_POOL_BEGIN", f"task_pool = {self._pool} ", self.begin)
        self.flush()

    def started(self, task: Task, number: int, record: dict[str, Any]) -> None:
        """A task runs; the record is the first part of ``tasks.runner.Runner``'s."""
        self._add(
            self._launch,
            f"task_name = {task.name}, Target = {task.target}",
            record["start_time"],
            task_name=task.name,
            start_time=record["start_time"],
            host=record["host"],
            worker=record["worker"],
            attempt=number,
        )

    def ended(self, task: Task, number: int, record: dict[str, Any], again: bool) -> None:
        """A task has ended, or an attempt at it that another one follows."""
        if again:
            self._summary.add_lost(task.nproc, record["elapsed_time"])
        begin, elapsed = record["start_time"], record["elapsed_time"]
        how = "timed-out after" if record["status"] == "timed_out" else "elapsed time ="
        more = {key: record[key] for key in ("error", "output") if record.get(key)}
        if record["error"]:
            why = record["traceback"].rstrip() or record["error"]
            self._logger.error("task %s: %s", task.name, why)
        self._add(
            "IPS_TASK_END",
            f"task_name = {task.name}, {how} {elapsed:.2f}s",
            begin + elapsed,
            ok=record["status"] == "finished",
            trace=trace(
                record["worker"],
                task.target,
                span=span_id(task.target, task.name, begin),
                begin=begin,
                end=begin + elapsed,
                parent=self._parent,
            ),
            task_name=task.name,
            status=record["status"],
            exit_status=record["exit_status"],
            start_time=begin,
            elapsed_time=elapsed,
            host=record["host"],
            worker=record["worker"],
            attempt=number,
            **more,
        )

    def recorded(self, record: TaskRecord, work: str, resumed: bool) -> None:
        """This is what has become of a task, for good, in this run or in the one before."""
        self._summary.add(record, resumed)
        if self.journal is not None:
            self._records.append((work, record))

    def flush(self) -> None:
        """Send the events there are, and note the records."""
        if self.journal is not None and self._records:
            records, self._records = self._records, []
            self.journal.ended(records)
        if self._events:
            events, self._events = self._events, []
            self._link.emit_all(events)

    def finished(self, trouble: str) -> None:
        """All that was submitted has ended; trouble is what the pool itself had."""
        elapsed = time.time() - self.begin
        fields = {"elapsed_time": elapsed} | self._summary.fields(self.slots, elapsed)
        comment = f"task_pool = {self._pool}  elapsed time = {elapsed:.2f} S"
        more = {"error": trouble} if trouble else {}
        self._add("IPS_TASK_POOL_END", comment, time.time(), ok=not trouble, **fields, **more)
        self._logger.info(self._summary.text(self.slots, elapsed))
        if trouble:
            self._logger.error("pool %s: %s", self._pool, trouble)
        try:
            self.flush()
        finally:
            self.on_finished()

    def _add(self, eventtype: str, comment: str, at: float, **fields: Any) -> None:
        event = component_event(
            self._code, eventtype, comment, at=at, started=self._started_at, **fields
        )
        self._events.append(event)
