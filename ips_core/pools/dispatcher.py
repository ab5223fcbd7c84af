"""Works off the tasks of a submission: what is started when, and what becomes of it.

A thread of the component's process keeps a bounded number of tasks on their way, takes the news of
the executor one after the other, and reports every start and end. A task's own failure is part of
its record. It knows neither Dask nor processes.
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
from ips_core.pools.attempt import Attempt, OnWay
from ips_core.pools.chunk_size import ChunkSize
from ips_core.pools.executor import (
    Begun,
    Broken,
    Ended,
    Executor,
    GivenBack,
    Lost,
    News,
)
from ips_core.pools.policy import Policy, Report
from ips_core.pools.results import Results
from ips_core.pools.task_source import TaskSource
from ips_core.tasks.record import TaskRecord
from ips_core.tasks.task import Task

__all__ = ["Dispatcher"]

_WINDOW = 2  # tasks, or chunks of them, on their way for each slot of the executor
_MOST_NEWS = 1000  # that are taken before they are reported
_TOO_LATE = "it cannot end before the allocation does"


class _Wake:
    """News that only make the dispatcher look again."""


class Dispatcher:
    """A submission that is being worked off.

    Parameters
    ----------
    name : str
        Of the submission, different from all others.
    source : TaskSource
        What to run.
    executor : Executor
        Where.
    results : Results
        Takes what becomes of it.
    report : Report
        Hears of starts and ends.
    policy : Policy
        What to do about failures and time.
    recall : callable
        ``recall(task)`` returns a digest of a task's work, and its record if a run before this one
        has finished it, else None.
    """

    def __init__(
        self,
        name: str,
        source: TaskSource,
        executor: Executor,
        results: Results,
        report: Report,
        policy: Policy,
        recall: Callable[[Task], tuple[str, TaskRecord | None]] = lambda task: ("", None),
    ) -> None:
        self.results = results
        self._source = source
        self._total = source.waiting
        self._executor = executor
        self._report = report
        self._policy = policy
        self._recall = recall
        self._news: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._on_way = OnWay()
        self._waiting: deque[Attempt] = deque()  # before what the source has
        self._size = ChunkSize()
        self._failures = 0
        self._stopped = ""  # why nothing more is started
        self._cancelled = False
        self._next_launch = 0.0
        self._is_early = False  # for the next start
        self._prefix, self._count = uuid.uuid4().hex[:12], 0
        self._new: list[tuple[TaskRecord, bool]] = []
        self.name = name
        self._thread = threading.Thread(target=self._run, name=f"ips-pool-{name}", daemon=True)

    def start(self) -> None:
        """Begin.

        Raises
        ------
        Exception
            The executor cannot.
        """
        self._executor.start(self._news.put)
        self.results.on_room = lambda: self._news.put(_Wake())
        self._source.tell_late(lambda: self._news.put(_Wake()))
        self._thread.start()

    def cancel(self) -> None:
        """End what runs; start nothing more; return when that is so."""
        self._news.put(self._cancel)
        # Python takes a thread for ended after a signal has interrupted its join, see bpo-45274
        self.results.wait()

    # -- the dispatcher's thread -------------------------------------------------------------

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._work_off()
        except BaseException as caught:
            error = caught
            with contextlib.suppress(BaseException):
                self._executor.cancel()  # what runs has nobody else who would end it
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
            if not self._on_way and self._is_empty():
                return
            self._take_news()

    def _is_empty(self) -> bool:
        return not self._waiting and self._source.waiting == 0

    def _settle(self) -> None:
        """Hand out what has come of the latest news."""
        try:
            self._report.flush()
        finally:
            if self._new:
                new, self._new = self._new, []
                self.results.put(new)

    def _take_news(self) -> None:
        """Wait for news, and take all there are."""
        try:
            self._take(self._news.get(timeout=self._patience()))
            for _ in range(_MOST_NEWS):
                self._take(self._news.get_nowait())
        except queue.Empty:
            pass

    def _patience(self) -> float | None:
        """Return for how many seconds nothing has to be done unless there are news."""
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
        elif isinstance(news, (Begun, Ended, Lost)):
            attempt = self._on_way.get(news.key)
            if attempt is not None:  # else it has been told already
                self._take_of(attempt, news)
        elif isinstance(news, GivenBack):
            for key in reversed(news.keys):
                if key in self._on_way:
                    self._take_back(self._on_way.take(key), news.alone)
        elif isinstance(news, Broken):
            self._break(news.reason)

    def _take_of(self, attempt: Attempt, news: Begun | Ended | Lost) -> None:
        if isinstance(news, Begun):
            self._begin(attempt, news.record)
            return
        self._on_way.take(attempt.key)
        if isinstance(news, Lost):
            self._lose(attempt, news.reason)
            return
        if news.record.get("worker"):  # the start of one of many is not told
            self._begin(attempt, news.record)
        if news.record["status"] == "cancelled" and not self._cancelled:
            # not by this pool: its worker was told to leave
            self._lose(attempt, "its worker was told to leave")
        else:  # an executor's own word is not a whole record
            self._end(attempt, attempt.unseen() | news.record)

    # -- what is started ---------------------------------------------------------------------

    def _has_room(self) -> bool:
        slots = self._executor.slots
        # Starts that are to be apart must not wait for a slot together
        window = slots if self._policy.launch_interval else slots * _WINDOW
        # When all is over, nobody needs to be waited for
        crowded = self.results.crowded and not self._stopped
        return self._on_way.load < max(1, window) and not crowded

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
        """Return the next attempt that is to be submitted."""
        while True:
            if len(self._new) >= _MOST_NEWS:  # of tasks that are not run: all may be resumed
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
        work, record = self._recall(task)
        if record is not None:
            self._new.append((record, keep))
            self._report.recorded(record, work, resumed=True)
            return None
        return Attempt(task, self._key(), work=work, keep=keep)

    def _key(self) -> str:
        self._count += 1
        return f"{self._prefix}-{self._count}"

    def _may_start(self, attempt: Attempt) -> bool:
        """Tell whether an attempt may be submitted; its record is made if it may not."""
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
            attempt.latest_start = ends_at - needed  # it may have to wait for a slot, too
            if time.time() <= attempt.latest_start:
                return True
            self._record(attempt, {"status": "not_started", "error": _TOO_LATE})
        return False

    def _companions(self, first: Attempt) -> list[Attempt]:
        """Return the attempts that travel with the first one."""
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
            if len(attempts) > 1:  # one of them
                for attempt in reversed(attempts):
                    attempt.alone = True
                    self._waiting.appendleft(attempt)
                return
            text = f"it cannot be sent to a worker: {type(error).__name__}: {error}"
            failed = {"status": "failed", "exit_status": 1, "error": text}
            self._end(attempts[0], attempts[0].unseen() | failed)
            return
        self._on_way.add(attempts)

    # -- what becomes of it ------------------------------------------------------------------

    def _begin(self, attempt: Attempt, record: dict[str, Any]) -> None:
        if attempt.begun is None:
            attempt.begun = record
            self._report.started(attempt.task, attempt.number, record)

    def _take_back(self, attempt: Attempt, alone: bool) -> None:
        attempt.alone = attempt.alone or alone
        attempt.key = self._key()  # what is told late of the old one must not be taken for this
        self._waiting.appendleft(attempt)

    def _lose(self, attempt: Attempt, reason: str) -> None:
        """Run a task again whose worker was lost, if that is allowed."""
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
        """Take the end of an attempt, which is the task's unless it is run again."""
        status = record["status"]
        if status == "cancelled":  # why, the worker does not know
            record["error"] = self._stopped or record["error"]
        if status in ("failed", "result_lost"):  # also where no worker has told of a start
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
        """Record what has become of a task, for good."""
        record = attempt.record(found)
        self._new.append((record, attempt.keep))
        self._report.recorded(record, attempt.work, resumed=False)
        if not record.ok and record.status != "not_started":
            self._failures += 1
            self._look_at_failures()

    # -- when it has to stop -----------------------------------------------------------------

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
        """Start nothing more."""
        self._stopped = self._stopped or reason
        self._source.close()

    def _end_is_near(self) -> bool:
        ends_at = self._executor.ends_at
        return ends_at is not None and time.time() >= ends_at and not self._cancelled

    def _cancel(self) -> Iterable[News]:
        self._end_all("cancelled")
        return ()

    def _end_all(self, reason: str) -> None:
        """End what runs, and take what is on its way for cancelled."""
        if self._cancelled:
            return
        self._stop(reason)
        self._cancelled = True
        self._executor.cancel()
        for news in self._drain():
            self._take(news)
        for attempt in self._on_way.take_all():
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
        """The executor is lost: nobody will see the end of what runs."""
        if self._cancelled:
            return
        self._stop(reason)
        self._cancelled = True
        for attempt in self._on_way.take_all():
            status = "not_started" if attempt.begun is None else "lost"
            self._end(attempt, attempt.unseen() | {"status": status, "error": reason}, True)
