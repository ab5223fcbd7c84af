"""Which nodes of an allocation a cluster takes, and that two clusters never share one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ips_dask_cluster import ClusterError, NotEnoughNodesError, SlurmAllocationCluster
from ips_dask_cluster.steps.node_locks import Claims
from ips_dask_cluster.testing import LocalSlurm

NO_DASHBOARD = {"dashboard": False}


def start(**options) -> SlurmAllocationCluster:
    return SlurmAllocationCluster(scheduler_options=NO_DASHBOARD, **options)


def nodes_of(cluster: SlurmAllocationCluster) -> list[str]:
    """The nodes that its workers themselves say they are on."""
    cluster.wait_for_workers()
    with cluster.get_client() as client:
        return sorted(client.run(os.getenv, "SLURMD_NODENAME").values())


@pytest.mark.versions
@pytest.mark.parametrize(
    ("options", "nodes"),
    [
        ({"nodelist": "n[2-3]"}, ["n2", "n3"]),
        ({"nodelist": ["n4", "n2"], "nodes": 1}, ["n4"]),
        ({"n_workers": 2}, ["n1", "n2"]),
        ({"nodes": 1, "workers_per_node": 2}, ["n1", "n1"]),
    ],
)
def test_nodes_that_are_asked_for_are_those_one_gets(job_id, options, nodes):
    with start(**options) as cluster:
        assert nodes_of(cluster) == nodes


@pytest.mark.parametrize(
    ("nodelist", "message"),
    [
        ("n[3-6]", "has no node n5, n6; its nodes are n1, n2, n3, n4"),
        ("n[1-x]", "'1-x' is not a number or a range, such as 1-4"),
        ("n[1-999999999]", "it names more than 4 node(s)"),
        ("n1,n1", "names a node twice; leave it out for all nodes"),
        ([], "names no node; leave it out for all nodes"),
    ],
)
def test_a_nodelist_that_makes_no_sense_is_one_sentence(job_id, nodelist, message):
    with pytest.raises(ClusterError) as caught:
        start(nodelist=nodelist)
    assert message in str(caught.value)
    assert os.listdir() == []


@pytest.fixture
def give_back(wait_until):
    """Wait until a cluster has given back all but some nodes."""
    return lambda cluster, count: wait_until(
        lambda: len(cluster.steps.placed) == count, 20, f"{count} nodes are left"
    )


@pytest.mark.versions
def test_clusters_side_by_side_share_no_node(job_id, caplog, give_back):
    with start(nodes=1) as first, start() as second:
        assert nodes_of(first) == ["n1"]
        assert nodes_of(second) == ["n2", "n3", "n4"]
        assert f"1 of the 4 nodes of Slurm job {job_id} run workers of another" in caplog.text
        with pytest.raises(NotEnoughNodesError, match=r"^1 node.* has 4, of which 4 already run"):
            start()
        with pytest.raises(NotEnoughNodesError, match=r"has 4, of which 3 already run"):
            first.scale(2)
        second.scale(1)
        give_back(second, 1)
        with start(nodelist="n[3-4]") as third:
            assert nodes_of(third) == ["n3", "n4"]
        assert nodes_of(second) == ["n2"]


def test_a_node_that_is_given_back_goes_to_who_asks_next(job_id, give_back):
    with start() as first:
        first.wait_for_workers()
        first.scale_down(["n2", "n3"])
        give_back(first, 2)
        with start(nodes=2) as second:
            assert nodes_of(second) == ["n2", "n3"]
            assert nodes_of(first) == ["n1", "n4"]
        first.scale(4)
        assert nodes_of(first) == ["n1", "n2", "n3", "n4"]


DRIVER = """
import os, sys
from ips_dask_cluster import SlurmAllocationCluster
sys.stdin.readline()
with SlurmAllocationCluster(nodes=2, scheduler_options={"dashboard": False}) as cluster:
    cluster.wait_for_workers()
    with cluster.get_client() as client:
        print(*client.run(os.getenv, "SLURMD_NODENAME").values(), flush=True)
    sys.stdin.readline()
"""


def test_two_drivers_that_start_at_once_share_no_node(job_id):
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for line in ("go\n", "end\n"):
        for driver in drivers:
            driver.stdin.write(line)
            driver.stdin.flush()
    seen = [driver.communicate(timeout=60)[0].split() for driver in drivers]
    assert [len(nodes) for nodes in seen] == [2, 2]
    assert sorted(seen[0] + seen[1]) == ["n1", "n2", "n3", "n4"]


def test_a_driver_on_another_host_is_seen_by_its_steps(job_id, monkeypatch):
    """Its claims are not visible here, as those of another host would not be."""
    with start(nodes=3) as elsewhere:
        elsewhere.wait_for_workers()
        monkeypatch.setattr(Claims, "_name", lambda claims, what: f"\0{job_id} other host {what}")
        monkeypatch.setattr("ips_dask_cluster.steps.node_locks._LEFTOVER_SECONDS", 0.0)
        with start() as cluster:
            assert nodes_of(cluster) == ["n4"]


def test_two_clusters_of_one_name_are_refused(job_id, shared_tmp_path):
    with start(nodes=1, name="mine"):
        (shared_tmp_path / "below").mkdir()
        message = f"a cluster named 'mine' runs in Slurm job {job_id} already"
        with pytest.raises(ClusterError, match=message):
            start(nodes=1, name="mine", shared_temp_directory=shared_tmp_path / "below")


# From outside of the job


@pytest.fixture
def outside(job_id: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The job, seen from a login node, where only SLURM_CONF is set."""
    for name in os.environ:
        if name.startswith("SLURM_") and name != "SLURM_CONF":
            monkeypatch.delenv(name)
    return job_id


@pytest.mark.versions
def test_from_a_login_node_by_the_jobs_id(outside):
    with start(job_id=int(outside), nodes=2) as cluster:
        assert nodes_of(cluster) == ["n1", "n2"]
        assert {info["nthreads"] for info in cluster.scheduler_info["workers"].values()} == {2}
        assert cluster.name.startswith(f"ips-dask-{outside}-")


@pytest.fixture
def pending(slurm: LocalSlurm, outside: str) -> Iterator[str]:
    """A job that waits, since another one holds all nodes."""
    done = slurm.run(["sbatch", "--parsable", "-N4", "--exclusive", "--wrap", "true"])
    yield done.stdout.strip()
    slurm.run(["scancel", done.stdout.strip()])


def test_a_job_that_does_not_run_is_one_sentence(slurm, outside, pending):
    with pytest.raises(ClusterError, match=f"job_id='{pending}': the job has not started yet"):
        start(job_id=pending)
    with pytest.raises(ClusterError, match="Invalid job id specified"):
        start(job_id=987654)
    with pytest.raises(ValueError, match='launcher="local" starts nothing in a job'):
        start(job_id=outside, launcher="local")


@pytest.mark.versions
def test_heterogeneous_jobs_are_refused_in_words(slurm, monkeypatch, shared_tmp_path):
    monkeypatch.chdir(shared_tmp_path)
    code = "from ips_dask_cluster import SlurmAllocationCluster; SlurmAllocationCluster()"
    done = slurm.run(["salloc", "-N1", ":", "-N1", sys.executable, "-c", code], timeout=60)
    assert "ClusterError: this is a heterogeneous Slurm job" in done.stderr
    with subprocess.Popen(
        ["salloc", "--quiet", "-N1", ":", "-N1", "sh", "-c", "echo $SLURM_JOB_ID; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=slurm.environ,
        text=True,
    ) as holder:
        job = holder.stdout.readline().strip()
        monkeypatch.setenv("SLURM_CONF", slurm.environ["SLURM_CONF"])
        with (
            contextlib.closing(holder.stdin),
            pytest.raises(ClusterError, match="heterogeneous Slurm job"),
        ):
            start(job_id=job)
