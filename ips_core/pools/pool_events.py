"""Report a run to the simulation log, the log file and the resume log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from ips_core.ipc.link import FrameworkLink
from ips_core.ipc.messages import Start
from ips_core.log.events import component_event, span_id, trace
from ips_core.pools.resume_log import ResumeLogRun
from ips_core.pools.summary import PoolSummary
from ips_core.tasks.record import TaskRecord
from ips_core.tasks.task import Task

__all__ = ["RunEvents"]


class RunEvents:
    """Reports of one run of a pool.

    ``parent`` is the id of the call that submitted the pool and the parent of the tasks' spans;
    ``launch`` is the type of a task's start event.
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
        #: Resume log, which records the tasks that finished successfully.
        self.journal: ResumeLogRun | None = None
        #: Called after the last report.
        self.on_finished: Callable[[], object] = lambda: None

    def pool_began(self) -> None:
        """Report that the pool was submitted."""
        self._add("IPS_TASK_POOL_BEGIN", f"task_pool = {self._pool} ", self.begin)
        self.flush()

    def started(self, task: Task, number: int, record: dict[str, Any]) -> None:
        """Report the start of a task; ``record`` is the first part of the runner's record."""
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
        """Report the end of an attempt; ``again`` is True if another attempt follows."""
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
        """Count the final record of a task; ``resumed`` is True if an earlier run made it."""
        self._summary.add(record, resumed)
        if self.journal is not None:
            self._records.append((work, record))

    def flush(self) -> None:
        """Send the collected events and write the records to the resume log."""
        if self.journal is not None and self._records:
            records, self._records = self._records, []
            self.journal.ended(records)
        if self._events:
            events, self._events = self._events, []
            self._link.emit_all(events)

    def finished(self, trouble: str) -> None:
        """Report the end of the run; ``trouble`` is the run's own error or empty."""
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
