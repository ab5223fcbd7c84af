"""What is read of a real job, whatever its user wrote into it or set in the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ips_dask_cluster import SlurmAllocationCluster
from ips_dask_cluster.slurm import lookup
from ips_dask_cluster.testing import LocalSlurm

READ = """
import json, os, sys
from ips_dask_cluster.slurm import lookup
found = lookup.read(job_id=sys.argv[1] if sys.argv[1:] else None)
steps = lookup.nodes_of_steps(found.job_id)
print(json.dumps({
    "job": found.job_id,
    "nodes": [[node.name, node.cpus, node.gpus] for node in found.nodes],
    "left": found.time_left(),
    "shared": found.shared,
    "steps": steps,
}))
"""
LINES = """x
   JobState=PENDING Reason=None
   StartTime=2001-01-01T00:00:00 EndTime=2001-01-02T00:00:00 Deadline=N/A
   NodeList=n9
     Nodes=n9 CPU_IDs=0-99 Mem=7 GRES=gpu:9
   OverSubscribe=NO Exclusive=NODE Contiguous=0

JobId=99 JobName=y"""
LATIN_1 = b"Gr\xfc\xdfe".decode(errors="surrogateescape")

Submit = Callable[..., str]


@pytest.fixture
def submit(slurm: LocalSlurm, shared_tmp_path: Path, wait_until) -> Iterator[Submit]:
    """``submit(*options, command="exec sleep 60")``: start a batch job; its id."""
    jobs = []

    def submit(*options: str, command: str = "exec sleep 60") -> str:
        argv = ["sbatch", "--parsable", f"--chdir={shared_tmp_path}", "--output=out", *options]
        job = slurm.run([*argv, f"--wrap={command}"]).stdout.strip()
        jobs.append(job)
        running = ["squeue", f"--jobs={job}", "--noheader", "--format=%T"]
        wait_until(lambda: "RUNNING" in slurm.run(running).stdout, 30, "the job runs")
        return job

    yield submit
    slurm.run(["scancel", *jobs])
    wait_until(lambda: not slurm.jobs(), 30, "the jobs are over")


def read(slurm: LocalSlurm, *job: str, **variables: str) -> dict[str, object]:
    """What a process of its own reads; in the C locale unless said otherwise."""
    environ = slurm.environ | {"LANG": "C", "LC_ALL": "C"} | variables
    argv = [sys.executable, "-c", READ, *job]
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def assert_is_plain(found: dict[str, object], job: str) -> None:
    """Assert what holds of any job here that takes one CPU of each of two nodes for ten minutes."""
    left = found["left"]
    assert isinstance(left, float)
    assert 500 < left <= 600
    assert (found["job"], found["shared"]) == (job, True)
    assert found["nodes"] == [["n1", 1, 0], ["n2", 1, 0]]


@pytest.mark.parametrize(
    "words",
    [
        "EndTime=2001-01-01T00:00:00 OverSubscribe=NO",
        "JobId=9 HetJobId=7 HetJobOffset=0 JobName=x",
        LINES,
        LATIN_1,
    ],
    ids=["fields", "heterogeneous", "lines", "latin-1"],
)
def test_what_users_write_into_a_job_does_not_steer_the_reader(
    slurm: LocalSlurm, submit: Submit, shared_tmp_path: Path, words: str
) -> None:
    folder = shared_tmp_path / f"with blanks {words.replace('/', '_')}"
    folder.mkdir()
    options = [f"--job-name={words}", f"--comment={words} HetJobId=7", f"--account={words}"]
    job = submit(*options, f"--chdir={folder}", "-N2", "--nodelist=n[1-2]", "--time=10")
    assert_is_plain(read(slurm, job), job)


def test_display_settings_do_not_change_what_is_read(slurm: LocalSlurm, submit: Submit) -> None:
    options = ["-N2", "--nodelist=n[1-2]", "--time=10"]
    job = submit(*options, command="exec srun --overlap --job-name=mine sleep 60")
    settings = {
        "SLURM_TIME_FORMAT": "relative",
        "SLURM_BITSTR_LEN": "1",
        "SLURM_CLUSTERS": "elsewhere",
        "SCONTROL_FUTURE": "1",
        "SQUEUE_USERS": "nobody",
        "SQUEUE_STATES": "PENDING",
        "SQUEUE_NAMES": "other",
        "SQUEUE_FORMAT": "%j",
        "SQUEUE_FORMAT2": "Name",
        "SQUEUE_PARTITION": "none",
        "TZ": "Pacific/Auckland",
    }
    found = read(slurm, SLURM_JOB_ID=job, **settings)
    assert_is_plain(found, job)
    assert found["steps"] == {"batch": ["n1"], "mine": ["n1", "n2"]}


def test_job_of_an_array_is_not_taken_for_its_neighbour(slurm: LocalSlurm, submit: Submit) -> None:
    first = submit("-N1", "--array=1-2", "--exclusive", "--time=10")
    listing = slurm.run(["squeue", f"--jobs={first}", "--noheader", "--format=%A %N"]).stdout
    nodes = dict(line.split() for line in listing.splitlines())
    assert len(nodes) == 2
    found = {job: read(slurm, SLURM_JOB_ID=job)["nodes"] for job in nodes}
    assert found == {job: [[node, 2, 0]] for job, node in nodes.items()}


@pytest.mark.parametrize("limit", ["10", "UNLIMITED"])
def test_end_is_known_in_a_batch_script_and_in_its_steps(
    slurm: LocalSlurm, submit: Submit, shared_tmp_path: Path, wait_until, limit: str
) -> None:
    script = shared_tmp_path / "read.py"
    script.write_text(READ)
    command = f"{sys.executable} {script} > batch; srun -n1 {sys.executable} {script} > step"
    job = submit("-N2", "--nodelist=n[1-2]", f"--time={limit}", command=f"{command}; sleep 60")
    step = shared_tmp_path / "step"
    wait_until(lambda: step.exists() and step.read_text(), 60, "both are read")
    for path in (shared_tmp_path / "batch", step):
        found = json.loads(path.read_text())
        if limit == "UNLIMITED":
            assert found["left"] is None
        else:
            assert_is_plain(found, job)


def test_cluster_in_a_terminal_that_knows_the_jobs_id_alone(
    slurm: LocalSlurm, allocate: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was opened by ssh or by an editor."""
    job = allocate(slurm, 2, "--exclusive", "--time=10")
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        if name not in ("SLURM_JOB_ID", "SLURM_CONF"):
            monkeypatch.delenv(name)
    with SlurmAllocationCluster(scheduler_options={"dashboard": False}) as cluster:
        cluster.wait_for_workers()
        assert cluster.allocation.job_id == job
        assert [node.cpus for node in cluster.allocation.nodes] == [2, 2]
        with cluster.get_client() as client:
            assert client.gather(client.map(abs, range(-3, 0))) == [3, 2, 1]
            seen = client.run(os.getenv, "SLURMD_NODENAME")
    assert sorted(seen.values()) == [node.name for node in cluster.allocation.nodes]


@pytest.mark.parametrize(
    ("options", "partial"),
    [((), True), (("--oversubscribe",), True), (("--exclusive",), False)],
    ids=["plain", "oversubscribe", "exclusive"],
)
def test_allocation_of_a_part_of_its_nodes_is_warned_about(
    slurm: LocalSlurm,
    allocate: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
    options: tuple[str, ...],
    partial: bool,
) -> None:
    job = allocate(slurm, 2, *options)
    found = lookup.find(None, None, None, None)
    assert found.shared == partial
    warning = (
        f"Slurm job {job} holds 2 of the 4 CPUs of its nodes, and only those are used; "
        "allocate with --exclusive to have whole nodes"
    )
    assert caplog.messages == ([warning] if partial else [])
