"""An allocation to stand in: what salloc gives, in this process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ips_dask_cluster.slurm import lookup
from ips_dask_cluster.slurm.allocation import Allocation
from ips_dask_cluster.testing import LocalSlurm

_SECONDS = 30
_CHECKOUT = Path(__file__).parents[2]

_TWO_COMPONENTS = """
SIM_NAME = sim
SIM_ROOT = $PWD/sim
LOG_FILE = $SIM_ROOT/sim.log
[PORTS]
NAMES = DRIVER WORKER
[[DRIVER]]
IMPLEMENTATION = Driver
[[WORKER]]
IMPLEMENTATION = Worker
[Driver]
CLASS = DRIVER
SUB_CLASS =
NAME = Driver
SCRIPT = $PWD/components.py
[Worker]
CLASS = WORKERS
SUB_CLASS =
NAME = Worker
SCRIPT = $PWD/components.py
"""


@pytest.fixture
def two_components() -> str:
    """A simulation file for the classes Driver and Worker of a ``components.py`` beside it."""
    return _TWO_COMPONENTS


@pytest.fixture
def allocate(monkeypatch: pytest.MonkeyPatch, shared_tmp_path) -> Iterator[Callable[..., str]]:
    """``allocate(slurm, nodes, *options)``: take an allocation by salloc; its job id.

    The environment becomes that of salloc's command, the directory one that all nodes see.
    """
    monkeypatch.chdir(shared_tmp_path)
    with _allocations(monkeypatch) as allocate:
        yield allocate


@contextlib.contextmanager
def _allocations(patch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    holders = []

    def allocate(slurm: LocalSlurm, nodes: int, *options: str) -> str:
        # its command tells its environment, then holds the allocation until its input ends
        holder = subprocess.Popen(
            ["salloc", "--quiet", f"-N{nodes}", *options, "sh", "-c", "env; echo end; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=slurm.environ,
            text=True,
        )
        holders.append(holder)
        for line in iter(holder.stdout.readline, "end\n"):
            name, _, value = line.rstrip("\n").partition("=")
            if name.startswith("SLURM_"):
                patch.setenv(name, value)
        return os.environ["SLURM_JOB_ID"]

    yield allocate
    for holder in holders:
        holder.communicate(timeout=_SECONDS)


@pytest.fixture
def job_id(slurm: LocalSlurm, allocate) -> str:
    """An exclusive allocation of four nodes."""
    return allocate(slurm, 4, "--exclusive")


@pytest.fixture
def cluster(job_id: str) -> Iterator[Any]:
    """A cluster of four workers that are there."""
    # not above: distributed sets up logging on import, which conftest files come too early for
    from ips_dask_cluster import SlurmAllocationCluster

    with SlurmAllocationCluster(scheduler_options={"dashboard": False}) as cluster:
        cluster.wait_for_workers()
        yield cluster


@pytest.fixture
def two_nodes(slurm: LocalSlurm, allocate) -> str:
    """An exclusive allocation of two nodes, for what does not need four; its job id."""
    return allocate(slurm, 2, "--exclusive")


@pytest.fixture
def pair_of_workers(two_nodes: str) -> Iterator[Any]:
    """A cluster of two workers that are there, and no other node to take."""
    from ips_dask_cluster import SlurmAllocationCluster

    with SlurmAllocationCluster(scheduler_options={"dashboard": False}) as cluster:
        cluster.wait_for_workers()
        yield cluster


@pytest.fixture(scope="class")
def standing_cluster(slurm: LocalSlurm) -> Iterator[Any]:
    """Like `cluster`, but one for all tests of a class, each of which leaves four workers.

    Its allocation holds all nodes until the last of them, and it answers itself for what it
    leaves behind.
    """
    from ips_dask_cluster import SlurmAllocationCluster

    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="ips-test-", dir="/var/tmp") as folder,
    ):
        patch.delenv("IPS_TEST_MARK", raising=False)  # it outlives the test
        patch.chdir(folder)
        with _allocations(patch) as allocate:
            allocate(slurm, 4, "--exclusive")
            with SlurmAllocationCluster(scheduler_options={"dashboard": False}) as cluster:
                cluster.wait_for_workers()
                yield cluster
        assert os.listdir(folder) == []


@pytest.fixture
def larger_than_held() -> Callable[[], Allocation]:
    """``larger_than_held()``: the allocation, had it 64 CPUs a node, which srun refuses."""

    def read() -> Allocation:
        held = lookup.read()
        return replace(held, nodes=tuple(replace(node, cpus=64) for node in held.nodes))

    return read


@pytest.fixture(scope="session")
def rootfs() -> Path:
    """A root file system with the driver's dask, but not with this package."""
    argv = [_CHECKOUT / "tools" / "container-rootfs", "path", sys.executable]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    path = Path(done.stdout.strip())
    if not path.is_dir():
        pytest.fail(f"{path} is missing: run make container", pytrace=False)
    return path


@pytest.fixture
def gpu_slurm() -> Iterator[LocalSlurm]:
    """Two nodes with two GPUs each, as far as Slurm knows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("IPS_TEST_MARK")  # its daemons outlive the test
        slurm = LocalSlurm(nodes=2, cpus=2, gpus=2).start()
    with contextlib.closing(slurm):
        yield slurm
