"""A task pool: named tasks to run, and what became of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any, Protocol

from ips_core.errors import TaskPoolError
from ips_core.pools.task import Task, make_task

__all__ = ["Run", "TaskPool"]


class Run(Protocol):
    """A submission that is being worked off."""

    def ended(self) -> bool:
        """Tell whether all tasks have ended."""
        ...

    def results(self) -> dict[str, Any]:
        """Wait until all tasks have ended; return exit codes and values by task name."""
        ...

    def cancel(self) -> None:
        """End what runs; start nothing more."""
        ...


class TaskPool:
    """Tasks under one name.

    Parameters
    ----------
    name : str
        Name of the pool.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.queued_tasks: dict[str, Task] = {}
        self.run: Run | None = None

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
        task = make_task(task_name, nproc, working_dir, binary, args, keywords)
        # Where pools may run in containers, only the submission tells where to look
        if shutil.which("shifter") is None:
            self._check_program(task)
        self.queued_tasks[task_name] = task

    def _check_program(self, task: Task) -> None:
        if task.missing:
            raise TaskPoolError(
                f"task {task.name} of pool {self.name}: Program {task.missing} is not in path or "
                "is not executable"
            )

    def take_tasks(self, in_container: bool) -> list[Task]:
        """Return the queued tasks, which are then no longer queued.

        Parameters
        ----------
        in_container : bool
            True: programs are looked for on the worker, not here.
        """
        tasks = list(self.queued_tasks.values())
        if in_container:
            tasks = [task.for_container() for task in tasks]
        else:
            for task in tasks:
                self._check_program(task)
        self.queued_tasks = {}
        return tasks

    def get_finished_tasks(self) -> dict[str, Any]:
        """Wait for the submitted tasks; return exit codes and values in the order of adding.

        Raises
        ------
        TaskPoolError
            Nothing was submitted since the last call.
        """
        if self.run is None:
            raise TaskPoolError(f"No more active tasks in task pool {self.name}")
        run = self.run
        try:
            return run.results()
        finally:
            if run.ended():  # else the wait was interrupted
                self.run = None

    def terminate_tasks(self) -> None:
        """End what runs and forget what is queued."""
        self.queued_tasks.clear()
        if self.run is not None:
            self.run.cancel()
            self.run = None
