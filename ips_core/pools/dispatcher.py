"""Decide which task of a run starts when, and what follows from the end of each attempt.

A thread of the component's process keeps a bounded number of attempts in flight, handles the
executor's events one by one and reports every start and end. The failure of a task is part of its
record. The dispatcher depends neither on Dask nor on processes.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from ips_core.errors import describe
from ips_core.pools.attempt import Attempt, InFlight
from ips_core.pools.chunk_size import ChunkSize
from ips_core.pools.executor import (
    AttemptLost,
    Ended,
    Executor,
    ExecutorEvent,
    ExecutorLost,
    Requeued,
    Started,
)
from ips_core.pools.policy import Policy, Report
from ips_core.pools.results import Results
from ips_core.pools.task_queue import TaskQueue
from ips_core.tasks.record import TaskRecord
from ips_core.tasks.task import Task

__all__ = ["Dispatcher"]

_WINDOW = 2  # Tasks or chunks in flight for each slot of the executor.
_MOST_NEWS = 1000  # Events, or records, between two reports.
_TOO_LATE = "it cannot end before the allocation does"


class _Wake:
    """Event that makes the dispatcher look for room again."""


class Dispatcher:
    """Run the tasks of one run of a pool on an executor.

    ``name`` is the run's unique name. ``find_finished(task)`` returns the task's fingerprint and,
    if an earlier run of the simulation finished the task, its record, else None.
    """

    def __init__(
        self,
        name: str,
        source: TaskQueue,
        executor: Executor,
        results: Results,
        report: Report,
        policy: Policy,
        find_finished: Callable[[Task], tuple[str, TaskRecord | None]] = lambda task: ("", None),
    ) -> None:
        self.results = results
        self._source = source
        self._total = source.waiting
        self._executor = executor
        self._report = report
        self._policy = policy
        self._find_finished = find_finished
        self._news: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._in_flight = InFlight()
        self._waiting: deque[Attempt] = deque()  # These start before the tasks of the source.
        self._size = ChunkSize()
        self._failures = 0
        self._stopped = ""  # The reason why no more tasks start.
        self._cancelled = False
        self._next_launch = 0.0
        self._is_early = False  # True while the next start waits for launch_interval.
        self._prefix, self._count = uuid.uuid4().hex[:12], 0
        self._new: list[tuple[TaskRecord, bool]] = []
        self.name = name
        self._thread = threading.Thread(target=self._run, name=f"ips-pool-{name}", daemon=True)

    def start(self) -> None:
        """Start the executor and the dispatcher's thread; exceptions are those of the executor."""
        self._executor.start(self._news.put)
        self.results.on_room = lambda: self._news.put(_Wake())
        self._source.tell_late(lambda: self._news.put(_Wake()))
        self._thread.start()

    def cancel(self) -> None:
        """End the running tasks and start no more; return when all have ended."""
        self._news.put(self._cancel)
        # Not join(): after a signal interrupts it, Python takes the thread for ended (bpo-45274).
        self.results.wait()

    # -- the dispatcher's thread -------------------------------------------------------------

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._work_off()
        except BaseException as caught:
            error = caught
            with contextlib.suppress(BaseException):
                self._executor.cancel()  # Nothing else would end the running tasks.
        self._source.close()
        trouble = describe(error) if error else self._stopped
        try:
            trouble = self._executor.close() or trouble
        except BaseException as caught:
            trouble = describe(caught)
        if self._source.error is not None:
            trouble = str(self._source.error)
            error = error or self._source.error
        try:
            self._settle()
        except BaseException as caught:
            error = error or caught
        try:
            self._report.finished(trouble)
        finally:
            self.results.end(error)

    def _work_off(self) -> None:
        while True:
            if self._end_is_near():
                self._end_all("the allocation is about to end")
            self._fill()
            self._settle()
            if not self._in_flight and self._is_empty():
                return
            self._take_news()

    def _is_empty(self) -> bool:
        return not self._waiting and self._source.waiting == 0

    def _settle(self) -> None:
        """Send the reports and hand out the records of the latest events."""
        try:
            self._report.flush()
        finally:
            if self._new:
                new, self._new = self._new, []
                self.results.put(new)

    def _take_news(self) -> None:
        """Wait for an event, then handle all that have arrived."""
        try:
            self._take(self._news.get(timeout=self._patience()))
            for _ in range(_MOST_NEWS):
                self._take(self._news.get_nowait())
        except queue.Empty:
            pass

    def _patience(self) -> float | None:
        """Return the seconds until something is due without an event, None if nothing is."""
        moments = []
        if self._executor.ends_at is not None and not self._cancelled:
            moments.append(self._executor.ends_at - time.time())
        if self._is_early:
            moments.append(self._next_launch - time.monotonic())
        return max(0.0, min(moments)) if moments else None

    def _take(self, news: Any) -> None:
        if callable(news):
            for each in news() or ():
                self._take(each)
        elif isinstance(news, (Started, Ended, AttemptLost)):
            attempt = self._in_flight.get(news.key)
            if attempt is not None:  # An attempt that is not in flight has ended before.
                self._take_of(attempt, news)
        elif isinstance(news, Requeued):
            for key in reversed(news.keys):
                if key in self._in_flight:
                    self._take_back(self._in_flight.take(key), news.alone)
        elif isinstance(news, ExecutorLost):
            self._break(news.reason)

    def _take_of(self, attempt: Attempt, news: Started | Ended | AttemptLost) -> None:
        if isinstance(news, Started):
            self._begin(attempt, news.record)
            return
        self._in_flight.take(attempt.key)
        if isinstance(news, AttemptLost):
            self._lose(attempt, news.reason)
            return
        if news.record.get("worker"):  # A chunk does not report the start of each of its tasks.
            self._begin(attempt, news.record)
        if news.record["status"] == "cancelled" and not self._cancelled:
            # This run did not cancel the task, so the worker did while it closed.
            self._lose(attempt, "its worker was told to leave")
        else:  # A record that the executor itself made lacks the fields of a runner's.
            self._end(attempt, attempt.unseen() | news.record)

    # -- starts ------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        slots = self._executor.slots
        # With launch_interval no attempt may queue for a slot: several would start at once.
        window = slots if self._policy.launch_interval else slots * _WINDOW
        # After a stop, the remaining records are handed out without waiting for slow followers.
        crowded = self.results.crowded and not self._stopped
        return self._in_flight.load < max(1, window) and not crowded

    def _fill(self) -> None:
        self._is_early = False
        while self._has_room():
            if not self._stopped and time.monotonic() < self._next_launch:
                self._is_early = not self._is_empty()
                return
            first = self._next()
            if first is None:
                return
            attempts = [first, *self._companions(first)]
            self._submit(attempts)
            if self._policy.launch_interval:
                self._next_launch = time.monotonic() + self._policy.launch_interval

    def _next(self) -> Attempt | None:
        """Return the next attempt to submit, None if there is none now."""
        while True:
            if len(self._new) >= _MOST_NEWS:  # Many records of resumed or unstarted tasks.
                self._settle()
            attempt = self._waiting.popleft() if self._waiting else None
            if attempt is None:
                taken = self._source.take()
                if taken is None:
                    return None
                attempt = self._take_new(*taken)
            if attempt is not None and self._may_start(attempt):
                return attempt

    def _take_new(self, task: Task, keep: bool, is_known: bool) -> Attempt | None:
        if keep and not is_known:
            if task.name in self.results:
                self._source.fail(f"Duplicate task name {task.name}")
                return None
            self.results.expect(task.name)
        work, record = self._find_finished(task)
        if record is not None:
            self._new.append((record, keep))
            self._report.recorded(record, work, resumed=True)
            return None
        return Attempt(task, self._key(), work=work, keep=keep)

    def _key(self) -> str:
        self._count += 1
        return f"{self._prefix}-{self._count}"

    def _may_start(self, attempt: Attempt) -> bool:
        """Tell whether an attempt may be submitted; make its record if not."""
        task = attempt.task
        if self._stopped:
            self._record(attempt, {"status": "not_started", "error": self._stopped})
        elif reason := task.missing or self._executor.why_not(task):
            code = 127 if task.function is None else 1
            failed = {"status": "failed", "exit_status": code, "error": reason}
            self._end(attempt, attempt.unseen() | failed)
        else:
            needed, ends_at = task.time_request or self._policy.time_request, self._executor.ends_at
            if needed is None or ends_at is None:
                return True
            attempt.latest_start = ends_at - needed  # Checked again after the wait for a slot.
            if time.time() <= attempt.latest_start:
                return True
            self._record(attempt, {"status": "not_started", "error": _TOO_LATE})
        return False

    def _companions(self, first: Attempt) -> list[Attempt]:
        """Return the attempts that form a chunk with the first one."""
        found: list[Attempt] = []
        if self._policy.launch_interval or self._policy.time_request or not first.is_plain:
            return found
        waiting = self._source.waiting
        size = self._size.next(
            None if waiting is None else waiting + len(self._waiting), self._executor.slots
        )
        while len(found) + 1 < size and (later := self._next()) is not None:
            if not later.is_plain:
                self._waiting.appendleft(later)
                break
            found.append(later)
        return found

    def _submit(self, attempts: list[Attempt]) -> None:
        try:
            self._executor.submit(attempts)
        except Exception as error:
            if len(attempts) > 1:  # Each is sent alone to find the one that cannot be sent.
                for attempt in reversed(attempts):
                    attempt.alone = True
                    self._waiting.appendleft(attempt)
                return
            text = f"it cannot be sent to a worker: {type(error).__name__}: {error}"
            failed = {"status": "failed", "exit_status": 1, "error": text}
            self._end(attempts[0], attempts[0].unseen() | failed)
            return
        self._in_flight.add(attempts)

    # -- ends --------------------------------------------------------------------------------

    def _begin(self, attempt: Attempt, record: dict[str, Any]) -> None:
        if attempt.begun is None:
            attempt.begun = record
            self._report.started(attempt.task, attempt.number, record)

    def _take_back(self, attempt: Attempt, alone: bool) -> None:
        attempt.alone = attempt.alone or alone
        attempt.key = self._key()  # A new key, so that late events of the old one are ignored.
        self._waiting.appendleft(attempt)

    def _lose(self, attempt: Attempt, reason: str) -> None:
        """Run a task whose worker was lost again if its retries allow it, else end it."""
        record = attempt.unseen() | {"status": "lost", "error": reason}
        allowed = attempt.task.retries
        if allowed is None:
            allowed = self._policy.retries
        if self._stopped or attempt.lost >= allowed:
            self._end(attempt, record, final=True)
            return
        if attempt.begun is not None:
            self._report.ended(attempt.task, attempt.number, record, again=True)
        self._again(attempt, lost=1)

    def _end(self, attempt: Attempt, record: dict[str, Any], final: bool = False) -> None:
        """Handle the end of an attempt: run the task again or record it."""
        status = record["status"]
        if status == "cancelled":  # The worker does not know the reason.
            record["error"] = self._stopped or record["error"]
        if status in ("failed", "result_lost"):  # Log a start even if no worker reported one.
            self._begin(attempt, record)
        if attempt.begun is None and status in ("not_started", "cancelled"):
            error = self._stopped or record["error"]
            self._record(attempt, {"status": "not_started", "error": error})
            return
        allowed = attempt.task.retry_failed
        if allowed is None:
            allowed = self._policy.retry_failed
        failed = status in ("failed", "timed_out") and not final
        again = failed and not self._stopped and attempt.failed < allowed
        if attempt.begun is not None:
            self._report.ended(attempt.task, attempt.number, record, again)
        if attempt.is_plain and status != "lost" and record["worker"]:
            self._size.take(record["elapsed_time"])
        if again:
            self._again(attempt, failed=1)
        else:
            self._record(attempt, record)

    def _again(self, attempt: Attempt, lost: int = 0, failed: int = 0) -> None:
        self._waiting.append(attempt.again(self._key(), lost, failed))

    def _record(self, attempt: Attempt, found: dict[str, Any]) -> None:
        """Make the final record of a task."""
        record = attempt.record(found)
        self._new.append((record, attempt.keep))
        self._report.recorded(record, attempt.work, resumed=False)
        if not record.ok and record.status != "not_started":
            self._failures += 1
            self._look_at_failures()

    # -- stops -------------------------------------------------------------------------------

    def _look_at_failures(self) -> None:
        most = self._policy.max_failures
        if most is None or self._stopped:
            return
        if most < 1:
            total = self._total or max(100, self.results.count + len(self._new))
            most = most * total
        if self._failures > most:
            self._stop(
                f"stopped after {self._failures} failed tasks (max_failures = "
                f"{self._policy.max_failures:g})"
            )
            self._executor.hold()

    def _stop(self, reason: str) -> None:
        """Start no more tasks, for this reason."""
        self._stopped = self._stopped or reason
        self._source.close()

    def _end_is_near(self) -> bool:
        ends_at = self._executor.ends_at
        return ends_at is not None and time.time() >= ends_at and not self._cancelled

    def _cancel(self) -> Iterable[ExecutorEvent]:
        self._end_all("cancelled")
        return ()

    def _end_all(self, reason: str) -> None:
        """Cancel the running attempts and record all attempts in flight."""
        if self._cancelled:
            return
        self._stop(reason)
        self._cancelled = True
        self._executor.cancel()
        for news in self._drain():
            self._take(news)
        for attempt in self._in_flight.take_all():
            if attempt.begun is None:
                self._record(attempt, {"status": "not_started", "error": reason})
            else:
                record = attempt.unseen() | {"status": "cancelled", "error": reason}
                self._end(attempt, record, final=True)

    def _drain(self) -> Iterable[Any]:
        while True:
            try:
                yield self._news.get_nowait()
            except queue.Empty:
                return

    def _break(self, reason: str) -> None:
        """Stop because the executor is lost and no end of a running attempt will be seen."""
        if self._cancelled:
            return
        self._stop(reason)
        self._cancelled = True
        for attempt in self._in_flight.take_all():
            status = "not_started" if attempt.begun is None else "lost"
            self._end(attempt, attempt.unseen() | {"status": status, "error": reason}, True)
