"""What tasks without Dask ask for, and how they lie on what they get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ips_core.errors import TaskPoolError
from ips_core.pools.attempt import Attempt
from ips_core.pools.executor import Ended
from ips_core.pools.task import Task
from ips_core.pools.without_dask.backend import LocalBackend, demand_of, shape_of
from ips_core.resources import Allocation, Share
from ips_core.services.pools import PoolServices
from ips_core.tasks.launch import TaskShape


def program(nproc: int = 1, **keywords: Any) -> Task:
    return Task("t1", nproc, "/", "true", **keywords)


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


TWO_NODES = Allocation(7, (Share("n2", 2, 6), Share("n4", 1, 2)), whole_nodes=True)


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


def test_one_process_with_several_cores() -> None:
    allocation = Allocation(7, (Share("n2", 1, 3),))
    shape = shape_of(program(3, mpi=False), allocation, named=True)
    assert (shape.nproc, shape.cores) == (1, 3)


class Link:
    """A framework that gives everybody two cores of one node."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def ask(self, *request: Any) -> Allocation | None:
        self.asked.append(request)
        return Allocation(7, (Share("n2", 2, 4),)) if request[0] == "allocate" else None


def test_task_runs_on_what_the_framework_hands_out(tmp_path, wait_until: Callable) -> None:
    link, heard = Link(), []
    executor = LocalBackend(link, "eval", slots=4, named=False).executor("run")
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
    backend = LocalBackend(Link(), "srun", slots=4, named=True)
    argv, variables = backend._launch(task, Allocation(7, (Share("n2", 2, 4),)))
    assert argv[: argv.index("srun")] == ["env", "-u", "SLURM_CPUS_PER_TASK"]
    assert variables == {"OMP_NUM_THREADS": "2"}
    mpirun = LocalBackend(Link(), "mpirun", slots=4, named=True)
    argv, _ = mpirun._launch(task, Allocation(7, (Share("n2", 2, 4),)))
    assert argv[0] == "mpirun"


@pytest.mark.parametrize(("launcher", "possible"), [("eval", False), ("mpirun", True)])
def test_mpi_is_refused_where_it_would_be_one_process(launcher: str, possible: bool) -> None:
    executor = LocalBackend(Link(), launcher, slots=4, named=False).executor("run")
    assert executor.why_not(program(2)) == ""
    found = executor.why_not(program(2, mpi=True))
    why = "mpi=True, but MPIRUN = eval starts no MPI programs: set it to mpirun, say"
    assert found == ("" if possible else why)


@pytest.mark.parametrize(("launcher", "possible"), [("mpirun", False), ("srun", True)])
def test_gpus_are_refused_where_nobody_hands_them_out(launcher: str, possible: bool) -> None:
    executor = LocalBackend(Link(), launcher, slots=4, named=False).executor("run")
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
