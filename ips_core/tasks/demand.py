"""What a task asks of the nodes, and how it lies on what it gets: pure functions.

The rules are those of IPS-framework: processes per node, cores and GPUs of a process, whole nodes
and whole sockets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ips_core.errors import (
    BadResourceRequest,
    GPUResourceRequestMismatch,
    ResourceRequestMismatch,
    ResourceRequestUnequalPartitioning,
)
from ips_core.resources.nodes import Demand, Reservation, Resources
from ips_core.tasks.launch import TaskShape
from ips_core.tasks.task import Task

__all__ = ["TaskDefaults", "demand_of", "fit", "read_defaults", "shape_of"]


@dataclass(frozen=True)
class TaskDefaults:
    """What a component's tasks get that do not say so themselves.

    Parameters
    ----------
    ppn, cpp : int
        Processes on a node and cores of a process at most; 0: not said.
    exclusive : bool
        True: every task has whole nodes.
    """

    ppn: int = 0
    cpp: int = 0
    exclusive: bool = False


def read_defaults(
    own: Mapping[str, Any], simulation: Mapping[str, Any], platform: Mapping[str, Any]
) -> TaskDefaults:
    """Return what the files say.

    Parameters
    ----------
    own, simulation, platform : mapping
        The component's section, the simulation file's top level, the platform file. The first that
        has ``NODE_ALLOCATION_MODE`` decides; without one, tasks share nodes.
    """
    modes = [source.get("NODE_ALLOCATION_MODE") for source in (own, simulation, platform)]
    mode = next((mode for mode in modes if mode), "")
    return TaskDefaults(
        int(own.get("PROCS_PER_NODE") or 0),
        int(own.get("CPUS_PER_PROC") or 0),
        str(mode).upper() == "EXCLUSIVE",
    )


def demand_of(task: Task, whole_nodes: bool) -> tuple[int, int, int, int, bool]:
    """Return what a task of a pool needs, as the framework's service ``allocate`` takes it.

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


def fit(task: Task, defaults: TaskDefaults, resources: Resources) -> tuple[Demand, list[str]]:
    """Return what a task of ``launch_task`` needs, and what was changed about its wishes.

    Parameters
    ----------
    task : Task
        The task; its ``nproc`` are processes.
    defaults : TaskDefaults
        For what it does not say.
    resources : Resources
        All there is.

    Returns
    -------
    tuple of Demand and list of str
        The second are sentences for the log file.

    Raises
    ------
    BadResourceRequest
        More processes than there is room for.
    ResourceRequestMismatch
        There is room, but not with so few of them on a node.
    ResourceRequestUnequalPartitioning
        Whole nodes, not all of which would run the same number of processes.
    GPUResourceRequestMismatch
        The processes of a node want more GPUs than nodes have.
    """
    nproc, said = task.nproc, []
    ppn = task.launcher_number("task_ppn") if "task_ppn" in task.launcher else defaults.ppn
    cpp = task.launcher_number("task_cpp") if "task_cpp" in task.launcher else defaults.cpp
    gpp = task.launcher_number("task_gpp")
    whole = {
        key: defaults.exclusive or bool(task.launcher.get(key, False))
        for key in ("whole_nodes", "whole_sockets")
    }
    if defaults.exclusive and not task.launcher.get("whole_nodes", True):
        said.append("whole_nodes=False has no effect: NODE_ALLOCATION_MODE = EXCLUSIVE")
    most = resources.cores_per_node
    if ppn > most:
        said.append(f"task_ppn = {ppn}: a node runs {most} process(es) at most, so {most} it is")
    ppn = min(ppn or most, most, nproc)
    _check(nproc, ppn, gpp, whole["whole_nodes"], resources)
    if cpp:
        room = max(1, min(node.cores for node in resources.held) // ppn)
        if cpp > room:
            said.append(
                f"task_cpp = {cpp}: {ppn} process(es) on a node have {room} core(s) each at most, "
                f"so {room} it is"
            )
        cpp = min(cpp, room)
    return Demand(nproc, ppn, cpp, gpp, **whole), said


def _check(nproc: int, ppn: int, gpp: int, whole_nodes: bool, resources: Resources) -> None:
    count, most = len(resources.held), resources.cores_per_node
    there = f"there are {count} node(s) for {most} process(es) each"
    if nproc > count * most:
        raise BadResourceRequest(f"nproc = {nproc} can never be had: {there}")
    nodes = -(-nproc // ppn)
    if nodes > count:
        raise ResourceRequestMismatch(
            f"nproc = {nproc} with {ppn} process(es) on a node takes {nodes} nodes, but {there}; "
            "raise task_ppn, or PROCS_PER_NODE of the component"
        )
    if whole_nodes and nproc % ppn:
        raise ResourceRequestUnequalPartitioning(
            f"nproc = {nproc} is no multiple of the {ppn} processes that each of its whole nodes "
            "would run; change nproc or task_ppn, or let it share nodes: whole_nodes=False"
        )
    able = [node for node in resources.held if node.gpus >= ppn * gpp]
    if gpp and len(able) < nodes:
        gpus = max(node.gpus for node in resources.held)
        raise GPUResourceRequestMismatch(
            f"{ppn} process(es) on a node with task_gpp = {gpp} want {ppn * gpp} GPUs, but a node "
            f"has {gpus}; lower task_ppn or task_gpp"
        )


def shape_of(task: Task, allocation: Reservation, named: bool) -> TaskShape:
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
    cores = min(share.cores // share.processes for share in shares)
    return TaskShape(
        nproc=1 if _is_one_process(task) else task.nproc,
        nodes=len(shares),
        ppn=max(share.processes for share in shares),
        cores=min(cores, task.launcher_number("task_cpp") or cores),
        gpus=task.gpus or task.launcher_number("task_gpp"),
        node_gpus=min(share.slurm_gpus for share in shares),
        omp=bool(task.launcher.get("omp")),
        whole_nodes=allocation.whole_nodes,
        node_names=tuple(share.node for share in shares) if named else (),
        extra_args=task.launcher_arguments,
    )


def _is_one_process(task: Task) -> bool:
    return task.function is not None or task.mpi is False or task.nproc == 1
