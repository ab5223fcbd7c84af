"""What tasks ask of the nodes, and how they lie on what they get."""

from __future__ import annotations

from typing import Any

import pytest

from ips_core.errors import (
    BadResourceRequest,
    GPUResourceRequestMismatch,
    IPSError,
    ResourceRequestMismatch,
    ResourceRequestUnequalPartitioning,
)
from ips_core.resources.nodes import (
    Demand,
    NodeCapacity,
    NodeShare,
    Reservation,
    ResourceManager,
    Resources,
)
from ips_core.tasks.demand import TaskDefaults, demand_of, fit, read_defaults, shape_of
from ips_core.tasks.launch import TaskShape, srun_command
from ips_core.tasks.task import Task

EIGHT_CORES = tuple(NodeCapacity(f"n{number}", 8, 4, 2) for number in (1, 2, 3))
CLUSTER = Resources(3, 8, "srun", held=EIGHT_CORES)
SHARED, EXCLUSIVE = TaskDefaults(), TaskDefaults(exclusive=True)


def program(nproc: int = 1, **keywords: Any) -> Task:
    return Task("t1", nproc, "/", "true", **keywords)


# Tasks of pools.


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (program(), (1, 1, 0, 0, False)),
        (program(task_cpp=3, task_gpp=2), (1, 1, 3, 2, False)),
        (program(8), (8, 0, 0, 0, False)),
        (program(8, task_ppn=4, task_cpp=2, gpus=1, whole_nodes=True), (8, 4, 2, 1, True)),
        (program(8, mpi=False), (1, 1, 8, 0, False)),
        (Task("t1", 4, "/", len, ()), (1, 1, 4, 0, False)),
    ],
)
def test_demand(task: Task, expected: tuple[int, ...]) -> None:
    assert demand_of(task, whole_nodes=False) == expected


def test_tasks_may_take_whole_nodes_unless_they_say_otherwise() -> None:
    assert demand_of(program(), whole_nodes=True)[4] is True
    assert demand_of(program(whole_nodes=False), whole_nodes=True)[4] is False


TWO_NODES = Reservation(7, (NodeShare("n2", 2, 6), NodeShare("n4", 1, 2)), whole_nodes=True)


def test_shape() -> None:
    task = program(3, omp=True, gpus=1, launch_cmd_extra_args="--mpi=pmi2 '-A b'")
    assert shape_of(task, TWO_NODES, named=True) == TaskShape(
        nproc=3,
        nodes=2,
        ppn=2,
        cores=2,
        gpus=1,
        omp=True,
        whole_nodes=True,
        node_names=("n2", "n4"),
        extra_args=("--mpi=pmi2", "-A b"),
    )
    assert shape_of(task, TWO_NODES, named=False).node_names == ()


@pytest.mark.parametrize("whole_nodes", [True, False])
def test_shape_has_the_gpus_that_slurm_hands_out_on_each_node(whole_nodes: bool) -> None:
    """Those that only a platform file names are no matter of Slurm's."""
    nodes = (
        NodeCapacity("n1", 2, 4, slurm_gpus=4),
        NodeCapacity("n2", 2, 2, slurm_gpus=2),
        NodeCapacity("n3", 2, 8),
    )
    allocations = ResourceManager(nodes, 2)
    for nproc, node_gpus in (4, 2), (2, 0):
        allocation = allocations.allocate(Demand(nproc, whole_nodes=whole_nodes))
        assert allocation is not None
        assert shape_of(program(nproc), allocation, named=True).node_gpus == node_gpus


def test_one_process_with_several_cores() -> None:
    allocation = Reservation(7, (NodeShare("n2", 1, 3),))
    shape = shape_of(program(3, mpi=False), allocation, named=True)
    assert (shape.nproc, shape.cores) == (1, 3)


# What launch_task asks for.


def options(task: Task, defaults: TaskDefaults, resources: Resources = CLUSTER) -> str:
    """The options of srun for a task on empty nodes, without those that IPS-framework lacks."""
    demand, _ = fit(task, defaults, resources)
    manager = ResourceManager(resources.held, resources.cores_per_node)
    allocation = manager.allocate(demand)
    assert allocation is not None
    argv, _ = srun_command(shape_of(task, allocation, named=False), task.argv)
    fixed = ("--threads-per-core=1", "--cpu-bind=cores", "srun", task.argv[0])
    return " ".join(word for word in argv if word not in fixed and not word.startswith("--gres="))


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (program(1), "-N 1 -n 1 -c 8"),
        (program(4), "-N 1 -n 4 -c 2"),
        (program(8), "-N 1 -n 8 -c 1"),
        (program(16), "-N 2 -n 16 -c 1"),
        (program(4, task_ppn=2), "-N 2 -n 4 -c 4"),
        (program(8, task_ppn=4, task_cpp=2, omp=True), "-N 2 -n 8 -c 2"),
        (program(4, task_cpp=1), "-N 1 -n 4 -c 1"),
        (program(1, task_gpp=1), "-N 1 -n 1 -c 8 --gpus-per-task=1"),
        (program(4, task_gpp=1), "-N 1 -n 4 -c 2 --gpus-per-task=1"),
        (program(4, task_ppn=2, task_gpp=2), "-N 2 -n 4 -c 4 --gpus-per-task=2"),
        (program(1, whole_nodes=False, whole_sockets=False), "-N 1 -n 1 -c 8"),
        (program(1, launch_cmd_extra_args="--mpi=pmi2 -l"), "-N 1 -n 1 -c 8 --mpi=pmi2 -l"),
    ],
)
def test_srun_on_whole_nodes(task: Task, expected: str) -> None:
    """The table of IPS-framework's commands."""
    assert options(task, EXCLUSIVE) == expected
    if task.launcher.get("whole_nodes", True):
        own = Task("t1", task.nproc, "/", "true", **{**task.launcher, "whole_nodes": True})
        assert options(own, SHARED) == expected


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (program(1), "-N 1 -n 1 -c 1"),
        (program(12), "-N 2 -n 12 -c 1"),
        (program(4, task_ppn=2), "-N 2 -n 4 -c 1"),
        (program(2, task_cpp=3), "-N 1 -n 2 -c 3"),
        (program(2, task_gpp=2), "-N 1 -n 2 -c 1 --gpus-per-task=2"),
        (program(2, whole_sockets=True), "-N 1 -n 2 -c 2"),
        (program(1, whole_sockets=True), "-N 1 -n 1 -c 4"),
        (program(6, whole_sockets=True, task_cpp=1), "-N 1 -n 6 -c 1"),
    ],
)
def test_srun_on_parts_of_nodes(task: Task, expected: str) -> None:
    assert options(task, SHARED) == expected.replace(" --gpus", " --exact --mem=0 --gpus") + (
        "" if "--gpus" in expected else " --exact --mem=0"
    )


@pytest.mark.parametrize(
    ("task", "defaults", "expected"),
    [
        (program(9), SHARED, Demand(9, 8)),
        (program(2), TaskDefaults(ppn=1, cpp=2), Demand(2, 1, 2)),
        (program(2, task_ppn=2, task_cpp=1), TaskDefaults(ppn=1, cpp=2), Demand(2, 2, 1)),
        (program(2, task_ppn=0, task_cpp=0), TaskDefaults(ppn=1, cpp=2), Demand(2, 2)),
        (program(2), EXCLUSIVE, Demand(2, 2, 0, 0, True, True)),
    ],
)
def test_component_says_what_its_tasks_do_not(
    task: Task, defaults: TaskDefaults, expected: Demand
) -> None:
    assert fit(task, defaults, CLUSTER) == (expected, [])


@pytest.mark.parametrize(
    ("task", "expected", "words"),
    [
        (program(1, task_cpp=99), Demand(1, 1, 8, 0, True, True), "task_cpp = 99: 1 process(es)"),
        (program(16, task_ppn=9), Demand(16, 8, 0, 0, True, True), "task_ppn = 9: a node runs 8"),
        (
            program(1, whole_nodes=False),
            Demand(1, 1, 0, 0, True, True),
            "whole_nodes=False has no effect: NODE_ALLOCATION_MODE = EXCLUSIVE",
        ),
    ],
)
def test_too_much_is_clipped_and_said(task: Task, expected: Demand, words: str) -> None:
    demand, (said,) = fit(task, EXCLUSIVE, CLUSTER)
    assert demand == expected
    assert said.startswith(words)


@pytest.mark.parametrize(
    ("task", "defaults", "error", "words"),
    [
        (program(64), SHARED, BadResourceRequest, "nproc = 64 can never be had: there are 3 node"),
        (program(8, task_ppn=2), SHARED, ResourceRequestMismatch, "takes 4 nodes, but there are 3"),
        (program(12), EXCLUSIVE, ResourceRequestUnequalPartitioning, "no multiple of the 8"),
        (program(4, task_gpp=2), EXCLUSIVE, GPUResourceRequestMismatch, "want 8 GPUs"),
        (program(4, task_gpp=2), SHARED, GPUResourceRequestMismatch, "but a node has 4"),
    ],
)
def test_what_can_never_be_had(
    task: Task, defaults: TaskDefaults, error: type[IPSError], words: str
) -> None:
    with pytest.raises(error) as caught:
        fit(task, defaults, CLUSTER)
    assert words in str(caught.value)


def test_gpus_count_where_they_are() -> None:
    mixed = Resources(2, 2, "srun", held=(NodeCapacity("cpu", 2), NodeCapacity("gpu", 2, 2)))
    assert fit(program(2, task_gpp=1), SHARED, mixed)[0].gpus == 1
    with pytest.raises(GPUResourceRequestMismatch):
        fit(program(4, task_gpp=1), SHARED, mixed)


# What the files say.


@pytest.mark.parametrize(
    ("own", "simulation", "platform", "expected"),
    [
        ({}, {}, {}, TaskDefaults()),
        ({}, {}, {"NODE_ALLOCATION_MODE": "exclusive"}, EXCLUSIVE),
        ({}, {"NODE_ALLOCATION_MODE": "EXCLUSIVE"}, {"NODE_ALLOCATION_MODE": "shared"}, EXCLUSIVE),
        (
            {"NODE_ALLOCATION_MODE": "SHARED"},
            {"NODE_ALLOCATION_MODE": "EXCLUSIVE"},
            {},
            TaskDefaults(),
        ),
        ({"PROCS_PER_NODE": "4", "CPUS_PER_PROC": "2"}, {}, {}, TaskDefaults(4, 2)),
        ({"PROCS_PER_NODE": "", "CPUS_PER_PROC": ""}, {}, {"PROCS_PER_NODE": 3}, TaskDefaults()),
    ],
)
def test_defaults(
    own: dict[str, Any],
    simulation: dict[str, Any],
    platform: dict[str, Any],
    expected: TaskDefaults,
) -> None:
    assert read_defaults(own, simulation, platform) == expected
