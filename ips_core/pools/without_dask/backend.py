"""Where pools without Dask run: on cores that the framework hands out, as ``MPIRUN`` says."""

from __future__ import annotations

import os
import uuid
from dataclasses import replace
from typing import Any

from ips_core.link import FrameworkLink
from ips_core.pools.executor import Executor
from ips_core.pools.task import Task
from ips_core.pools.without_dask.executor import LocalExecutor
from ips_core.resources import Allocation
from ips_core.tasks.launch import (
    Launch,
    TaskShape,
    launch_command,
    misleading_variables,
    without_variables,
)
from ips_core.tasks.runner import Runner
from ips_core.tasks.srun import after_srun

__all__ = ["LocalBackend", "demand_of", "shape_of"]


class LocalBackend:
    """Runs pools without Dask.

    Parameters
    ----------
    link : FrameworkLink
        To the framework, which knows who has which cores.
    launcher : {"eval", "srun", "mpirun", "mpiexec"}
        ``MPIRUN`` of the platform.
    slots : int
        Cores of all nodes.
    named : bool
        True: the nodes have names that the launcher knows, as those of a Slurm job.
    whole_nodes : bool
        Whether tasks take whole nodes that do not say so themselves.
    ends_at : float, optional
        When the cores are taken away, in seconds since the epoch. Default: not known.
    """

    launch_event = "IPS_LAUNCH_TASK_POOL"
    in_parts = True
    in_container = False

    def __init__(
        self,
        link: FrameworkLink,
        launcher: str,
        slots: int,
        named: bool,
        whole_nodes: bool = False,
        ends_at: float | None = None,
    ) -> None:
        self._link = link
        self._launcher = launcher
        self._slots = slots
        self._named = named
        self._whole_nodes = whole_nodes
        self._ends_at = ends_at
        self._name = f"ips-{uuid.uuid4().hex[:8]}"  # other simulations may be in the same job

    def executor(self, run: str) -> Executor:
        """Return what runs a submission of that name."""
        return LocalExecutor(
            run,
            Runner("local", threads=self._slots),
            self._slots,
            self._allocate,
            self._release,
            self._launch,
            self._ends_at,
            self._finish if self._launcher == "srun" else None,
            self._why_not,
        )

    def release(self, run: str) -> None:
        """Give back what a submission used: nothing, for each task gives back its own."""

    def _why_not(self, task: Task) -> str:
        if task.mpi and self._launcher == "eval":
            return "mpi=True, but MPIRUN = eval starts no MPI programs: set it to mpirun, say"
        if task.argv and task.gpus and self._launcher in ("mpirun", "mpiexec"):
            return f"gpus = {task.gpus}, but MPIRUN = {self._launcher} hands out no GPUs: use srun"
        return ""

    def _allocate(self, task: Task) -> Allocation:
        allocation: Allocation = self._link.ask(
            "allocate", *demand_of(task, self._whole_nodes), True
        )
        return allocation

    def _release(self, allocation: Allocation) -> None:
        self._link.ask("release", allocation.id)

    def _launch(self, task: Task, allocation: Allocation) -> Launch:
        shape = shape_of(task, allocation, self._named)
        if self._launcher != "srun":
            return launch_command(self._launcher, shape, task.argv, tuple(task.task_env))
        name = f"--job-name={self._step(allocation)}"
        shape = replace(shape, extra_args=(name, *shape.extra_args))
        argv, variables = launch_command("srun", shape, task.argv)
        return without_variables(misleading_variables(os.environ), argv), variables

    def _finish(self, record: dict[str, Any], allocation: Allocation) -> dict[str, Any]:
        return after_srun(record, os.environ.get("SLURM_JOB_ID", ""), self._step(allocation))

    def _step(self, allocation: Allocation) -> str:
        return f"{self._name}-{allocation.id}"


def demand_of(task: Task, whole_nodes: bool) -> tuple[int, int, int, int, bool]:
    """Return what a task needs, as the framework's service ``allocate`` takes it.

    Parameters
    ----------
    task : Task
        Its ``nproc`` are processes, unless it is one process with several cores: a callable, or
        ``mpi=False``.
    whole_nodes : bool
        What ``whole_nodes=`` of the task means if it is not given.

    Returns
    -------
    tuple
        Processes; the most of them on a node, cores and GPUs of each (0: not said); whole nodes.
    """
    whole = bool(task.launcher.get("whole_nodes", whole_nodes))
    gpus = task.gpus or task.launcher_number("task_gpp")
    cores = task.launcher_number("task_cpp")
    if _is_one_process(task):
        return 1, 1, task.nproc if task.nproc > 1 else cores, gpus, whole
    return task.nproc, task.launcher_number("task_ppn"), cores, gpus, whole


def shape_of(task: Task, allocation: Allocation, named: bool) -> TaskShape:
    """Return how a task lies on what was allocated.

    Parameters
    ----------
    task : Task
        The task.
    allocation : Allocation
        What it got.
    named : bool
        False: the names of the nodes are only ours.
    """
    shares = allocation.shares
    return TaskShape(
        nproc=1 if _is_one_process(task) else task.nproc,
        nodes=len(shares),
        ppn=max(share.processes for share in shares),
        cores=min(share.cores // share.processes for share in shares),
        gpus=task.gpus or task.launcher_number("task_gpp"),
        omp=bool(task.launcher.get("omp")),
        whole_nodes=allocation.whole_nodes,
        node_names=tuple(share.node for share in shares) if named else (),
        extra_args=task.launcher_arguments,
    )


def _is_one_process(task: Task) -> bool:
    return task.function is not None or task.mpi is False or task.nproc == 1
