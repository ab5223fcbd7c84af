"""The tasks of a submission, in the order in which they are to start."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ips_core.errors import TaskPoolError, describe
from ips_core.pools.task import Task

__all__ = ["Batch", "TaskSource"]


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
        self._more = self._yielded(batches)
        self._open = bool(batches)
        #: Why an iterable ended early.
        self.error: TaskPoolError | None = None

    @property
    def waiting(self) -> int | None:
        """How many tasks have not been taken; None if that is not known."""
        return None if self._open else len(self._tasks)

    def take(self) -> tuple[Task, bool, bool] | None:
        """Return the next task, whether to keep its record and if its name was known; or None."""
        if self._tasks:
            return self._tasks.popleft(), True, True
        if not self._open:
            return None
        try:
            found = next(self._more, None)
        except Exception as error:
            self.fail(describe(error))
            return None
        if found is None:
            self._open = False
            return None
        return *found, False

    def fail(self, reason: str) -> None:
        """Take note that iterables cannot go on; what they have yielded runs all the same."""
        self.error = TaskPoolError(f"its tasks ended early: {reason}")
        self._open = False

    def close(self) -> None:
        """Ask for no more of what iterables would yield."""
        self._open = False

    @staticmethod
    def _yielded(batches: Sequence[Batch]) -> Iterator[tuple[Task, bool]]:
        for batch in batches:
            for task in batch.tasks:
                if not isinstance(task, Task):
                    raise TypeError(f"expected a Task, found {task!r}")
                yield (task.for_container() if batch.in_container else task), batch.keep
