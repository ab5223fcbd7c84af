"""What a simulation may use: from a platform file, a Slurm job and the command line."""

from __future__ import annotations

import os
from typing import Any

import pytest

from ips_core.config import PlatformConfig
from ips_core.errors import ConfigError
from ips_core.resources import Resources, detect

JOB = (4, 128)
OWN_CPUS = 6


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(OWN_CPUS)))


def platform(mpirun: str | None = None, **values: int) -> PlatformConfig:
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
    assert found == Resources(nodes, cores, "srun", flexible=False)


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
    job: tuple[int, int] | None,
    values: dict[str, int],
    asked: dict[str, int],
    nodes: int,
    cores: int,
) -> None:
    found = detect(platform(mpirun, **values), job, **asked)
    assert found == Resources(nodes, cores, "local", flexible=nodes == 1)


@pytest.mark.parametrize("mpirun", ["mpirun", "mpiexec"])
def test_other_launchers_keep_clusters_on_this_machine(mpirun: str) -> None:
    assert detect(platform(mpirun), JOB).launcher == "local"


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
    ],
)
def test_what_is_not_there_is_an_error(
    mpirun: str | None, job: tuple[int, int] | None, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        detect(platform(mpirun), job, **asked)
    assert str(caught.value) == message
