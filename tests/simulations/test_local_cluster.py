"""SlurmAllocationCluster without Slurm: the same scripts, as processes of this machine."""

from __future__ import annotations

import asyncio
import logging

import pytest
from distributed import Client

from ips_dask_cluster import ClusterError, ClusterStartError, SlurmAllocationCluster


def test_without_an_allocation_it_takes_this_machine_and_says_so(
    tmp_path, monkeypatch, caplog, wait_until
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with (
        caplog.at_level(logging.WARNING, "ips_dask_cluster"),
        SlurmAllocationCluster(2, scheduler_options={"dashboard": False}) as cluster,
    ):
        cluster.wait_for_workers()
        assert cluster.scheduler_address.startswith("tls://")
        with Client(cluster) as client:
            assert client.submit(sum, [1, 2]).result() == 3
        cluster.scale(1)
        wait_until(lambda: len(cluster.observed) == 1, 20, "one worker is left")
        cluster.scale(2)
        cluster.wait_for_workers()
        assert cluster.observed == cluster.plan == {f"{cluster.name}-0", f"{cluster.name}-2"}
        assert "--ntasks-per-node" not in cluster.job_script()
        with pytest.raises(ClusterStartError, match=r"^2 of 3 workers arrived within 0 s"):
            cluster.wait_for_workers(3, timeout=0)  # just a look
    assert list(tmp_path.iterdir()) == []
    (said,) = [record.getMessage() for record in caplog.records if record.levelno >= 30]
    assert said.startswith("no Slurm allocation (SLURM_JOB_ID is not set): 2 worker(s) with ")


def test_modules_beside_the_driver_are_found_but_hide_no_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "random.py").write_text("raise ImportError('this is not the random of Python')\n")
    (tmp_path / "my_physics.py").write_text("def square(x):\n    return x * x\n")
    from my_physics import square

    with (
        SlurmAllocationCluster(1, launcher="local", security=False) as cluster,
        Client(cluster) as client,
    ):
        assert client.submit(square, 3).result() == 9


@pytest.mark.parametrize(
    ("options", "gpus", "nodes"),
    [
        ({"n_workers": 4, "processes": 2}, "", 2),
        ({"n_workers": 3, "processes": 2}, "", 2),
        ({"n_workers": 2, "worker_per_gpu": True}, "0,1", 1),
        ({"nodes": 3}, "", 3),
    ],
)
def test_no_share_of_this_machine_lies_idle(options, gpus, nodes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)

    async def held() -> int:
        cluster = SlurmAllocationCluster(launcher="local", asynchronous=True, **options)
        try:
            return len(cluster.allocation.nodes)
        finally:
            await cluster.close()

    assert asyncio.run(held()) == nodes


def test_an_asynchronous_start_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def start() -> None:
        cluster = SlurmAllocationCluster(
            launcher="local", asynchronous=True, log_directory="/proc/nowhere"
        )
        with pytest.raises(ClusterError, match=r"^the log directory /proc/nowhere cannot be made"):
            await cluster
        assert cluster.status.name == "closed"

    asyncio.run(start())
    assert list(tmp_path.iterdir()) == []
