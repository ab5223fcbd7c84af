"""The cluster used as dask-jobqueue's documentation says, only the class's name changed."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client
from distributed.core import Status

from ips_dask_cluster import ClusterError, NotEnoughNodesError, SlurmAllocationCluster
from ips_dask_cluster.dask.spec import SrunNode
from ips_dask_cluster.jobqueue import Job, JobQueueCluster

NO_DASHBOARD = {"dashboard": False}
SECTION = "jobqueue.slurm-allocation"


@pytest.fixture(autouse=True)
def no_dashboard() -> Any:
    """As a user would: in the configuration, so that calls below are those of the documentation."""
    with dask.config.set({f"{SECTION}.scheduler-options": NO_DASHBOARD}):
        yield


def workers(cluster: SlurmAllocationCluster) -> dict[str, dict[str, Any]]:
    """What the scheduler knows of each worker by its name."""
    return {info["name"]: info for info in cluster.scheduler_info["workers"].values()}


def threads(cluster: SlurmAllocationCluster) -> set[int]:
    return {info["nthreads"] for info in workers(cluster).values()}


# Making one.


def test_the_first_page_of_the_documentation(job_id, wait_until):
    cluster = SlurmAllocationCluster(n_workers=0, cores=2, processes=1, memory="1 GB")
    assert workers(cluster) == {}
    cluster.scale(jobs=2)
    client = Client(cluster)
    client.wait_for_workers(2, timeout=30)
    assert client.submit(lambda x: x + 10, 1).result(timeout=30) == 11
    assert {info["memory_limit"] for info in workers(cluster).values()} == {10**9}
    cluster.scale(jobs=1)
    wait_until(lambda: len(workers(cluster)) == 1, 30, "one worker is left")
    client.close()
    cluster.close()
    assert cluster.status == Status.closed


def test_it_is_a_jobqueue_cluster(job_id):
    import dask_jobqueue  # here, after ours: its first import takes over Ctrl-C

    assert dask_jobqueue.JobQueueCluster is JobQueueCluster
    with SlurmAllocationCluster(2) as cluster:
        with Client(cluster) as client:
            client.wait_for_workers(2, timeout=30)
            assert isinstance(cluster, JobQueueCluster)
            assert len(cluster.workers) == 2
            for worker in cluster.workers.values():
                assert isinstance(worker, Job)
                assert isinstance(worker, SrunNode)
                assert worker.status == Status.running
            assert cluster.job_name == cluster.name
            assert cluster.job_header == ""
            assert client.cluster is cluster
        with cluster.get_client() as its_own:
            assert its_own.submit(sum, [1, 2]).result(timeout=30) == 3
    assert cluster.status == Status.closed


@pytest.mark.parametrize("how", ["async with", "await"])
def test_asynchronous(job_id, how):
    async def use(cluster: SlurmAllocationCluster) -> None:
        async with Client(cluster, asynchronous=True) as client:
            assert len(cluster.workers) == 1
            cluster.scale(jobs=2)
            await cluster
            assert len(cluster.workers) == 2
            await cluster.wait_for_workers(2)
            await client.wait_for_workers(2, timeout=30)
            assert await client.submit(lambda x: x + 1, 1) == 2
            cluster.scale(1)
            await cluster
            assert len(cluster.workers) == 1

    async def main() -> SlurmAllocationCluster:
        if how == "async with":
            async with SlurmAllocationCluster(1, asynchronous=True) as cluster:
                await use(cluster)
        else:
            cluster = await SlurmAllocationCluster(1, asynchronous=True)
            await use(cluster)
            await cluster.close()
        return cluster

    assert asyncio.run(main()).status == Status.closed


def test_a_name_of_ones_own(slurm, job_id, shared_tmp_path):
    with SlurmAllocationCluster(1, name="scan-7") as cluster:
        cluster.wait_for_workers()
        assert cluster.name == "scan-7"
        assert list(workers(cluster)) == ["scan-7-0"]
        steps = slurm.run(["squeue", "--steps", "-h", "-o", "%j"]).stdout
        assert "scan-7-worker-1" in steps
        assert cluster.run_directory == shared_tmp_path / ".scan-7"
        with pytest.raises(ClusterError, match="scan-7"):
            SlurmAllocationCluster(1, name="scan-7")


def test_silence_logs_while_the_cluster_lives(job_id, monkeypatch):
    handler = logging.StreamHandler()
    monkeypatch.setattr(logging.getLogger("distributed"), "handlers", [handler])
    for keywords, level in ({}, logging.ERROR), ({"silence_logs": "critical"}, logging.CRITICAL):
        with SlurmAllocationCluster(0, **keywords):
            assert handler.level == level
        assert handler.level == logging.NOTSET


# Scaling.


def test_scale_to_cores_or_memory(job_id, wait_until):
    with SlurmAllocationCluster(0, cores=2, memory="500 MB") as cluster:
        for amount, jobs in ({"cores": 3}, 2), ({"cores": 8}, 4), ({"memory": "0.9 GB"}, 2):
            cluster.scale(**amount)
            assert len(cluster.plan) == jobs, amount
            wait_until(lambda: workers(cluster).keys() == cluster.plan, 30, f"{amount}")
        assert threads(cluster) == {2}


def test_scale_counts_workers_or_jobs(slurm, allocate, wait_until):
    allocate(slurm, 2, "--exclusive")
    with SlurmAllocationCluster(1, cores=2, processes=2) as cluster:
        cluster.wait_for_workers()
        assert len(workers(cluster)) == 2
        cluster.scale(jobs=2)
        wait_until(lambda: len(workers(cluster)) == 4, 30, "four workers on two nodes")
        cluster.scale(2)
        wait_until(lambda: len(workers(cluster)) == 2, 30, "two workers on one node")
        cluster.scale(3)
        wait_until(lambda: len(workers(cluster)) == 4, 30, "whole nodes")
        assert threads(cluster) == {1}


def test_more_than_is_held_is_refused(job_id):
    with SlurmAllocationCluster(0, cores=2, memory="500 MB") as cluster:
        for amount in ({"jobs": 5}, {"n": 5}, {"cores": 9}, {"memory": "1 TB"}):
            with pytest.raises(NotEnoughNodesError, match=f"Slurm job {job_id} has 4"):
                cluster.scale(**amount)
            assert cluster.plan == set(), amount


def test_scale_after_close_is_an_error(job_id):
    cluster = SlurmAllocationCluster(0, name="over")
    cluster.close()
    with pytest.raises(ClusterError, match=r"^cluster over is closed; start another"):
        cluster.scale(jobs=1)


# Looking at it.


def test_what_one_may_look_at(job_id, capsys):
    with SlurmAllocationCluster(2) as cluster:
        cluster.wait_for_workers()
        print(cluster.job_script())
        script = capsys.readouterr().out
        syntax = subprocess.run(["bash", "-n"], input=script, text=True, timeout=10, check=True)
        assert syntax.returncode == 0
        assert f"srun --job-name={cluster.name}-worker-" in script
        assert "distributed.cli.dask_worker" in script
        logs = cluster.get_logs()
        assert {"Cluster", "Scheduler"} < set(logs)
        assert len([text for text in logs.values() if "Registered to" in text]) == 2
        text = repr(cluster)
        assert cluster.name in text
        assert "workers=2, threads=4" in text
        assert cluster.scheduler_address in text
        html = cluster._repr_html_()
        assert cluster.name in html
        assert "SlurmAllocationCluster" in html


# Settings, as the running workers have them.


def test_variable_beats_the_file_and_a_keyword_both(job_id, shared_tmp_path, monkeypatch):
    (shared_tmp_path / "site.yaml").write_text("jobqueue: {slurm-allocation: {memory: 1.5 GB}}")
    name = "DASK_JOBQUEUE__SLURM_ALLOCATION__MEMORY"
    code = """
import sys
from ips_dask_cluster import SlurmAllocationCluster
keywords = {"memory": "500 MB"} if "keyword" in sys.argv else {}
with SlurmAllocationCluster(1, scheduler_options={"dashboard": False}, **keywords) as cluster:
    cluster.wait_for_workers()
    print(*[info["memory_limit"] for info in cluster.scheduler_info["workers"].values()])
"""

    def run(*words: str) -> str:
        argv = [sys.executable, "-c", code, *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    monkeypatch.setenv("DASK_CONFIG", str(shared_tmp_path))
    assert run() == "1500000000"
    monkeypatch.setenv(name, "1 GB")
    assert run() == "1000000000"
    assert run("keyword") == "500000000"


def test_settings_of_the_configuration_reach_the_workers(job_id, shared_tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(shared_tmp_path))
    section = {
        "interface": "lo",
        "log-directory": "~/logs",
        "job-script-prologue": ["export FROM_PROLOGUE=1"],
        "worker-extra-args": "--resources GPU=2",
        "name": "mine",
    }
    with dask.config.set({f"{SECTION}.{name}": value for name, value in section.items()}):
        cluster = SlurmAllocationCluster(1)
    with cluster, cluster.get_client() as client:
        client.wait_for_workers(1, timeout=30)
        (address,) = cluster.scheduler_info["workers"]
        assert address.startswith("tls://127.0.0.1:")
        assert cluster.scheduler_address.startswith("tls://127.0.0.1:")
        assert list(client.run(os.getenv, "FROM_PROLOGUE").values()) == ["1"]
        assert cluster.scheduler_info["workers"][address]["resources"] == {"GPU": 2}
        assert cluster.name.startswith(f"mine-{job_id}-")
        assert list(Path("logs").glob("mine-*worker*.log"))
        assert not Path("~").exists(), "dask-jobqueue's base class would make it"


def test_a_packaged_profile_is_adapted_by_a_section_of_its_name(gpu_slurm, allocate):
    """Exclusive nodes, GPUs not asked for: srun gives a step none unless it asks."""
    allocate(gpu_slurm, 2, "--exclusive")
    own = {"interface": None, "srun-extra-args": ["--cpus-per-task=2", "--gpus-per-node=2"]}
    with (
        dask.config.set({"jobqueue.perlmutter-gpu": own}),
        SlurmAllocationCluster(config_name="perlmutter-gpu") as cluster,
    ):
        cluster.wait_for_workers()
        with cluster.get_client() as client:
            devices = client.run(os.getenv, "CUDA_VISIBLE_DEVICES").values()
        assert sorted(devices) == ["0", "0", "1", "1"]
        assert threads(cluster) == {32}, "64 cores for 2 workers"


def test_profile_of_a_laptop_inside_of_a_job_takes_this_machine(job_id, caplog):
    with SlurmAllocationCluster(config_name="local", cores=1) as cluster:
        cluster.wait_for_workers()
        addresses = [cluster.scheduler_address, *cluster.scheduler_info["workers"]]
        with cluster.get_client() as client:
            nodes = list(client.run(os.getenv, "SLURMD_NODENAME").values())
    assert cluster.allocation.job_id is None
    assert [address.rpartition(":")[0] for address in addresses] == ["tls://127.0.0.1"] * 2
    assert nodes == [None]
    assert caplog.text == ""
