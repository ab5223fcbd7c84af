"""A task pool: named tasks to run, and what became of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from ips_core.errors import TaskPoolError
from ips_core.pools.results import Results
from ips_core.pools.task_source import Batch, TaskSource
from ips_core.tasks.record import TaskRecord
from ips_core.tasks.task import Task

__all__ = ["Submission", "TaskPool"]


class Submission(Protocol):
    """Tasks that are being worked off."""

    results: Results

    def cancel(self) -> None:
        """End what runs; start nothing more; return when that is so."""
        ...


class TaskPool:
    """Tasks under one name.

    Parameters
    ----------
    name : str
        Name of the pool.
    resume : bool
        True: what a run before this one has finished is not run again.
    """

    def __init__(self, name: str, resume: bool = False) -> None:
        self.name = name
        self.resume = resume
        self.queued_tasks: dict[str, Task] = {}
        self._batches: list[tuple[Iterable[Task], bool]] = []
        self.submission: Submission | None = None
        #: Tasks of the last submission; None if that is not known.
        self.total: int | None = 0
        self._results = Results()
        #: True: :meth:`get_finished_tasks` does not wait for all.
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
        """Add a task; parameters as for ``ServicesProxy.add_task``.

        Raises
        ------
        TaskPoolError
            The name is taken, the program is not there, or an argument makes no sense.
        """
        if task_name in self.queued_tasks:
            raise TaskPoolError(f"Duplicate task name {task_name} in task pool {self.name}")
        task = Task(task_name, nproc, working_dir, binary, *args, **keywords)
        # Where pools may run in containers, only the submission tells where to look
        if shutil.which("shifter") is None:
            self._check_presence(task)
        self.queued_tasks[task_name] = task

    def add_tasks(self, tasks: Iterable[Task], keep_results: bool) -> None:
        """Add tasks that are asked for when there is room for them."""
        if not isinstance(tasks, Iterable):
            raise TaskPoolError(f"pool {self.name}: expected an iterable of Task, found {tasks!r}")
        self._batches.append((tasks, keep_results))

    def _check_presence(self, task: Task) -> None:
        if task.missing:
            raise TaskPoolError(f"task {task.name} of pool {self.name}: {task.missing}")

    def check(self, in_container: bool) -> None:
        """See that the pool can be submitted.

        Parameters
        ----------
        in_container : bool
            True: programs are looked for on the worker, not here.

        Raises
        ------
        TaskPoolError
            It is empty, runs already, or a program is not there.
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

    def source(self, in_container: bool) -> TaskSource:
        """Return what is to run, as it is found where the tasks run."""
        tasks = list(self.queued_tasks.values())
        if in_container:
            tasks = [task.for_container() for task in tasks]
        return TaskSource(tasks, [Batch(*batch, in_container) for batch in self._batches])

    def begin(self, submission: Submission, in_parts: bool) -> None:
        """Take note that all tasks there are have been submitted.

        Parameters
        ----------
        submission : Submission
            As what.
        in_parts : bool
            True: :meth:`get_finished_tasks` does not wait for all.
        """
        self.submission, self._results = submission, submission.results
        self.in_parts, self._handed_out = in_parts, 0
        self.total = None if self._batches else len(self.queued_tasks)
        self.queued_tasks, self._batches = {}, []

    def get_finished_tasks(self, block: bool = True) -> dict[str, Any]:
        """Return exit codes and values of the submitted tasks, in the order of adding.

        Parameters
        ----------
        block : bool
            False: those of the tasks that have ended by now.

        Raises
        ------
        TaskPoolError
            Nothing was submitted since the last call.
        """
        if self.submission is None:
            raise TaskPoolError(f"No more active tasks in task pool {self.name}")
        results = self._results
        if block:
            results.wait(more_than=self._handed_out if self.in_parts else None)
        ended = results.ended  # before they are taken: what comes after that is for the next call
        found = results.values(self._handed_out)
        if self.in_parts:
            self._handed_out += len(found)
            if self._handed_out == self.total:
                ended = results.wait()  # for what is left to tidy up
        if ended:
            self.submission = None
            results.raise_error()
        return found

    def iter_finished_tasks(self) -> Iterator[TaskRecord]:
        """Yield the record of every submitted task as it ends.

        Raises
        ------
        TaskPoolError
            Nothing was submitted since the last call of ``get_finished_tasks``.
        """
        if self.submission is None:
            raise TaskPoolError(f"No more active tasks in task pool {self.name}")
        return self._results.follow()

    def records(self) -> dict[str, TaskRecord]:
        """Return the records of the last submission, in the order of adding."""
        return self._results.records()

    @property
    def progress(self) -> tuple[int, int]:
        """How many tasks of the last submission have ended, and how many of those failed."""
        return self._results.count, self._results.failed

    def wait(self, seconds: float | None = None) -> bool:
        """Wait, so long at most, for all submitted tasks to end; return whether they have."""
        if self.submission is None:
            return True
        return self._results.wait(seconds)

    def terminate_tasks(self) -> None:
        """End what runs and forget what is queued."""
        self.queued_tasks.clear()
        self._batches.clear()
        if self.submission is not None:
            self.submission.cancel()
            self.submission = None
