"""SlurmAllocationCluster on the real Slurm: four nodes, two CPUs each, a private /tmp each."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from distributed import Client

from ips_dask_cluster import (
    ClusterError,
    ClusterStartError,
    NotEnoughNodesError,
    Shifter,
    SlurmAllocationCluster,
    SlurmCommandError,
    StepError,
)
from ips_dask_cluster.testing import LocalSlurm

NO_DASHBOARD = {"dashboard": False}


def nodes_of_workers(client: Client) -> list[str]:
    return sorted(client.run(os.getenv, "SLURMD_NODENAME").values())


def live_steps(slurm: LocalSlurm) -> list[str]:
    """Names of the steps that run, without the allocation's own."""
    return slurm.run(["squeue", "--steps", "-h", "-o", "%j"]).stdout.split()


@pytest.mark.versions
class TestAllOfTheAllocation:
    """What a cluster of four nodes is; one is looked at by all."""

    @pytest.fixture
    def cluster(self, standing_cluster):
        return standing_cluster

    @pytest.fixture
    def job_id(self, cluster):
        return cluster.allocation.job_id

    def test_no_argument_takes_the_whole_allocation(self, slurm, cluster, job_id):
        with cluster.get_client() as client:
            nodes = nodes_of_workers(client)
            threads = {info["nthreads"] for info in cluster.scheduler_info["workers"].values()}
        assert nodes == ["n1", "n2", "n3", "n4"]
        assert threads == {2}
        assert cluster.plan == cluster.observed == {f"{cluster.name}-{i}" for i in range(4)}
        assert sorted(live_steps(slurm)) == [
            f"{cluster.name}-scheduler-0",
            f"{cluster.name}-worker-1",
        ]
        assert job_id in cluster.name

    def test_tls_is_on_and_a_plain_client_is_refused(self, cluster):
        assert cluster.scheduler_address.startswith("tls://")
        keys = list(cluster.run_directory.glob("*-key.pem"))
        assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
        assert cluster.run_directory.stat().st_mode & 0o777 == 0o700
        with pytest.raises(OSError, match=r"^in <TCP|Timed out"):
            Client(cluster.scheduler_address.replace("tls:", "tcp:"), timeout=2)

    def test_more_nodes_than_there_are_is_one_sentence(self, cluster, job_id):
        with pytest.raises(NotEnoughNodesError, match=f"^5 node.* but Slurm job {job_id} has 4;"):
            cluster.scale(5)
        with pytest.raises(NotEnoughNodesError, match=r"^9 node\(s\) asked for"):
            SlurmAllocationCluster(9)
        assert list(cluster.run_directory.parent.iterdir()) == [cluster.run_directory]

    def test_job_script_is_what_runs(self, cluster):
        script = cluster.job_script()
        assert subprocess.run(["bash", "-n"], input=script, text=True, timeout=10).returncode == 0
        for step in cluster.steps.all:
            text = next(word for word in step.argv if "\n" in word)
            assert text in script
        assert "--ntasks-per-node=1" in script
        assert "n4=" in script

    def test_logs_of_scheduler_workers_and_steps(self, cluster):
        logs = cluster.get_logs()
        assert len(logs) == 1 + 1 + 4
        assert "Register worker" in logs["Scheduler"]
        assert set(logs) >= {"Cluster", "Scheduler"}

    def test_numbers_that_make_no_sense_are_refused(self, cluster):
        for number in (-1, 2.5, "2"):
            with pytest.raises(ValueError, match=r"^scale: a whole number of 0 or more"):
                cluster.scale(number)
        assert len(cluster.plan) == 4


@pytest.mark.versions
def test_close_leaves_nothing_and_is_idempotent(
    slurm, two_nodes, shared_tmp_path, capfd, wait_until
):
    cluster = SlurmAllocationCluster(scheduler_options=NO_DASHBOARD)
    cluster.wait_for_workers()
    cluster.close()
    cluster.close()
    with pytest.raises(ClusterError, match="when it was closed; pass log_directory= to keep them"):
        cluster.get_logs()
    wait_until(lambda: not live_steps(slurm), 5, "no step is left")
    assert list(shared_tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_closing_does_not_wait_for_workers_that_are_still_to_come(slurm, two_nodes, wait_until):
    cluster = SlurmAllocationCluster(close_timeout=60, scheduler_options=NO_DASHBOARD)
    cluster.wait_for_workers()
    cluster.scale(1)
    wait_until(lambda: len(cluster.steps.placed) == 1, 20, "a node is given back")
    cluster.scale(2)
    wait_until(lambda: len(cluster.steps.all) == 3, 20, "it is taken again")
    begin = time.monotonic()
    cluster.close()
    assert time.monotonic() - begin < 30  # close_timeout / 2, after which their input is closed
    wait_until(lambda: not live_steps(slurm), 10, "no step is left")


def test_closing_while_it_waits_for_nodes_that_drain_is_no_error(
    pair_of_workers, wait_until, caplog
):
    cluster = pair_of_workers
    with cluster.get_client() as client:
        tasks = client.map(time.sleep, [60] * 4, pure=False)
        wait_until(lambda: sum(map(len, client.processing().values())) == 4, 20, "all run")
        cluster.scale(1)
        wait_until(lambda: len(cluster.workers) == 1, 20, "a node drains")
        cluster.scale(2)
        wait_until(lambda: cluster.steps._round or cluster._lock.locked(), 20, "it waits for them")
        cluster.close()
        del tasks
    assert "could not grow" not in caplog.text


def test_scaling_down_leaves_the_siblings_and_waits_for_running_tasks(
    cluster, shared_tmp_path, wait_until
):
    def slow(number: int, folder: str) -> int:
        import time
        import uuid
        from pathlib import Path

        Path(folder, f"start-{number}-{uuid.uuid4().hex}").touch()
        time.sleep(1.5)
        return number

    before = {info["name"]: a for a, info in cluster.scheduler_info["workers"].items()}
    cluster.scale(3)
    wait_until(lambda: cluster.observed == cluster.plan and len(cluster.plan) == 3, 20, "3 workers")
    remaining = {info["name"]: a for a, info in cluster.scheduler_info["workers"].items()}
    assert remaining.items() <= before.items(), "a sibling was restarted"
    cluster.scale(4)
    cluster.wait_for_workers()
    with cluster.get_client() as client:
        assert nodes_of_workers(client) == ["n1", "n2", "n3", "n4"]
    assert [step.nodes for step in cluster.steps.all[1:]] == [("n1", "n2", "n3", "n4"), ("n4",)]

    folder = shared_tmp_path / "starts"
    folder.mkdir()
    with cluster.get_client() as client:
        futures = client.map(slow, range(8), folder=str(folder), pure=False)
        while len(list(folder.iterdir())) < 8:
            time.sleep(0.01)
        cluster.scale(1)
        assert client.gather(futures) == list(range(8))
    assert len(list(folder.iterdir())) == 8


@pytest.mark.versions
def test_a_killed_worker_comes_back_under_its_name_and_its_binary_is_gone(
    pair_of_workers, wait_until
):
    cluster = pair_of_workers

    def start_binary() -> tuple[int, int]:
        import os
        import subprocess

        binary = subprocess.Popen(["sleep", "322"], start_new_session=True)
        return os.getpid(), binary.pid

    with cluster.get_client() as client:
        address, (worker, binary) = next(iter(client.run(start_binary).items()))
        name = cluster.scheduler_info["workers"][address]["name"]
        os.kill(worker, signal.SIGKILL)
        # within 1 s, to which a busy machine adds
        wait_until(lambda: not Path(f"/proc/{binary}").exists(), 15, "the worker's binary is gone")
        wait_until(
            lambda: any(
                info["name"] == name and new != address
                for new, info in cluster.scheduler_info["workers"].items()
            ),
            30,
            "a worker of the same name is back",
        )
    assert cluster.failure is None


def test_a_prologue_may_be_strict(job_id, wait_until):
    with SlurmAllocationCluster(
        1, job_script_prologue="set -euo pipefail", scheduler_options=NO_DASHBOARD
    ) as cluster:
        cluster.wait_for_workers()
        with cluster.get_client() as client:
            ((address, pid),) = client.run(os.getpid).items()
        os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: {*cluster.scheduler_info["workers"]} - {address}, 30, "the worker is back"
        )


@pytest.mark.versions
def test_what_srun_reads_from_the_environment_of_the_driver_is_no_matter(job_id, monkeypatch):
    """Left by ``sbatch --export=NONE``, ``--gpus=8`` and by users' own profiles."""
    monkeypatch.setenv("SLURM_EXPORT_ENV", "NONE")
    monkeypatch.setenv("SLURM_GPUS", "8")
    monkeypatch.setenv("SLURM_CPUS_PER_GPU", "1")
    monkeypatch.setenv("SLURM_CONSTRAINT", "nosuch")
    monkeypatch.setenv("SLURM_EXCLUSIVE", "1")
    monkeypatch.setenv("SLURM_LABELIO", "1")
    for stream in ("STDIN", "STDOUT", "STDERR"):
        monkeypatch.setenv(f"SLURM_{stream}MODE", "none")
    options = {"scheduler_options": NO_DASHBOARD, "start_timeout": 20}
    with SlurmAllocationCluster(1, **options) as cluster:
        cluster.wait_for_workers()


def test_a_run_directory_with_blanks_and_quotes(job_id, shared_tmp_path):
    folder = shared_tmp_path / """a b'c"d"""
    folder.mkdir()
    with SlurmAllocationCluster(
        1, shared_temp_directory=folder, scheduler_options=NO_DASHBOARD
    ) as cluster:
        cluster.wait_for_workers()
        assert cluster.run_directory.parent == folder


def test_works_outside_of_the_main_thread(job_id):
    seen = []

    def use() -> None:
        with SlurmAllocationCluster(1, scheduler_options=NO_DASHBOARD) as cluster:
            cluster.wait_for_workers()
            seen.append(len(cluster.observed))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(60)
    assert seen == [1]


def test_containers_wrap_scheduler_and_workers_only(job_id, shared_tmp_path, monkeypatch):
    """A recording shifter: it notes its arguments and runs what follows its options."""
    (shared_tmp_path / "bin").mkdir()
    record = shared_tmp_path / "calls"
    shifter = shared_tmp_path / "bin" / "shifter"
    shifter.write_text(
        "#!/usr/bin/env bash\n"
        f"printf '%s\\n' \"$SLURMD_NODENAME $1 $2 $4 $5\" >> {record}\n"
        'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n'
    )
    shifter.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shifter.parent}:{os.environ['PATH']}")
    container = Shifter("docker:me/code:1", ("/data:/in'out",), ("--module=gpu",))
    with SlurmAllocationCluster(
        2, container=container, python=sys.executable, scheduler_options=NO_DASHBOARD
    ) as cluster:
        cluster.wait_for_workers()
    words = f"--image=docker:me/code:1 --volume=/data:/in'out --module=gpu {sys.executable}"
    assert sorted(record.read_text().splitlines()) == [f"n{n} {words}" for n in (1, 1, 2)]


def test_workers_that_do_not_come_are_counted_and_their_nodes_named(job_id):
    late = {"job_script_prologue": ["[ $SLURMD_NODENAME = n1 ] || sleep 5"]}
    with SlurmAllocationCluster(2, scheduler_options=NO_DASHBOARD, **late) as cluster:
        with pytest.raises(ClusterStartError, match=r"^1 of 2 workers .* 2 s; none yet from n2"):
            cluster.wait_for_workers(2, timeout="2 s")
        cluster.wait_for_workers(2)


# What goes wrong, and what is said then


@contextlib.contextmanager
def failing_start(seconds: float, **options):
    """Expect the start to fail in time and to leave the reason, but no keys, on disk."""
    begin = time.monotonic()
    with (
        pytest.raises(StepError) as caught,
        SlurmAllocationCluster(scheduler_options=NO_DASHBOARD, **options) as cluster,
    ):
        cluster.wait_for_workers()
    assert time.monotonic() - begin < seconds
    yield str(caught.value)


@pytest.mark.versions
def test_too_many_cpus_quotes_srun_at_once(
    slurm, job_id, larger_than_held, shared_tmp_path, wait_until
):
    with failing_start(30, allocation=larger_than_held()) as message:
        assert "the worker step on n1,n2,n3,n4 ended with exit code 1" in message
        assert "srun: error: Unable to create step" in message
        assert "allocate with --exclusive, or pass a smaller cores=" in message
    wait_until(lambda: not live_steps(slurm), 5, "no step is left")
    (run_directory,) = shared_tmp_path.iterdir()
    assert not list(run_directory.glob("*.pem"))
    assert list(run_directory.glob("*worker*.log"))


def test_a_run_directory_that_nodes_cannot_see_is_named(job_id, tmp_path):
    with failing_start(30, shared_temp_directory=tmp_path) as message:
        assert f"node n1 cannot see the directory {tmp_path}/" in message
        assert "every node mounts" in message


def test_a_python_that_is_missing_on_the_nodes_is_named(job_id):
    with failing_start(30, python="/nowhere/python") as message:
        assert "the nodes have no program /nowhere/python" in message


def test_a_python_without_distributed_is_told(job_id):
    with failing_start(60, python="/usr/bin/python3") as message:
        assert "no module 'distributed'" in message


def test_srun_missing_inside_an_allocation_is_told(job_id, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        with pytest.raises(SlurmCommandError, match="scontrol is not on PATH although"):
            SlurmAllocationCluster()


def test_srun_alone_missing_is_told(job_id, monkeypatch, shared_tmp_path):
    (shared_tmp_path / "bin").mkdir()
    (shared_tmp_path / "bin" / "scontrol").symlink_to(shutil.which("scontrol"))
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(shared_tmp_path / "bin"))
        with pytest.raises(
            ClusterError, match=r"^srun is not on PATH: load the site's slurm module"
        ):
            SlurmAllocationCluster()
    assert os.listdir() == ["bin"]


def test_ctrl_c_during_the_start_leaves_nothing(slurm, job_id, wait_until):
    def interrupt() -> None:
        wait_until(lambda: len(live_steps(slurm)) == 2, 20, "both steps are there")
        os.kill(os.getpid(), signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        interrupted = pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            SlurmAllocationCluster(scheduler_options=NO_DASHBOARD)
        interrupted.result()
    wait_until(lambda: not live_steps(slurm), 10, "no step is left")
    assert os.listdir() == []


# Other allocations


@pytest.mark.versions
def test_a_part_of_the_nodes_is_used_and_exclusive_named(slurm, allocate, caplog):
    job_id = allocate(slurm, 2, "--ntasks-per-node=1")
    with SlurmAllocationCluster(scheduler_options=NO_DASHBOARD) as cluster:
        cluster.wait_for_workers()
        assert [info["nthreads"] for info in cluster.scheduler_info["workers"].values()] == [1, 1]
    assert f"Slurm job {job_id} holds 2 of the 4 CPUs of its nodes" in caplog.text
    assert "--exclusive" in caplog.text


@pytest.fixture
def unequal_slurm(monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("IPS_TEST_MARK")  # its daemons outlive the test
        slurm = LocalSlurm(nodes=3, cpus=[1, 1, 2]).start()
    with contextlib.closing(slurm):
        yield slurm


def test_unequal_nodes_each_use_what_they_have(unequal_slurm, allocate):
    allocate(unequal_slurm, 3, "--exclusive")
    assert os.environ["SLURM_JOB_CPUS_PER_NODE"] == "1(x2),2"
    with SlurmAllocationCluster(scheduler_options=NO_DASHBOARD) as cluster:
        cluster.wait_for_workers()
        threads = [info["nthreads"] for info in cluster.scheduler_info["workers"].values()]
        assert sorted(threads) == [1, 1, 2]
        assert sorted(step.nodes for step in cluster.steps.all[1:]) == [("n1", "n2"), ("n3",)]


# Several workers on a node


@pytest.mark.versions
def test_two_workers_on_each_node(slurm, allocate, wait_until):
    allocate(slurm, 2, "--exclusive")
    with SlurmAllocationCluster(processes=2, scheduler_options=NO_DASHBOARD) as cluster:
        cluster.wait_for_workers()
        first, second = f"{cluster.name}-0", f"{cluster.name}-1"
        names = {f"{first}-0", f"{first}-1", f"{second}-0", f"{second}-1"}
        assert cluster.observed == cluster.plan == names
        assert {info["nthreads"] for info in cluster.scheduler_info["workers"].values()} == {1}
        with cluster.get_client() as client:
            assert nodes_of_workers(client) == ["n1", "n1", "n2", "n2"]
            pids = {info["name"]: a for a, info in cluster.scheduler_info["workers"].items()}
            (victim,) = client.run(os.getpid, workers=[pids[f"{first}-0"]]).values()
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(cluster.observed) == 3, 20, "the killed worker is missed")
        wait_until(lambda: cluster.observed == names, 30, "it is back, beside its sibling")
        again = {info["name"]: a for a, info in cluster.scheduler_info["workers"].items()}
        assert again[f"{first}-1"] == pids[f"{first}-1"]
        cluster.scale(2)
        wait_until(lambda: len(cluster.observed) == 2, 20, "one node is left")
        assert cluster.failure is None


@pytest.mark.versions
def test_one_worker_for_each_gpu_sees_only_that_one(gpu_slurm, allocate):
    allocate(gpu_slurm, 2, "--exclusive", "--gpus-per-node=2")
    with SlurmAllocationCluster(worker_per_gpu=True, scheduler_options=NO_DASHBOARD) as cluster:
        cluster.wait_for_workers()
        with cluster.get_client() as client:
            devices = client.run(os.getenv, "CUDA_VISIBLE_DEVICES").values()
    assert sorted(devices) == ["0", "0", "1", "1"]


def test_one_worker_for_each_gpu_without_gpus_is_one_sentence(job_id):
    with pytest.raises(ClusterError, match=rf"Slurm job {job_id} must hold .* n1: 0, n2: 0"):
        SlurmAllocationCluster(worker_per_gpu=True)
    assert os.listdir() == []


@pytest.mark.versions
def test_workers_with_several_gpus_share_none(gpu_slurm, allocate):
    allocate(gpu_slurm, 2, "--exclusive", "--gpus-per-node=2")
    with SlurmAllocationCluster(gpus_per_worker=2, scheduler_options=NO_DASHBOARD) as cluster:
        cluster.wait_for_workers()
        with cluster.get_client() as client:
            devices = client.run(os.getenv, "CUDA_VISIBLE_DEVICES").values()
    assert list(devices) == ["0,1", "0,1"]
    with pytest.raises(ClusterError, match=r"^gpus_per_worker=3: the 2 GPUs of a node of"):
        SlurmAllocationCluster(gpus_per_worker=3)


# Logs


def test_one_log_a_node_and_role_which_stay_where_the_user_wants_them(job_id, shared_tmp_path):
    def complain() -> None:
        import sys

        print("a word on standard error", file=sys.stderr)

    logs = shared_tmp_path / "my logs"
    with SlurmAllocationCluster(
        2, name="mine", log_directory=logs, scheduler_options=NO_DASHBOARD
    ) as cluster:
        cluster.wait_for_workers()
        with cluster.get_client() as client:
            client.run(complain)
    assert {path.name for path in logs.iterdir()} == {
        *("mine-scheduler-n1.log", "mine-scheduler-0.step.log"),
        *("mine-worker-n1.log", "mine-worker-n2.log", "mine-worker-1.step.log"),
    }
    for node in ("n1", "n2"):
        assert "a word on standard error" in (logs / f"mine-worker-{node}.log").read_text()
    kept = cluster.get_logs()
    assert list(kept) == ["scheduler-n1", "worker-n1", "worker-n2", "Cluster"]
    assert "a word on standard error" in kept["worker-n2"]
    assert list(cluster.get_logs(cluster=False, scheduler=False)) == ["worker-n1", "worker-n2"]


# Interfaces


def test_an_interface_for_both_and_one_for_workers(job_id):
    with SlurmAllocationCluster(
        1, interface="lo", protocol="tcp", security=False, scheduler_options=NO_DASHBOARD
    ) as cluster:
        cluster.wait_for_workers()
        assert cluster.scheduler_address.startswith("tcp://127.0.0.1:")
        assert next(iter(cluster.scheduler_info["workers"])).startswith("tcp://127.0.0.1:")
    with SlurmAllocationCluster(
        1, worker_interface="lo", protocol="tcp", security=False, scheduler_options=NO_DASHBOARD
    ) as cluster:
        cluster.wait_for_workers()
        assert not cluster.scheduler_address.startswith("tcp://127.")
        assert next(iter(cluster.scheduler_info["workers"])).startswith("tcp://127.0.0.1:")


def test_no_scheduler_on_the_loopback_of_several_hosts(slurm, job_id, monkeypatch, wait_until):
    monkeypatch.setattr("ips_dask_cluster.slurm.lookup.on_one_host", lambda allocation: False)
    options = {"protocol": "tcp", "security": False, "scheduler_options": NO_DASHBOARD}
    with pytest.raises(ClusterError, match=r"^the scheduler on node n1 listens on 127"):
        SlurmAllocationCluster(interface="lo", **options)
    wait_until(lambda: not live_steps(slurm), 10, "no step is left")
