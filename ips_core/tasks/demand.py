"""Compute what a task demands of the nodes, and its layout on a reservation.

All functions are pure. The rules are those of IPS-framework for processes per node, cores and GPUs
of a process, whole nodes and whole sockets.
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
    """Hold a component's defaults for its tasks."""

    ppn: int = 0  #: Most processes on a node; 0: not set.
    cpp: int = 0  #: Most cores of a process; 0: not set.
    exclusive: bool = False  #: True: every task gets whole nodes.


def read_defaults(
    own: Mapping[str, Any], simulation: Mapping[str, Any], platform: Mapping[str, Any]
) -> TaskDefaults:
    """Return the defaults from the component's section, the simulation file and the platform file.

    The first of these that sets ``NODE_ALLOCATION_MODE`` decides; without it, tasks share nodes.
    """
    modes = [source.get("NODE_ALLOCATION_MODE") for source in (own, simulation, platform)]
    mode = next((mode for mode in modes if mode), "")
    return TaskDefaults(
        int(own.get("PROCS_PER_NODE") or 0),
        int(own.get("CPUS_PER_PROC") or 0),
        str(mode).upper() == "EXCLUSIVE",
    )


def demand_of(task: Task, whole_nodes: bool) -> tuple[int, int, int, int, bool]:
    """Return the demand of a pool's task, as arguments of the framework's service ``allocate``.

    That is: processes; most processes on a node, and cores and GPUs of each process (0: not set);
    whether nodes are whole. ``whole_nodes`` is the default for the task's keyword of that name. A
    callable, or a program with ``mpi=False``, is one process with ``nproc`` cores.
    """
    whole = bool(task.launcher.get("whole_nodes", whole_nodes))
    gpus = task.gpus or task.launcher_number("task_gpp")
    cores = task.launcher_number("task_cpp")
    if _is_one_process(task):
        return 1, 1, task.nproc if task.nproc > 1 else cores, gpus, whole
    return task.nproc, task.launcher_number("task_ppn"), cores, gpus, whole


def fit(task: Task, defaults: TaskDefaults, resources: Resources) -> tuple[Demand, list[str]]:
    """Return the demand of a task of ``launch_task``, and sentences about changes for the log file.

    Too large values of ``task_ppn`` and ``task_cpp`` are reduced. Raises BadResourceRequest if the
    nodes cannot run so many processes, ResourceRequestMismatch if they cannot with so few on each
    node, ResourceRequestUnequalPartitioning if whole nodes would run different numbers of
    processes, and GPUResourceRequestMismatch if the processes of a node need more GPUs than nodes
    have.
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
    """Return the layout of a task on its reservation.

    ``named`` is False if the launcher does not know the names of the nodes.
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
