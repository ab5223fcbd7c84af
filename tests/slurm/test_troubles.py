"""What goes wrong on a real Slurm, provoked, and the one sentence that the user gets.

What this test bed cannot provoke (memory limits, accounts, Slingshot, other versions) is recorded
in ``tests/unit/recorded``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from distributed import Security

import ips_dask_cluster
from ips_dask_cluster import ClusterError, ClusterStartError, SlurmAllocationCluster, StepError
from ips_dask_cluster.slurm.diagnosis import holding_steps
from ips_dask_cluster.steps import step
from ips_dask_cluster.steps.launcher import Steps
from ips_dask_cluster.testing import LocalSlurm

NO_DASHBOARD = {"dashboard": False}
#: As by default; an error that comes much earlier came by itself.
START_TIMEOUT = 120


def first_line(error: BaseException) -> str:
    return str(error).splitlines()[0]


def steps_of_clusters(slurm: LocalSlurm) -> list[str]:
    names = slurm.run(["squeue", "--steps", "-h", "-o", "%j"]).stdout.split()
    return [name for name in names if name.startswith("ips-dask")]


@pytest.fixture
def failed_start(slurm: LocalSlurm, wait_until) -> Callable[..., str]:
    """``failed_start(seconds, **options)``: the sentence of a start that fails in time."""

    def fail(seconds: float, **options) -> str:
        options = {"scheduler_options": NO_DASHBOARD, "start_timeout": START_TIMEOUT, **options}
        begin = time.monotonic()
        with (
            pytest.raises(StepError) as caught,
            SlurmAllocationCluster(2, **options) as cluster,
        ):
            cluster.wait_for_workers()
        assert time.monotonic() - begin < seconds, "it came by a time-out"
        wait_until(lambda: not steps_of_clusters(slurm), 15, "no step is left")
        return first_line(caught.value)

    return fail


# A step cannot start


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[str]]]:
    """The sruns of other steps."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture
def other_step(slurm: LocalSlurm, job_id: str, running) -> Callable[..., str]:
    """``other_step(*options)``: run one on all nodes of the allocation; its id."""

    def start(*options: str) -> str:
        environ = {k: v for k, v in os.environ.items() if k.startswith("SLURM_")}
        argv = ["srun", "-N4", "--ntasks-per-node=1", "--job-name=other", *options]
        process = subprocess.Popen(
            [*argv, "sh", "-c", "echo up; exec sleep 100"],
            env=slurm.environ | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        running.append(process)
        for _ in range(4):
            assert process.stdout.readline() == "up\n"
        (step_id,) = slurm.steps()
        return step_id

    return start


@pytest.mark.versions
@pytest.mark.parametrize(
    ("options", "role"), [(["--exact"], "worker"), (["--exact", "-c2"], "scheduler")]
)
def test_step_that_holds_the_nodes_is_named_within_seconds(other_step, failed_start, options, role):
    step_id = other_step(*options)
    sentence = failed_start(40, srun_args_skip=["--overlap"])
    assert f"the {role} step on n1" in sentence
    assert f"Slurm does not start this step while step {step_id} (other)" in sentence
    assert "start it with --overlap" in sentence


def test_step_that_holds_the_nodes_does_no_harm_to_ours(other_step):
    other_step("--exclusive", "-c2")
    with SlurmAllocationCluster(2, scheduler_options=NO_DASHBOARD) as cluster:
        cluster.wait_for_workers()
        assert cluster.failure is None


def test_step_that_waits_a_moment_is_not_ended(other_step, running, monkeypatch):
    """The other step ends when Slurm has been asked the first time."""

    def look(listing: str, srun_pid: int) -> list[str]:
        held = holding_steps(listing, srun_pid)
        looks.append(held)
        if held:
            running[0].terminate()
            running[0].wait(30)
        return held

    looks = []
    monkeypatch.setattr(step, "holding_steps", look)
    other_step("--exact", "-c1")
    # one CPU a node for the other step, and two of two for the scheduler and the worker
    options = {"srun_extra_args": ["--cpus-per-task=1"], "srun_args_skip": ["--overlap"]}
    with SlurmAllocationCluster(2, scheduler_options=NO_DASHBOARD, **options) as cluster:
        cluster.wait_for_workers()
        assert cluster.failure is None
    assert [bool(held) for held in looks].count(True) == 1


@pytest.mark.versions
def test_processors(job_id, failed_start, larger_than_held):
    sentence = failed_start(30, allocation=larger_than_held())
    assert "More processors requested than permitted" in sentence
    assert "pass a smaller cores=" in sentence


@pytest.mark.versions
def test_option_that_srun_does_not_know(job_id, failed_start):
    sentence = failed_start(30, srun_extra_args=["--no-such-option=1"])
    assert 'srun_args_skip=["--no-such-option"]' in sentence


@pytest.mark.versions
def test_gpus_that_are_not_there(job_id, failed_start):
    assert "GPUs (gres)" in failed_start(30, srun_extra_args=["--gres=gpu:2"])


def test_start_that_fails_tells_its_reason_once(job_id, shared_tmp_path, caplog):
    """Also if the workers' step is the first to end, while the scheduler is still to come."""
    templates = shared_tmp_path / "templates"
    shutil.copytree(Path(ips_dask_cluster.__file__).parent / "templates", templates)
    srun = templates / "srun"
    srun.write_text('#!/bin/sh\ncase "$*" in *-scheduler-*) sleep 3 ;; esac\nexec srun "$@"\n')
    srun.chmod(0o755)
    text = (templates / "srun.txt").read_text()
    (templates / "srun.txt").write_text(text.replace("\nsrun\n", f"\n{srun}\n"))
    losses = []
    with pytest.raises(StepError, match=r"the scheduler step on n1.*GPUs"):
        SlurmAllocationCluster(
            2,
            scheduler_options=NO_DASHBOARD,
            template_directory=templates,
            srun_extra_args=["--gres=gpu:2"],
            on_loss=losses.append,
        )
    said = [record for record in caplog.records if record.name == "ips_dask_cluster"]
    assert (losses, said) == ([], [])


def test_node_that_is_not_held(slurm, allocate, failed_start):
    allocate(slurm, 2, "--exclusive", "--nodelist=n1,n2")
    sentence = failed_start(30, srun_extra_args=["--nodelist=n3"])
    assert "nodes that are not held" in sentence


def test_more_nodes_than_the_allocation_holds(two_nodes, failed_start):
    sentence = failed_start(30, srun_extra_args=["--nodes=4"])
    assert "the step asks for 4 nodes, but the allocation holds 2; look at --nodes" in sentence


def test_constraint_that_no_node_meets(slurm, allocate, wait_until):
    """Slurm 22.05 lets an srun without --nodelist wait in silence; 24.11 and 26.05 refuse it."""
    allocate(slurm, 1, "--exclusive")
    version = slurm.run(["srun", "--version"]).stdout.split()[1]
    begin = time.monotonic()
    with pytest.raises((StepError, ClusterStartError)) as caught:
        SlurmAllocationCluster(
            srun_extra_args=["--constraint=nosuch"],
            srun_args_skip=["--nodelist"],
            start_timeout=15,
            scheduler_options=NO_DASHBOARD,
        )
    assert time.monotonic() - begin < 40
    sentence = first_line(caught.value)
    if version.startswith("22.05"):
        assert "Slurm has not created the step on n1, though no other step holds" in sentence
        assert sentence.endswith(", such as --mem, --mem-per-cpu and --constraint")
    else:
        assert "no node has the feature that --constraint asks for; look at" in sentence
    wait_until(lambda: not steps_of_clusters(slurm), 15, "no step is left")


def test_mpi_plugin_that_is_not_there(job_id, failed_start):
    assert 'srun_args_skip=["--mpi"]' in failed_start(30, srun_extra_args=["--mpi=nosuch"])


def test_python_that_is_missing(job_id, failed_start):
    assert "the nodes have no program /nowhere/python" in failed_start(30, python="/nowhere/python")


# The network


@pytest.mark.parametrize("security", [True, False])
def test_interface_that_is_unknown_lists_those_that_are_there(job_id, failed_start, security):
    sentence = failed_start(30, interface="nosuch0", security=security)
    assert "no network interface nosuch0, but 'lo'" in sentence
    assert "interface=" in sentence


def test_interface_with_tls(job_id):
    with SlurmAllocationCluster(1, scheduler_options=NO_DASHBOARD, interface="lo") as cluster:
        cluster.wait_for_workers()
        assert cluster.scheduler_address.startswith("tls://127.0.0.1:")


def test_host_that_is_not_the_node_s(job_id, failed_start):
    options = {**NO_DASHBOARD, "host": "203.0.113.1"}
    assert "look at host= in scheduler_options" in failed_start(30, scheduler_options=options)


def test_scheduler_that_the_nodes_cannot_reach(job_id, failed_start, monkeypatch):
    """They see what nodes see of a scheduler that listens on the loopback of its own node."""
    announce = Steps.announce
    monkeypatch.setattr(Steps, "announce", lambda self, _: announce(self, "tls://127.0.0.1:1"))
    sentence = failed_start(60)
    assert "cannot reach the scheduler at tls://127.0.0.1:1 (Connection refused)" in sentence
    assert "its own addresses are ['lo 127.0.0.1'" in sentence


def test_worker_that_reached_its_scheduler_does_not_look_again(job_id, wait_until):
    """It would take a cluster that closes for one that cannot be reached."""

    def looks() -> bool:
        return any("reach" in thread.name for thread in threading.enumerate())

    with SlurmAllocationCluster(2, scheduler_options=NO_DASHBOARD) as cluster:
        cluster.wait_for_workers()
        with cluster.get_client() as client:
            arrived = time.monotonic()
            wait_until(lambda: not any(client.run(looks).values()), 8, "nobody looks any more")
            assert time.monotonic() - arrived < 8


def test_worker_with_another_cluster_s_certificates(job_id, shared_tmp_path):
    """Only the scheduler's log tells, so it is read when the time is up."""
    authority = shared_tmp_path / "ca.pem"
    authority.write_text(Security.temporary().tls_ca_file)
    options = {"worker_extra_args": ["--tls-ca-file", str(authority)], "start_timeout": 10}
    with (
        pytest.raises(ClusterStartError) as caught,
        SlurmAllocationCluster(1, scheduler_options=NO_DASHBOARD, **options) as cluster,
    ):
        cluster.wait_for_workers()
    sentence = first_line(caught.value)
    assert sentence.startswith("0 of 1 workers arrived within 10 s; none yet from n1: a TLS conn")
    assert "pass the same security=" in sentence


# The allocation ends, or a node


def start_and_fail(slurm, wait_until, seconds: float, fail: Callable[[], object]) -> str:
    """Start a cluster, let it fail, and return the sentence that ``on_failure`` gets."""
    told = []
    with SlurmAllocationCluster(
        2, scheduler_options=NO_DASHBOARD, on_failure=told.append
    ) as cluster:
        cluster.wait_for_workers()
        fail()
        wait_until(lambda: told, seconds, "on_failure is called")
        assert len(told) == 1
        assert cluster.failure is told[0]
    return first_line(told[0])


@pytest.mark.versions
def test_allocation_that_is_cancelled(slurm, job_id, wait_until):
    sentence = start_and_fail(slurm, wait_until, 20, lambda: slurm.run(["scancel", job_id]))
    assert "the allocation was given back, revoked or cancelled (scancel)" in sentence


@pytest.mark.parametrize("role", ["scheduler", "worker"])
def test_step_that_is_cancelled(slurm, job_id, wait_until, role):
    def cancel() -> None:
        steps = slurm.run(["squeue", "--steps", "-h", "-o", "%i %j"]).stdout.splitlines()
        (cancelled,) = (line.split()[0] for line in steps if f"-{role}-" in line)
        slurm.run(["scancel", cancelled])

    sentence = start_and_fail(slurm, wait_until, 20, cancel)
    assert sentence.startswith(f"the {role} step on n")
    assert "was cancelled (scancel); start the cluster again" in sentence


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT"])
def test_worker_that_crashes_in_compiled_code(pair_of_workers, wait_until, name):
    cluster = pair_of_workers
    with cluster.get_client() as client:
        os.kill(next(iter(client.run(os.getpid).values())), signal.Signals[name])
        (loss,) = wait_until(lambda: cluster.losses, 30, "the loss is reported")
    assert loss.exit_code == -signal.Signals[name]
    assert loss.reason.startswith(f"it crashed ({name}) in compiled code; a compiled library of ")
    assert f" crashed ({name}) in compiled code (a compiled library of " in str(loss)


def test_allocation_that_was_cancelled_before(slurm, job_id, failed_start, wait_until):
    slurm.run(["scancel", job_id])
    wait_until(lambda: not slurm.jobs(), 20, "the job is gone")
    with pytest.raises(ClusterError) as caught:
        SlurmAllocationCluster(2, scheduler_options=NO_DASHBOARD)
    assert "the allocation is gone" in first_line(caught.value)


@pytest.mark.versions
def test_time_limit(slurm, job_id, wait_until):
    """Slurm looks every half minute."""
    end = ["scontrol", "update", f"JobId={job_id}", "EndTime=now"]
    sentence = start_and_fail(slurm, wait_until, 80, lambda: slurm.run(end))
    assert "the allocation reached its time limit; allocate for longer" in sentence


@pytest.fixture
def failing_slurm(shared_tmp_path, monkeypatch) -> Iterator[LocalSlurm]:
    """Two nodes of its own, since one of them is killed; it leaves its temporary files."""
    monkeypatch.setenv("TMPDIR", str(shared_tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("IPS_TEST_MARK")  # its daemons outlive the test
        slurm = LocalSlurm(nodes=2, cpus=2).start()
    with contextlib.closing(slurm):
        yield slurm


@pytest.mark.parametrize(("options", "node"), [([], "n2"), (["--no-kill"], "n1")])
def test_node_that_fails(failing_slurm, allocate, wait_until, options, node):
    """With --no-kill, only the node of the scheduler ends the cluster.

    An operator tells Slurm, which else looks itself, as in test_healing.py, after some 30 s.
    """

    def fail() -> None:
        failing_slurm.stop_node(node)
        failing_slurm.run(
            ["scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=no-power"]
        )

    allocate(failing_slurm, 2, "--exclusive", *options)
    sentence = start_and_fail(failing_slurm, wait_until, 80, fail)
    assert "Slurm lost" in sentence
    assert "salloc --no-kill" in sentence


def test_node_that_does_not_start_its_part(failing_slurm, allocate):
    allocate(failing_slurm, 2, "--exclusive")
    failing_slurm.stop_node("n2")
    with (
        pytest.raises(StepError) as caught,
        SlurmAllocationCluster(2, scheduler_options=NO_DASHBOARD) as cluster,
    ):
        cluster.wait_for_workers()
    assert "node n2 did not start its part of the step" in first_line(caught.value)
    assert "salloc --exclude=n2" in first_line(caught.value)
