"""The tasks of a submission, in the order in which they are to start."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ips_core.errors import TaskPoolError, describe
from ips_core.tasks.task import Task

__all__ = ["Batch", "TaskSource"]

_PATIENCE = 0.25  # seconds that an iterable is waited for; most answer at once


@dataclass(frozen=True)
class Batch:
    """Tasks that an iterable yields when they are wanted.

    Parameters
    ----------
    tasks : iterable of Task
        Not looked at before its first task is wanted.
    keep : bool
        False: nothing is kept of a task once it has ended.
    in_container : bool
        True: programs are looked for on the worker, not here.
    """

    tasks: Iterable[Task]
    keep: bool = True
    in_container: bool = False


_Yielded = tuple[Task, bool]


class _Reader:
    """Iterates in a thread of its own, as an iterable may take its time, or wait for results.

    It is asked for one at a time; what it has yielded late is told to ``on_late``.
    """

    def __init__(self, items: Iterator[_Yielded]) -> None:
        self._items = items
        self._changed = threading.Condition()
        self._is_asked = self._is_late = self._is_closed = False
        self._answer: list[_Yielded | BaseException | None] = []  # one at most
        self._thread: threading.Thread | None = None
        self.on_late: Callable[[], object] = lambda: None

    def ask(self) -> list[_Yielded | BaseException | None]:
        """Return the next item in a list, None at the end; an empty list if it takes long."""
        with self._changed:
            if not (self._is_asked or self._answer):
                self._is_asked, self._is_late = True, False
                self._changed.notify_all()
                if self._thread is None:
                    # a daemon, since nobody can end what an iterable waits for
                    self._thread = threading.Thread(
                        target=self._read, name="ips-pool-tasks", daemon=True
                    )
                    self._thread.start()
                self._changed.wait_for(lambda: self._answer, _PATIENCE)
                self._is_late = not self._answer
            found, self._answer = self._answer, []
            return found

    def close(self) -> None:
        """Read no more; what is being waited for is dropped."""
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


class TaskSource:
    """Tasks, higher priorities first; what iterables yield comes last.

    Parameters
    ----------
    tasks : sequence of Task
        What is known already; order is kept where priorities are equal.
    batches : sequence of Batch
        One after the other.
    """

    def __init__(self, tasks: Sequence[Task], batches: Sequence[Batch] = ()) -> None:
        self._tasks = deque(sorted(tasks, key=lambda task: -task.priority))
        self._reader = _Reader(self._yielded(batches))
        self._open = bool(batches)
        #: Why an iterable ended early.
        self.error: TaskPoolError | None = None

    def tell_late(self, on_late: Callable[[], object]) -> None:
        """Let a function be called, in another thread, when a task has come that was late."""
        self._reader.on_late = on_late

    @property
    def waiting(self) -> int | None:
        """How many tasks have not been taken; None if that is not known."""
        return None if self._open else len(self._tasks)

    def take(self) -> tuple[Task, bool, bool] | None:
        """Return the next task, whether to keep its record and if its name was known; or None.

        None while :attr:`waiting` is not 0: an iterable takes long.
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
        """Take note that iterables cannot go on; what they have yielded runs all the same."""
        self.error = TaskPoolError(f"its tasks ended early: {reason}")
        self.close()

    def close(self) -> None:
        """Ask for no more of what iterables would yield."""
        self._open = False
        self._reader.close()

    @staticmethod
    def _yielded(batches: Sequence[Batch]) -> Iterator[tuple[Task, bool]]:
        for batch in batches:
            for task in batch.tasks:
                if not isinstance(task, Task):
                    raise TypeError(f"expected a Task, found {task!r}")
                yield (task.for_container() if batch.in_container else task), batch.keep
