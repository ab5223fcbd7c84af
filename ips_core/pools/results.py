"""Collect the records of a run for the threads that wait for them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ips_core.tasks.record import TaskRecord

__all__ = ["Results"]

_CROWD = 10_000  # Records that wait for an iterator and are kept nowhere else.
_EARLY = 1000  # Records, not kept otherwise, that wait for the first iterator.


class _Follower:
    """Records that an iterator has yet to yield; ``loose`` counts those kept nowhere else."""

    def __init__(self, kept: Iterable[TaskRecord], loose: Iterable[TaskRecord]) -> None:
        self.records = deque((record, True) for record in kept)
        self.records.extend((record, False) for record in loose)
        self.loose = 0
        self.thread = 0  # Id of the thread that took the last record.


class Results:
    """Records of tasks as they end.

    One thread puts them in; any thread may wait, look and follow. ``names`` are the tasks that are
    known at the start, in the order of adding.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._records: dict[str, TaskRecord | None] = dict.fromkeys(names)
        self._arrived: list[TaskRecord] = []
        self._followers: list[_Follower] = []
        self._early: deque[TaskRecord] = deque(maxlen=_EARLY)  # for the first iterator
        self._changed = threading.Condition()
        self._waiting: set[int] = set()  # threads in wait()
        self._ended = False
        self._error: BaseException | None = None
        self.count = self.failed = 0
        #: Called when :attr:`crowded` may have become False.
        self.on_room: Callable[[], object] = lambda: None

    def __contains__(self, name: str) -> bool:
        return name in self._records

    def expect(self, name: str) -> None:
        """Reserve a place for the record of a task, in the order of adding."""
        self._records[name] = None

    def put(self, records: Iterable[tuple[TaskRecord, bool]]) -> None:
        """Add records, each with a flag that says whether it is kept."""
        with self._changed:
            for record, keep in records:
                self.count += 1
                self.failed += not record.ok
                if keep:
                    self._records[record.name] = record
                    self._arrived.append(record)
                elif not self._followers:
                    self._early.append(record)
                for follower in self._followers:
                    follower.records.append((record, keep))
                    follower.loose += not keep
            self._changed.notify_all()

    def end(self, error: BaseException | None) -> None:
        """Mark the run as ended; the waiting threads raise ``error``."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """True if no more records will come."""
        return self._ended

    @property
    def crowded(self) -> bool:
        """True if an iterator is too slow for the records that come.

        A follower blocked in :meth:`wait` does not drain its queue; waiting for it would deadlock.
        """
        return any(
            follower.loose >= _CROWD and follower.thread not in self._waiting
            for follower in self._followers
        )

    def wait(self, seconds: float | None = None, more_than: int | None = None) -> bool:
        """Wait until the run has ended, and return whether it has.

        The wait also ends after so many seconds, or with more than ``more_than`` kept records.
        """

        def enough() -> bool:
            return self._ended or (more_than is not None and len(self._arrived) > more_than)

        thread = threading.get_ident()
        self._waiting.add(thread)
        if any(follower.thread == thread for follower in self._followers):
            self.on_room()
        try:
            with self._changed:
                self._changed.wait_for(enough, seconds)
                return self._ended
        finally:
            self._waiting.discard(thread)

    def raise_error(self) -> None:
        """Raise the error of the run, if it had one."""
        if self._error is not None:
            raise self._error

    def records(self) -> dict[str, TaskRecord]:
        """Return the kept records so far by task name, in the order of adding."""
        with self._changed:
            return {name: record for name, record in self._records.items() if record is not None}

    def values(self, since: int = 0) -> dict[str, Any]:
        """Return the results of kept records by task name, without the first ``since`` arrivals.

        With ``since``, the order is that of arrival, else that of adding.
        """
        if not since:
            return {name: record.result for name, record in self.records().items()}
        with self._changed:
            return {record.name: record.result for record in self._arrived[since:]}

    def follow(self) -> Iterator[TaskRecord]:
        """Yield every record as it arrives, from the beginning.

        Of records that are not kept, the first iterator yields the last thousand before it.
        """
        with self._changed:
            follower = _Follower(self._arrived, self._early)
            self._early.clear()
            self._followers.append(follower)
        try:
            while (record := self._next(follower)) is not None:
                yield record
        finally:
            with self._changed:
                self._followers.remove(follower)
            self.on_room()

    def _next(self, follower: _Follower) -> TaskRecord | None:
        with self._changed:
            self._changed.wait_for(lambda: follower.records or self._ended)
            if not follower.records:
                return None
            follower.thread = threading.get_ident()
            record, keep = follower.records.popleft()
            follower.loose -= not keep
            has_room = not keep and follower.loose == _CROWD // 2
        if has_room:
            self.on_room()
        return record
