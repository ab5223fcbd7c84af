"""What has come of a submission so far, for those who wait for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ips_core.tasks.record import TaskRecord

__all__ = ["Results"]

_CROWD = 10_000  # records that wait for an iterator, and are kept nowhere else
_EARLY = 1000


class _Follower:
    """What an iterator has yet to yield; how much of that is kept nowhere else."""

    def __init__(self, kept: Iterable[TaskRecord], loose: Iterable[TaskRecord]) -> None:
        self.records = deque((record, True) for record in kept)
        self.records.extend((record, False) for record in loose)
        self.loose = 0
        self.thread = 0  # that took the last one


class Results:
    """Records of tasks as they end.

    One thread puts them in; any may wait, look, and follow.

    Parameters
    ----------
    names : iterable of str
        The tasks that are known already, in the order of adding.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._records: dict[str, TaskRecord | None] = dict.fromkeys(names)
        self._arrived: list[TaskRecord] = []
        self._followers: list[_Follower] = []
        self._early: deque[TaskRecord] = deque(maxlen=_EARLY)  # not kept, and followed by nobody
        self._changed = threading.Condition()
        self._waiting: set[int] = set()  # threads that wait for the end of all
        self._ended = False
        self._error: BaseException | None = None
        self.count = self.failed = 0
        #: Called when an iterator has made room again.
        self.on_room: Callable[[], object] = lambda: None

    def __contains__(self, name: str) -> bool:
        return name in self._records

    def expect(self, name: str) -> None:
        """Take note of a task whose record is to be kept, in the order of adding."""
        self._records[name] = None

    def put(self, records: Iterable[tuple[TaskRecord, bool]]) -> None:
        """Take records; each with whether it is to be kept."""
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
        """Take note that no more will come; ``error`` is raised to those who wait."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """True if no more will come."""
        return self._ended

    @property
    def crowded(self) -> bool:
        """True if whoever follows is too slow for what comes.

        Who waits for the end of all is no longer about to take anything: that would never end.
        """
        return any(
            follower.loose >= _CROWD and follower.thread not in self._waiting
            for follower in self._followers
        )

    def wait(self, seconds: float | None = None, more_than: int | None = None) -> bool:
        """Wait until all have ended, or more than so many; return whether all have.

        Parameters
        ----------
        seconds : float, optional
            At most so long.
        more_than : int, optional
            Return as soon as there are more records than this that are kept.
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
        """Raise what the end of all was reported with, if anything."""
        if self._error is not None:
            raise self._error

    def records(self) -> dict[str, TaskRecord]:
        """Return the records that are kept and have come, in the order of adding."""
        with self._changed:
            return {name: record for name, record in self._records.items() if record is not None}

    def values(self, since: int = 0) -> dict[str, Any]:
        """Return exit codes and values by name, as :meth:`records` has them.

        Parameters
        ----------
        since : int
            Leave out that many which came first.
        """
        if not since:
            return {name: record.result for name, record in self.records().items()}
        with self._changed:
            return {record.name: record.result for record in self._arrived[since:]}

    def follow(self) -> Iterator[TaskRecord]:
        """Yield every record as it comes, from the beginning.

        Of those that are not kept, the first iterator yields the last thousand that came before it.
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
