"""What a simulation may use: from a platform file, a Slurm job and the command line."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_core.config import PlatformConfig
from ips_core.errors import BadResourceRequest, ConfigError
from ips_core.resources.nodes import (
    Demand,
    NodeCapacity,
    NodeShare,
    Reservation,
    ResourceManager,
    detect,
    uses_job,
)

JOB = [NodeCapacity(f"n{number}", 128, 4) for number in range(4)]
OWN_CPUS = 6


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(OWN_CPUS)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def platform(mpirun: str | None = None, **values: Any) -> PlatformConfig:
    return PlatformConfig("p.conf", mpirun, values)


@pytest.mark.parametrize("mpirun", [None, "srun"])
@pytest.mark.parametrize(
    ("values", "asked", "nodes", "cores"),
    [
        ({}, {}, 4, 128),
        ({}, {"nodes": 3}, 3, 128),
        ({}, {"nodes": 4, "ppn": 16}, 4, 16),
        ({"PROCS_PER_NODE": 32}, {}, 4, 32),
        ({"PROCS_PER_NODE": 32}, {"ppn": 16}, 4, 16),
        ({"NODES": 2, "CORES_PER_NODE": 8}, {}, 4, 128),
    ],
)
def test_slurm_job(
    mpirun: str | None, values: dict[str, int], asked: dict[str, int], nodes: int, cores: int
) -> None:
    found = detect(platform(mpirun, **values), JOB, **asked)
    assert (found.nodes, found.cores_per_node) == (nodes, cores)
    assert (found.launcher, found.flexible) == ("srun", False)
    assert found.held == tuple(JOB[:nodes])


@pytest.mark.parametrize(("mpirun", "job"), [(None, None), ("eval", None), ("eval", JOB)])
@pytest.mark.parametrize(
    ("values", "asked", "nodes", "cores"),
    [
        ({}, {}, 1, OWN_CPUS),
        ({"CORES_PER_NODE": 8}, {}, 1, 8),
        ({"CORES_PER_NODE": 8, "PROCS_PER_NODE": 2}, {}, 1, 2),
        ({"CORES_PER_NODE": 8, "PROCS_PER_NODE": 2}, {"ppn": 3}, 1, 3),
        ({"NODES": 1}, {}, 1, OWN_CPUS),
        ({"NODES": 3}, {}, 3, OWN_CPUS),
        ({"NODES": 3}, {"nodes": 2}, 2, OWN_CPUS),
    ],
)
def test_this_machine(
    mpirun: str | None,
    job: list[NodeCapacity] | None,
    values: dict[str, int],
    asked: dict[str, int],
    nodes: int,
    cores: int,
) -> None:
    found = detect(platform(mpirun, **values), job, **asked)
    assert (found.nodes, found.cores_per_node) == (nodes, cores)
    assert (found.launcher, found.flexible) == ("local", nodes == 1)
    assert [node.cores for node in found.held] == [cores] * nodes
    assert len({node.name for node in found.held}) == nodes


def test_more_processes_than_cores_are_what_the_user_says() -> None:
    found = detect(platform(PROCS_PER_NODE=256), JOB)
    assert (found.cores_per_node, found.held[0].cores) == (256, 256)


@pytest.mark.parametrize(
    ("job", "values", "visible", "gpus"),
    [
        (JOB, {}, "", 4),
        ([NodeCapacity("n", 2)], {"GPUS_PER_NODE": 3}, "", 3),
        (None, {"GPUS_PER_NODE": 3}, "", 3),
        (None, {}, "0,1", 2),
        (None, {}, "", 0),
    ],
)
def test_gpus(
    job: list[NodeCapacity] | None,
    values: dict[str, int],
    visible: str,
    gpus: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert {node.gpus for node in detect(platform(**values), job).held} == {gpus}


@pytest.mark.parametrize("mpirun", [None, "srun", "mpirun", "mpiexec"])
@pytest.mark.parametrize(
    ("values", "asked", "nodes", "cores", "processes"),
    [
        ({}, {}, 4, 128, 128),
        ({"NODE_DETECTION": "slurm_env"}, {}, 4, 128, 128),
        ({"NODE_DETECTION": "slurm_env", "CORES_PER_NODE": 64, "NODES": 2}, {}, 4, 64, 64),
        ({"NODE_DETECTION": "manual", "CORES_PER_NODE": 256}, {}, 4, 128, 128),
        ({"NODE_DETECTION": "manual", "NODES": 2, "PROCS_PER_NODE": 8}, {}, 2, 128, 8),
        ({"NODE_DETECTION": "manual", "NODES": 2}, {"nodes": 3, "ppn": 4}, 3, 128, 4),
    ],
)
def test_every_launcher_uses_the_nodes_of_the_job(
    mpirun: str | None,
    values: dict[str, Any],
    asked: dict[str, int],
    nodes: int,
    cores: int,
    processes: int,
) -> None:
    found = detect(platform(mpirun, **values), JOB, **asked)
    assert (found.launcher, found.flexible) == ("srun", False)
    assert [(node.name, node.cores) for node in found.held] == [
        (node.name, cores) for node in JOB[:nodes]
    ]
    assert found.cores_per_node == processes


@pytest.mark.parametrize(
    ("mpirun", "environ", "expected"),
    [
        (None, {"SLURM_JOB_ID": "7"}, True),
        ("mpiexec", {"SLURM_JOB_ID": "7"}, True),
        ("eval", {"SLURM_JOB_ID": "7"}, False),
        ("srun", {}, False),
    ],
)
def test_job_is_asked_about_its_nodes_unless_by_eval(
    mpirun: str | None, environ: dict[str, str], expected: bool
) -> None:
    assert uses_job(platform(mpirun), environ) is expected


def test_sockets_are_those_of_the_platform_file() -> None:
    held = detect(platform(SOCKETS_PER_NODE=2), JOB).held
    assert [node.cores_per_socket for node in held] == [64] * 4


@pytest.mark.parametrize(
    ("mpirun", "job", "asked", "message"),
    [
        (
            "srun",
            None,
            {},
            "p.conf: MPIRUN = srun, but this is no Slurm job: run it inside salloc or sbatch",
        ),
        (None, JOB, {"nodes": 5}, "--nodes 5: the Slurm job has only 4"),
        ("srun", JOB, {"nodes": 5}, "--nodes 5: the Slurm job has only 4"),
        ("mpirun", JOB, {"nodes": 5}, "--nodes 5: the Slurm job has only 4"),
    ],
)
def test_what_is_not_there_is_an_error(
    mpirun: str | None, job: list[NodeCapacity] | None, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        detect(platform(mpirun), job, **asked)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("job", "values", "message"),
    [
        (JOB, {"NODE_DETECTION": "manual", "NODES": 5}, "NODES = 5: the Slurm job has only 4"),
        (
            None,
            {"NODE_DETECTION": "slurm_env"},
            "NODE_DETECTION = slurm_env, but this is no Slurm job: run it inside salloc or sbatch",
        ),
    ],
)
def test_platform_file_that_is_of_another_job(
    job: list[NodeCapacity] | None, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        detect(platform("mpirun", **values), job)
    assert str(caught.value) == f"p.conf: {message}"


# What is in use.

NODES = [NodeCapacity("a", 4, 2), NodeCapacity("b", 4, 2), NodeCapacity("c", 8, 0)]


@pytest.fixture
def manager() -> ResourceManager:
    return ResourceManager(NODES, 4)


def shares(found: Reservation | None) -> list[tuple[str, int, int, int]]:
    assert found is not None
    return [(share.node, share.processes, share.cores, share.gpus) for share in found.shares]


@pytest.mark.parametrize(
    ("demand", "expected"),
    [
        (Demand(1), [("a", 1, 1, 0)]),
        (Demand(5), [("a", 4, 4, 0), ("b", 1, 1, 0)]),
        (Demand(3, ppn=1), [("a", 1, 1, 0), ("b", 1, 1, 0), ("c", 1, 2, 0)]),
        (Demand(3, ppn=99), [("a", 3, 3, 0)]),
        (Demand(2, cores=3), [("a", 1, 3, 0), ("b", 1, 3, 0)]),
        (Demand(1, cores=8), [("c", 1, 8, 0)]),
        (Demand(3, gpus=1), [("a", 2, 2, 2), ("b", 1, 1, 1)]),
        (Demand(2, gpus=2), [("a", 1, 1, 2), ("b", 1, 1, 2)]),
        (Demand(1, whole_nodes=True), [("a", 1, 4, 2)]),
        (Demand(6, ppn=3, whole_nodes=True), [("a", 3, 4, 2), ("b", 3, 4, 2)]),
        (Demand(2, cores=8, whole_nodes=True, ppn=1), None),
        (Demand.of_nodes(3), [("a", 1, 4, 2), ("b", 1, 4, 2), ("c", 1, 8, 0)]),
    ],
)
def test_what_a_demand_gets(manager: ResourceManager, demand: Demand, expected: Any) -> None:
    if expected is None:
        with pytest.raises(BadResourceRequest):
            manager.allocate(demand)
    else:
        assert shares(manager.allocate(demand)) == expected


def test_nodes_that_are_in_use_are_filled_first(manager: ResourceManager) -> None:
    manager.allocate(Demand(1, cores=8))
    held = manager.allocate(Demand(3))
    assert shares(held) == [("a", 3, 3, 0)]
    assert shares(manager.allocate(Demand(1))) == [("a", 1, 1, 0)]
    whole = manager.allocate(Demand.of_nodes(1))
    assert whole is not None
    assert (whole.nodes, whole.whole_nodes) == (("b",), True)
    assert manager.allocate(Demand(1)) is None
    assert held is not None
    manager.release(held.id)
    manager.release(held.id)
    assert shares(manager.allocate(Demand(3))) == [("a", 3, 3, 0)]


def test_whole_nodes_are_those_that_nobody_uses(manager: ResourceManager) -> None:
    first = manager.allocate(Demand(1))
    assert first is not None
    assert not manager.fits(Demand.of_nodes(3))
    assert manager.fits(Demand.of_nodes(3), [first])
    assert manager.allocate(Demand.of_nodes(3)) is None
    manager.release(first.id)
    assert manager.allocate(Demand.of_nodes(3)) is not None


@pytest.mark.parametrize(
    ("demand", "what"),
    [
        (Demand.of_nodes(4), "4 whole node(s)"),
        (Demand(13), "13 process(es)"),
        (Demand(1, cores=9), "1 process(es) of 9 core(s)"),
        (Demand(13, cores=1), "13 process(es) of 1 core(s)"),
        (
            Demand(2, 1, 4, 3, True),
            "2 process(es) of 4 core(s), with 3 GPU(s) each, at most 1 a node, on whole nodes",
        ),
    ],
)
def test_what_can_never_be_had(manager: ResourceManager, demand: Demand, what: str) -> None:
    while manager.allocate(Demand(1)):
        pass
    with pytest.raises(BadResourceRequest) as caught:
        manager.allocate(demand)
    there = "3 node(s) for 4 process(es) each, with 4-8 core(s) and 0-2 GPU(s)"
    assert str(caught.value) == f"{what} can never be had: there are {there}"


@pytest.mark.parametrize("demand", [Demand(0), Demand(1, ppn=-1), Demand(1, gpus=-1)])
def test_what_makes_no_sense(manager: ResourceManager, demand: Demand) -> None:
    with pytest.raises(BadResourceRequest, match="expected one or more processes, and no negative"):
        manager.check(demand)


demands = st.builds(
    Demand,
    nproc=st.integers(1, 9),
    ppn=st.integers(0, 4),
    cores=st.integers(0, 5),
    gpus=st.integers(0, 2),
    whole_nodes=st.booleans(),
)
nodes = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3)), min_size=1, max_size=4)


@given(nodes, st.integers(1, 6), st.lists(st.one_of(demands, st.integers(0, 5)), max_size=30))
def test_never_more_than_there_is_and_all_is_given_back(
    sizes: list[tuple[int, int]], most: int, steps: list[Demand | int]
) -> None:
    held = [NodeCapacity(f"n{number}", *size) for number, size in enumerate(sizes)]
    manager = ResourceManager(held, most)
    found: list[tuple[Demand, Reservation]] = []
    for step in steps:
        if isinstance(step, int):
            if found:
                manager.release(found.pop(step % len(found))[1].id)
            continue
        try:
            allocation = manager.allocate(step)
        except BadResourceRequest:
            continue
        if allocation is not None:
            found.append((step, allocation))
        for node in held:
            there = [s for _, a in found for s in a.shares if s.node == node.name]
            assert sum(share.cores for share in there) <= node.cores
            assert sum(share.gpus for share in there) <= node.gpus
            assert len(there) == 1 or not any(
                a.whole_nodes and node.name in a.nodes for _, a in found
            )
    for demand, allocation in found:
        check_met(demand, allocation, most)
        manager.release(allocation.id)
    assert manager.allocate(Demand.of_nodes(len(held))) is not None


def check_met(demand: Demand, allocation: Reservation, most: int) -> None:
    def enough(share: NodeShare) -> bool:
        cores = share.cores >= share.processes * demand.cores
        return cores and share.gpus >= share.processes * demand.gpus

    assert sum(share.processes for share in allocation.shares) == demand.nproc
    assert all(share.processes <= min(most, demand.ppn or most) for share in allocation.shares)
    assert all(enough(share) for share in allocation.shares)
    assert len(set(allocation.nodes)) == len(allocation.nodes)
