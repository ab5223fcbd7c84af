"""Start a program on its reservation by the platform's ``MPIRUN``."""

from __future__ import annotations

import os
import uuid
from dataclasses import replace
from typing import Any

from ips_core.resources.nodes import Reservation
from ips_core.tasks.demand import shape_of
from ips_core.tasks.launch import (
    Launch,
    launch_command,
    misleading_variables,
    without_variables,
)
from ips_core.tasks.srun import after_srun
from ips_core.tasks.task import Task

__all__ = ["TaskLauncher"]


class TaskLauncher:
    """Build the command lines of programs, for tasks of pools and for single tasks.

    ``mpirun`` is the platform's ``MPIRUN``. ``named`` is True if the launcher knows the nodes by
    their names, as those of a Slurm job.
    """

    def __init__(self, mpirun: str, named: bool) -> None:
        self.mpirun = mpirun
        self._named = named
        self._name = f"ips-{uuid.uuid4().hex[:8]}"  # Other simulations may run in the same job.

    def why_not(self, task: Task) -> str:
        """Return why a task can never start, in a sentence; empty if it can."""
        if task.mpi and self.mpirun == "eval":
            return "mpi=True, but MPIRUN = eval starts no MPI programs: set it to mpirun, say"
        if task.argv and task.gpus and self.mpirun in ("mpirun", "mpiexec"):
            return f"gpus = {task.gpus}, but MPIRUN = {self.mpirun} hands out no GPUs: use srun"
        return ""

    def line(self, task: Task, allocation: Reservation) -> Launch:
        """Return the launcher's command line, and variables to add to its environment."""
        shape = shape_of(task, allocation, self._named)
        if self.mpirun == "srun":
            name = f"--job-name={self._step(allocation)}"
            shape = replace(shape, extra_args=(name, *shape.extra_args))
        return launch_command(self.mpirun, shape, task.argv, tuple(task.task_env))

    def command(self, task: Task, allocation: Reservation) -> Launch:
        """Return `line`, run without variables that would mislead the launcher."""
        argv, variables = self.line(task, allocation)
        if self.mpirun == "srun":
            argv = without_variables(misleading_variables(os.environ), argv)
        return argv, variables

    def hosts(self, allocation: Reservation) -> str:
        """Return the nodes for the log; empty if their names are made up."""
        return ",".join(allocation.nodes) if self._named else ""

    def finish(self, record: dict[str, Any], allocation: Reservation) -> dict[str, Any]:
        """Return the record of a finished program, completed from the launcher's output."""
        if self.mpirun != "srun":
            return record
        return after_srun(record, os.environ.get("SLURM_JOB_ID", ""), self._step(allocation))

    def _step(self, allocation: Reservation) -> str:
        return f"{self._name}-{allocation.id}"
