"""A cluster that loses workers, nodes, or everything: what becomes of it, and who is told."""

from __future__ import annotations

import os
import signal
import time

import pytest
from distributed import Client

from ips_dask_cluster import NotEnoughNodesError, SlurmAllocationCluster, StepError
from ips_dask_cluster.steps.failures import Loss

NO_DASHBOARD = {"dashboard": False}


class Told:
    """What the callbacks of a cluster were told, with the time of it."""

    def __init__(self) -> None:
        self.losses: list[Loss] = []
        self.failures: list[StepError] = []

    def options(self) -> dict:
        return {
            "on_loss": self.losses.append,
            "on_failure": self.failures.append,
            "scheduler_options": NO_DASHBOARD,
        }


@pytest.fixture
def told() -> Told:
    return Told()


def kill(cluster: SlurmAllocationCluster, name: str, number: int = signal.SIGKILL) -> None:
    """Kill a worker's process, which is on this machine."""
    (address,) = [a for a, i in cluster.scheduler_info["workers"].items() if i["name"] == name]
    with Client(cluster, set_as_default=False) as client:
        (pid,) = client.run(os.getpid, workers=[address]).values()
    os.kill(pid, number)


def test_a_worker_that_dies_is_told_of_once_and_comes_back(job_id, told, caplog, wait_until):
    events = []
    with SlurmAllocationCluster(2, **told.options()) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers()
        client.subscribe_topic("ips-dask-cluster", events.append)
        name = f"{cluster.name}-1"
        begin = time.monotonic()
        kill(cluster, name)
        wait_until(lambda: told.losses, 10, "somebody is told")
        noticed = time.monotonic() - begin
        cluster.wait_for_workers()
        wait_until(lambda: events, 10, "clients are told")
        assert cluster.losses == tuple(told.losses)
        assert told.losses == [Loss("n2", name, -9, told.losses[0].reason, True)]
        message = f"worker {name} on node n2 was killed by signal 9"
        assert [m for m in caplog.messages if m.startswith(message)] == [str(told.losses[0])]
        assert str(told.losses[0]).endswith(" and is started again")
        ((_, event),) = events
        assert (event["event"], event["node"], event["exit_code"]) == ("loss", "n2", -9)
        assert cluster.failure is None
        assert told.failures == []
        assert noticed < 10, "no timeout of Dask's was waited for"
        assert "was killed by signal 9" in cluster.get_logs()["Cluster"]


def test_a_node_whose_worker_gives_up_is_left_out_from_then_on(
    job_id, told, shared_tmp_path, wait_until
):
    with SlurmAllocationCluster(3, restarts=1, **told.options()) as cluster:
        cluster.wait_for_workers()
        name = f"{cluster.name}-1"
        for count in (1, 2):
            kill(cluster, name)
            wait_until(lambda count=count: len(told.losses) >= count, 20, "somebody is told")
            if count == 1:
                cluster.wait_for_workers()
        wait_until(lambda: len(told.losses) == 3, 20, "the node is left out")
        assert [(loss.node, loss.worker, loss.restarted) for loss in told.losses] == [
            ("n2", name, True),
            ("n2", name, False),
            ("n2", "", False),
        ]
        assert str(told.losses[2]).startswith("node n2 is lost and left out from now on: ")
        wait_until(lambda: len(cluster.plan) == 2, 10, "two workers are planned")
        cluster.wait_for_workers()
        cluster.scale(3)
        cluster.wait_for_workers()
        with cluster.get_client() as client:
            nodes = client.run(os.getenv, "SLURMD_NODENAME").values()
        assert sorted(nodes) == ["n1", "n3", "n4"]
        with pytest.raises(
            NotEnoughNodesError, match=r"has 4, of which n2 was lost; ask for fewer"
        ):
            cluster.scale(4)
        assert cluster.failure is None
        assert told.failures == []
    assert list(shared_tmp_path.glob(".ips-dask-*/*-worker-n2.log")), "its log is kept"


def test_one_of_several_workers_of_a_node_that_gives_up_leaves_the_others(
    two_nodes, told, wait_until
):
    with SlurmAllocationCluster(processes=2, restarts=0, **told.options()) as cluster:
        cluster.wait_for_workers()
        kill(cluster, f"{cluster.name}-0-1")
        wait_until(lambda: told.losses, 20, "somebody is told")
        wait_until(lambda: len(cluster.plan) == 3, 10, "three workers are planned")
        cluster.wait_for_workers()
        assert [loss.worker for loss in told.losses] == [f"{cluster.name}-0-1"]
        assert cluster.failure is None


def test_a_node_that_never_starts_is_an_error_of_who_waits_for_all(two_nodes, told):
    bad = {"job_script_prologue": ["[ $SLURMD_NODENAME != n2 ] || exit 7"]}
    with SlurmAllocationCluster(**bad, **told.options()) as cluster:
        with pytest.raises(StepError, match="the worker step on n2 gave up"):
            cluster.wait_for_workers()
        cluster.wait_for_workers()  # of those that are left
        assert len(cluster.observed) == 1
        assert [(loss.node, loss.worker) for loss in told.losses] == [("n2", "")]
    assert told.failures == []


def test_the_end_of_a_whole_step_is_told_once(job_id, told, wait_until):
    bad = {"worker_extra_args": ["--nosuch"], "restarts": 0}
    with SlurmAllocationCluster(1, **bad, **told.options()) as cluster:
        with pytest.raises(StepError, match="the worker step on n1"):
            cluster.wait_for_workers()
        wait_until(lambda: cluster.steps.all[1].exit_code, 20, "the step ends")
        wait_until(lambda: not cluster.steps.placed, 20, "its node is released")
        assert [(loss.node, bool(loss.worker)) for loss in told.losses] == [
            ("n1", True),
            ("n1", False),
        ]


def test_who_waits_for_fewer_need_not_hear_of_a_bad_node(two_nodes, told):
    bad = {"job_script_prologue": ["[ $SLURMD_NODENAME != n2 ] || exit 7"]}
    with SlurmAllocationCluster(**bad, **told.options()) as cluster:
        cluster.wait_for_workers(1)
        assert len(cluster.observed) == 1


def test_the_last_node_that_is_lost_is_the_end(job_id, told, wait_until):
    with SlurmAllocationCluster(1, restarts=0, **told.options()) as cluster:
        cluster.wait_for_workers()
        kill(cluster, f"{cluster.name}-0")
        wait_until(lambda: told.failures, 20, "somebody is told")
        assert cluster.failure is told.failures[0]
        with pytest.raises(StepError):
            cluster.wait_for_workers(1)


def test_the_scheduler_that_dies_is_the_end_and_told_at_once(job_id, told, wait_until):
    with SlurmAllocationCluster(2, **told.options()) as cluster:
        cluster.wait_for_workers()
        # closed before: Dask's client may raise when it is closed while it connects again
        with cluster.get_client() as client:
            pid = client.run_on_scheduler(os.getpid)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: told.failures, 20, "somebody is told")
        assert "the scheduler step on n1 ended with exit code 137" in str(told.failures[0])
        with pytest.raises(StepError, match="the scheduler step on n1 ended"):
            cluster.scale(3)
        assert len(cluster.steps.all) == 2
    assert len(told.failures) == 1


def test_what_a_callback_raises_is_logged_and_healing_goes_on(job_id, caplog, wait_until):
    def on_loss(loss: Loss) -> None:
        raise ZeroDivisionError(loss.node)

    with SlurmAllocationCluster(1, on_loss=on_loss, scheduler_options=NO_DASHBOARD) as cluster:
        cluster.wait_for_workers()
        kill(cluster, f"{cluster.name}-0")
        wait_until(lambda: "on_loss raised" in caplog.text, 20, "it is logged")
        cluster.wait_for_workers(timeout="60 s")


@pytest.mark.versions
@pytest.mark.timeout(180)
def test_a_node_that_fails_is_left_out_where_the_job_survives_it(slurm, allocate, told, wait_until):
    """``salloc --no-kill``: else Slurm revokes the whole job when a node fails."""
    allocate(slurm, 3, "--exclusive", "--no-kill")
    with SlurmAllocationCluster(**told.options()) as cluster, cluster.get_client() as client:
        cluster.wait_for_workers()
        future = client.submit(lambda: 1, workers=[f"{cluster.name}-0"], pure=False)
        assert future.result() == 1
        slurm.stop_node("n3")
        try:
            wait_until(lambda: told.losses, 90, "somebody is told")
            assert [(loss.node, loss.worker) for loss in told.losses] == [("n3", "")]
            assert told.losses[0].reason.startswith("Slurm lost node n3; ")
            wait_until(lambda: len(cluster.plan) == 2, 10, "two workers are planned")
            cluster.wait_for_workers()
            assert client.gather(client.map(lambda x: x + 1, range(9))) == list(range(1, 10))
            assert cluster.failure is None
        finally:
            slurm.start_node("n3")
