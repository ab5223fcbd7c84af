"""Scaling and adapting by node: who is drained, what runs on, and how often a task starts."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pytest

from ips_dask_cluster import ClusterError, SlurmAllocationCluster
from ips_dask_cluster.testing import LocalSlurm

NO_DASHBOARD = {"dashboard": False}


@pytest.fixture
def starts(shared_tmp_path: Path) -> Path:
    """A folder with a file for each start of a task, named by the task and its node."""
    folder = shared_tmp_path / "starts"
    folder.mkdir()
    return folder


@pytest.fixture
def hold():
    """``hold(number, folder, until="")``: a task that tells of its start."""

    def hold(number: int, folder: Path, until: str = "") -> int:
        """Run until a file is there, or for 1.5 s."""
        import os
        import time
        import uuid

        (folder / f"{number}-{os.environ['SLURMD_NODENAME']}-{uuid.uuid4().hex}").touch()
        deadline = time.monotonic() + (60 if until else 1.5)
        while time.monotonic() < deadline and not (until and (folder.parent / until).exists()):
            time.sleep(0.02)
        return number

    return hold  # a function in a function travels by value


def started(folder: Path) -> list[tuple[int, str]]:
    return sorted((int(p.name.split("-")[0]), p.name.split("-")[1]) for p in folder.iterdir())


def addresses(cluster: SlurmAllocationCluster) -> dict[str, str]:
    return {info["name"]: a for a, info in cluster.scheduler_info["workers"].items()}


def test_chosen_nodes_are_drained_and_the_siblings_run_on(cluster, hold, starts, wait_until):
    """Tasks that run there end there; those that have not begun run elsewhere; none twice."""
    before = addresses(cluster)
    with cluster.get_client() as client:
        futures = client.map(hold, range(16), folder=starts, pure=False)
        wait_until(lambda: len(started(starts)) >= 8, 20, "every thread has a task")
        cluster.scale_down(["n2", "n3"])
        assert {cluster.steps.placed[worker].name for worker in cluster.worker_spec} == {"n1", "n4"}
        assert client.gather(futures) == list(range(16))
    assert [number for number, _ in started(starts)] == list(range(16))
    wait_until(lambda: len(cluster.observed) == 2, 20, "two workers are left")
    assert addresses(cluster).items() <= before.items(), "a sibling was started anew"


def test_growing_does_not_wait_for_a_node_that_drains(
    cluster, hold, starts, shared_tmp_path, wait_until
):
    with cluster.get_client() as client:
        cluster.scale_down(["n4"])
        wait_until(lambda: len(cluster.steps.placed) == 3, 20, "n4 is free")
        held = client.submit(hold, 0, folder=starts, until="go", pure=False)
        wait_until(lambda: started(starts), 20, "the task runs")
        node = started(starts)[0][1]
        cluster.scale_down([node])
        cluster.scale(3)  # on n4, while the other one drains
        cluster.wait_for_workers(3)
        assert len(cluster.observed - cluster.plan) == 1
        cluster.scale(4)  # waits for the node that drains
        (shared_tmp_path / "go").touch()
        cluster.wait_for_workers(4)
        assert held.result() == 0
        assert sorted(n.name for n in cluster.steps.placed.values()) == ["n1", "n2", "n3", "n4"]
    assert len(started(starts)) == 1


def test_closing_does_not_wait_for_what_drains(pair_of_workers, hold, starts, wait_until):
    cluster = pair_of_workers
    with cluster.get_client() as client:
        client.submit(hold, 0, folder=starts, until="never", pure=False)
        wait_until(lambda: started(starts), 20, "the task runs")
        cluster.scale_down([started(starts)[0][1]])
        begin = time.monotonic()
        cluster.close()
        assert time.monotonic() - begin < 15


def test_adapt_gives_idle_nodes_back_and_takes_them_again(
    slurm: LocalSlurm, allocate, hold, starts, wait_until
):
    allocate(slurm, 3, "--exclusive")
    with (
        SlurmAllocationCluster(scheduler_options=NO_DASHBOARD) as cluster,
        cluster.get_client() as client,
    ):
        cluster.wait_for_workers()
        cluster.adapt(minimum=1, interval="100 ms", wait_count=3, target_duration="1 s")
        for _ in range(2):
            wait_until(lambda: len(cluster.steps.placed) == 1, 40, "two nodes are given back")
            # somebody else may have them meanwhile
            nodes = [n.name for n in cluster.steps.free_nodes()]
            assert len(nodes) == 2
            futures = client.map(hold, range(18), folder=starts, key=uuid.uuid4().hex, pure=False)
            wait_until(lambda: len(cluster.observed) == 3, 60, "three nodes work again")
            assert client.gather(futures) == list(range(18))
    numbers = [number for number, _ in started(starts)]
    assert numbers == sorted([*range(18)] * 2), "a task was started twice"


def test_adapt_takes_no_more_than_others_leave(job_id, hold, starts, wait_until):
    with (
        SlurmAllocationCluster(nodes=2, scheduler_options=NO_DASHBOARD) as other,
        SlurmAllocationCluster(nodes=1, scheduler_options=NO_DASHBOARD) as cluster,
        cluster.get_client() as client,
    ):
        cluster.adapt(interval="100 ms", target_duration="1 s", maximum=4)
        futures = client.map(hold, range(24), folder=starts, pure=False)
        wait_until(lambda: len(cluster.observed) == 2, 40, "the node that is free is taken")
        other.scale(1)
        wait_until(lambda: len(cluster.observed) == 3, 40, "the one that became free, too")
        assert client.gather(futures) == list(range(24))
        assert other.losses == cluster.losses == ()


def test_adapt_with_several_workers_on_a_node_moves_whole_nodes(
    slurm: LocalSlurm, allocate, hold, starts, wait_until
):
    allocate(slurm, 2, "--exclusive")
    with SlurmAllocationCluster(processes=2, scheduler_options=NO_DASHBOARD) as cluster:
        cluster.wait_for_workers()
        cluster.adapt(minimum_jobs=1, maximum_jobs=2, interval="100 ms", target_duration="1 s")
        wait_until(lambda: len(cluster.observed) == 2, 40, "one node is given back")
        (entry,) = cluster.worker_spec
        assert cluster.observed == {f"{entry}-0", f"{entry}-1"}
        with cluster.get_client() as client:
            futures = client.map(hold, range(12), folder=starts, until="go", pure=False)
            wait_until(lambda: len(cluster.observed) == 4, 60, "both nodes work")
            (starts.parent / "go").touch()
            assert client.gather(futures) == list(range(12))


def test_a_closed_cluster_says_so(job_id):
    with SlurmAllocationCluster(1, scheduler_options=NO_DASHBOARD) as cluster:
        pass
    with pytest.raises(ClusterError, match=f"cluster {cluster.name} is closed; start another one"):
        cluster.scale(2)
