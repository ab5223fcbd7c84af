"""Queue the tasks of a run in the order in which they start."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ips_core.errors import TaskPoolError, describe
from ips_core.tasks.task import Task

__all__ = ["Batch", "TaskQueue"]

_PATIENCE = 0.25  # Seconds to wait for an iterable; most yield at once.


@dataclass(frozen=True)
class Batch:
    """Tasks of an iterable, which is not touched before its first task is needed."""

    tasks: Iterable[Task]
    keep: bool = True  #: whether to keep the tasks' records
    in_container: bool = False  #: look up programs on the worker instead of this host


_Yielded = tuple[Task, bool]


class _Reader:
    """Iterator in a thread of its own, since an iterable may take long or wait for results.

    The thread reads one item for each :meth:`ask`, and calls ``on_late`` for an item that comes
    after :meth:`ask` has given up.
    """

    def __init__(self, items: Iterator[_Yielded]) -> None:
        self._items = items
        self._changed = threading.Condition()
        self._is_asked = self._is_late = self._is_closed = False
        self._answer: list[_Yielded | BaseException | None] = []  # one at most
        self._thread: threading.Thread | None = None
        self.on_late: Callable[[], object] = lambda: None

    def ask(self) -> list[_Yielded | BaseException | None]:
        """Return the next item in a list, None in a list at the end, an empty list if late."""
        with self._changed:
            if not (self._is_asked or self._answer):
                self._is_asked, self._is_late = True, False
                self._changed.notify_all()
                if self._thread is None:
                    # A daemon, since a blocked iterable cannot be interrupted.
                    self._thread = threading.Thread(
                        target=self._read, name="ips-pool-tasks", daemon=True
                    )
                    self._thread.start()
                self._changed.wait_for(lambda: self._answer, _PATIENCE)
                self._is_late = not self._answer
            found, self._answer = self._answer, []
            return found

    def close(self) -> None:
        """Stop reading and drop an item that is late."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _read(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_asked or self._is_closed)
                if self._is_closed:
                    return
            found: _Yielded | BaseException | None
            try:
                found = next(self._items, None)
            except BaseException as error:
                found = error
            with self._changed:
                self._is_asked = False
                self._answer.append(found)
                self._changed.notify_all()
                is_late = self._is_late and not self._is_closed
            if is_late:
                self.on_late()


class TaskQueue:
    """Tasks sorted by priority, then in the order of adding; the batches follow one by one."""

    def __init__(self, tasks: Sequence[Task], batches: Sequence[Batch] = ()) -> None:
        self._tasks = deque(sorted(tasks, key=lambda task: -task.priority))
        self._reader = _Reader(self._yielded(batches))
        self._open = bool(batches)
        #: Error of an iterable that ended early.
        self.error: TaskPoolError | None = None

    def tell_late(self, on_late: Callable[[], object]) -> None:
        """Set the function that the reader's thread calls when a late task has come."""
        self._reader.on_late = on_late

    @property
    def waiting(self) -> int | None:
        """Number of tasks in the queue; None while a batch is not exhausted."""
        return None if self._open else len(self._tasks)

    def take(self) -> tuple[Task, bool, bool] | None:
        """Return the next task, whether to keep its record, and whether its name was known before.

        None while :attr:`waiting` is not 0 means that an iterable is slow.
        """
        if self._tasks:
            return self._tasks.popleft(), True, True
        if not self._open:
            return None
        answer = self._reader.ask()
        if not answer:
            return None
        found = answer[0]
        if isinstance(found, BaseException):
            self.fail(describe(found))
            return None
        if found is None:
            self.close()
            return None
        return *found, False

    def fail(self, reason: str) -> None:
        """End the batches with an error; tasks that they have yielded still run."""
        self.error = TaskPoolError(f"its tasks ended early: {reason}")
        self.close()

    def close(self) -> None:
        """Read no more from the batches."""
        self._open = False
        self._reader.close()

    @staticmethod
    def _yielded(batches: Sequence[Batch]) -> Iterator[tuple[Task, bool]]:
        for batch in batches:
            for task in batch.tasks:
                if not isinstance(task, Task):
                    raise TypeError(f"expected a Task, found {task!r}")
                yield (task.for_container() if batch.in_container else task), batch.keep
