"""Pools without Dask: what they ask the framework for, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ips_core.errors import TaskPoolError
from ips_core.pools.attempt import Attempt
from ips_core.pools.executor import Ended
from ips_core.pools.local.backend import LocalBackend
from ips_core.resources.nodes import NodeShare, Reservation
from ips_core.services.pools import PoolServices
from ips_core.tasks.launcher import TaskLauncher
from ips_core.tasks.task import Task


def program(nproc: int = 1, **keywords: Any) -> Task:
    return Task("t1", nproc, "/", "true", **keywords)


def backend(link: Any, mpirun: str = "eval") -> LocalBackend:
    return LocalBackend(link, TaskLauncher(mpirun, mpirun != "eval"), slots=4)


class Link:
    """A framework that gives everybody two cores of one node."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def ask(self, *request: Any) -> Reservation | None:
        self.asked.append(request)
        return Reservation(7, (NodeShare("n2", 2, 4),)) if request[0] == "allocate" else None


def test_task_runs_on_what_the_framework_hands_out(tmp_path, wait_until: Callable) -> None:
    link, heard = Link(), []
    executor = backend(link).executor("run")
    executor.start(heard.append)
    task = Task("t1", 2, str(tmp_path), "/bin/sh", "-c", "echo $OMP_NUM_THREADS > omp")
    executor.submit([Attempt(task, "k1")])
    wait_until(lambda: any(isinstance(news, Ended) for news in heard), 20, "its end")
    assert executor.close() == ""
    assert heard[-1].record["status"] == "finished"
    assert (tmp_path / "omp").read_text() == "2\n"
    assert link.asked == [("allocate", 2, 0, 0, 0, False, True), ("release", 7)]


def test_srun_gets_no_variables_that_contradict_it(monkeypatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "9")
    task = program(2)
    allocation = Reservation(7, (NodeShare("n2", 2, 4),))
    argv, variables = TaskLauncher("srun", True).command(task, allocation)
    assert argv[: argv.index("srun")] == ["env", "-u", "SLURM_CPUS_PER_TASK"]
    assert variables == {"OMP_NUM_THREADS": "2"}
    argv, _ = TaskLauncher("mpirun", True).command(task, allocation)
    assert argv[0] == "mpirun"


@pytest.mark.parametrize(("launcher", "possible"), [("eval", False), ("mpirun", True)])
def test_mpi_is_refused_where_it_would_be_one_process(launcher: str, possible: bool) -> None:
    executor = backend(Link(), launcher).executor("run")
    assert executor.why_not(program(2)) == ""
    found = executor.why_not(program(2, mpi=True))
    why = "mpi=True, but MPIRUN = eval starts no MPI programs: set it to mpirun, say"
    assert found == ("" if possible else why)


@pytest.mark.parametrize(("launcher", "possible"), [("mpirun", False), ("srun", True)])
def test_gpus_are_refused_where_nobody_hands_them_out(launcher: str, possible: bool) -> None:
    executor = backend(Link(), launcher).executor("run")
    why = "gpus = 1, but MPIRUN = mpirun hands out no GPUs: use srun"
    assert executor.why_not(program(1, gpus=1)) == ("" if possible else why)


@pytest.mark.parametrize(
    ("key", "value"),
    [("use_shifter", True), ("dask_worker_plugin", object()), ("dask_worker_per_gpu", True)],
)
def test_what_only_dask_workers_have_is_refused_without_them(key: str, value: object) -> None:
    services = PoolServices.__new__(PoolServices)
    services.task_pools = {}
    services.create_task_pool("scan")
    with pytest.raises(TaskPoolError, match=f"pool scan: {key}= needs use_dask=True"):
        services.submit_tasks("scan", **{key: value})
