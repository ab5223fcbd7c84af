"""Hold the tasks of a pool and the results of its last run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from ips_core.errors import TaskPoolError
from ips_core.pools.results import Results
from ips_core.pools.task_queue import Batch, TaskQueue
from ips_core.tasks.record import TaskRecord
from ips_core.tasks.task import Task

__all__ = ["Run", "TaskPool"]


class Run(Protocol):
    """Tasks that a pool has submitted."""

    results: Results

    def cancel(self) -> None:
        """End the running tasks and start no more; return when all have ended."""
        ...


class TaskPool:
    """Tasks under one name.

    Components use pools through the services, such as ``add_task``.

    Parameters
    ----------
    name : str
        Name of the pool.
    resume : bool
        If True, tasks that an earlier run of the simulation finished do not run again. Default:
        False.
    """

    def __init__(self, name: str, resume: bool = False) -> None:
        self.name = name
        self.resume = resume
        self.queued_tasks: dict[str, Task] = {}
        self._batches: list[tuple[Iterable[Task], bool]] = []
        self.submission: Run | None = None
        #: Number of tasks of the last run; None if an iterable yields some of them.
        self.total: int | None = 0
        self._results = Results()
        #: Whether :meth:`get_finished_tasks` returns new results without waiting for all.
        self.in_parts = False
        self._handed_out = 0

    def add_task(
        self,
        task_name: str,
        nproc: int,
        working_dir: str,
        binary: str | Callable[..., Any],
        *args: Any,
        **keywords: Any,
    ) -> None:
        """Add a task; the parameters are those of ``ServicesProxy.add_task``.

        Raises
        ------
        TaskPoolError
            The name is taken, the program does not exist, or an argument is invalid.
        """
        if task_name in self.queued_tasks:
            raise TaskPoolError(f"Duplicate task name {task_name} in task pool {self.name}")
        task = Task(task_name, nproc, working_dir, binary, *args, **keywords)
        # With Shifter, only the submission tells whether programs are on this host.
        if shutil.which("shifter") is None:
            self._check_presence(task)
        self.queued_tasks[task_name] = task

    def add_tasks(self, tasks: Iterable[Task], keep_results: bool) -> None:
        """Add the tasks of an iterable, which is read while the pool runs.

        Parameters
        ----------
        tasks : iterable of Task
            Tasks.
        keep_results : bool
            If False, the tasks' records are not kept.

        Raises
        ------
        TaskPoolError
            `tasks` is not iterable.
        """
        if not isinstance(tasks, Iterable):
            raise TaskPoolError(f"pool {self.name}: expected an iterable of Task, found {tasks!r}")
        self._batches.append((tasks, keep_results))

    def _check_presence(self, task: Task) -> None:
        if task.missing:
            raise TaskPoolError(f"task {task.name} of pool {self.name}: {task.missing}")

    def check(self, in_container: bool) -> None:
        """Raise a TaskPoolError if the pool is empty or submitted, or a program does not exist.

        With ``in_container``, programs are looked up on the worker instead of here.
        """
        if self.submission is not None:
            what = "has results" if self.submission.results.ended else "is running"
            raise TaskPoolError(
                f"pool {self.name} {what}: call get_finished_tasks before the next submit_tasks"
            )
        if not self.queued_tasks and not self._batches:
            raise TaskPoolError(f"pool {self.name} has no tasks: call add_task before submit_tasks")
        for task in self.queued_tasks.values() if not in_container else ():
            self._check_presence(task)

    def source(self, in_container: bool) -> TaskQueue:
        """Return the queue of the pool's tasks, as they run on this host or in a container."""
        tasks = list(self.queued_tasks.values())
        if in_container:
            tasks = [task.for_container() for task in tasks]
        return TaskQueue(tasks, [Batch(*batch, in_container) for batch in self._batches])

    def begin(self, submission: Run, in_parts: bool) -> None:
        """Move the queued tasks to a run that has begun.

        With ``in_parts``, :meth:`get_finished_tasks` returns new results without waiting for all.
        """
        self.submission, self._results = submission, submission.results
        self.in_parts, self._handed_out = in_parts, 0
        self.total = None if self._batches else len(self.queued_tasks)
        self.queued_tasks, self._batches = {}, []

    def get_finished_tasks(self, block: bool = True) -> dict[str, Any]:
        """Return exit codes and values of the submitted tasks by name, in the order of adding.

        Parameters
        ----------
        block : bool
            If False, return the results of tasks that have ended, without waiting. Default: True.

        Raises
        ------
        TaskPoolError
            Nothing was submitted since the last results, or an iterable of tasks raised.
        """
        if self.submission is None:
            raise TaskPoolError(f"No more active tasks in task pool {self.name}")
        results = self._results
        if block:
            results.wait(more_than=self._handed_out if self.in_parts else None)
        ended = results.ended  # Read before the values: later results are for the next call.
        found = results.values(self._handed_out)
        if self.in_parts:
            self._handed_out += len(found)
            if self._handed_out == self.total:
                ended = results.wait()  # The dispatcher still has to close its executor.
        if ended:
            self.submission = None
            results.raise_error()
        return found

    def iter_finished_tasks(self) -> Iterator[TaskRecord]:
        """Return an iterator of the record of every submitted task, as the tasks end.

        Raises
        ------
        TaskPoolError
            Nothing was submitted since the last ``get_finished_tasks``.
        """
        if self.submission is None:
            raise TaskPoolError(f"No more active tasks in task pool {self.name}")
        return self._results.follow()

    def records(self) -> dict[str, TaskRecord]:
        """Return the records of the last run by task name, in the order of adding."""
        return self._results.records()

    @property
    def progress(self) -> tuple[int, int]:
        """Number of tasks of the last run that have ended, and how many of those failed."""
        return self._results.count, self._results.failed

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until all submitted tasks have ended or the time is up; return whether all have."""
        if self.submission is None:
            return True
        return self._results.wait(seconds)

    def terminate_tasks(self) -> None:
        """End the running tasks and remove the queued ones."""
        self.queued_tasks.clear()
        self._batches.clear()
        if self.submission is not None:
            self.submission.cancel()
            self.submission = None
