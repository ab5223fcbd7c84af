"""Allocations of every shape: a cluster starts in each, and has what the job holds."""

from __future__ import annotations

import contextlib
import datetime
import os
import pty
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from ips_core.tasks.launch import (
    TaskShape,
    misleading_variables,
    srun_command,
    without_variables,
)
from ips_dask_cluster import SlurmAllocationCluster
from ips_dask_cluster.testing import LocalSlurm

_SECONDS = 30
# A driver's environment goes to a file, which appears when it is complete.
_HOLD = """
[ "${SLURM_PROCID-0}" = 0 ] || exec sleep 300
to=$0${SLURM_ARRAY_TASK_ID-}
env -0 >"$to.part" && mv "$to.part" "$to" && exec sleep 300
"""
_PREFIXES = ("SLURM", "SRUN_", "PMI", "CUDA_VISIBLE_DEVICES")
_TRES_PER_TASK = "-n2 --tres-per-task=cpu=2,gres/gpu=1"

SHAPES = [
    "-N4",
    "-N4 --exclusive",
    "-n8",
    "-N2 -n3",
    "-N2 -c2",
    "-c2 -n4",
    "-N2 --ntasks-per-node=2",
    "--mem-per-cpu=100",
    "--exclusive --mem=500",
    "--mem=0",
    "--hint=nomultithread",
    "--threads-per-core=1",
    "--exclusive=user",
    "--oversubscribe",
    "-N2 --gpus-per-node=1",
    "-n2 --gpus-per-task=1",
    "-N2 --gpus=3",
    "-N2 --gpus=4",
    "--gres=gpu:2",
    _TRES_PER_TASK,
    "--time=10",
    "--time=UNLIMITED",
]
# salloc waits for its command also when the allocation is gone, unless it is told otherwise.
SALLOC = ("salloc", "--quiet", "--kill-command=KILL")
SBATCH = ("sbatch", "--quiet", "--output=/dev/null")
IN_STEPS = ["-N1 -n1", "-N1 -n1 --overlap", "-N2 -n2 --overlap"]


@dataclass(frozen=True)
class Held:
    """What Slurm says of a job: of each node the CPUs, MB and GPUs; its end in epoch seconds."""

    nodes: dict[str, tuple[int, int, int]]
    end: float | None


@pytest.fixture(scope="module")
def nodes_of_all_kinds() -> Iterator[LocalSlurm]:
    """Four nodes with two cores of two threads and two GPUs each; memory is allocated, too."""
    options = {
        "SelectTypeParameters": "CR_Core_Memory",
        "LaunchParameters": "use_interactive_step",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("IPS_TEST_MARK", raising=False)  # its daemons outlive the test
        slurm = LocalSlurm(nodes=4, cpus=4, gpus=2, threads_per_core=2, options=options)
        slurm.start()
    with contextlib.closing(slurm):
        yield slurm


@pytest.fixture
def enter(
    nodes_of_all_kinds: LocalSlurm,
    shared_tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wait_until,
) -> Iterator[Callable[..., str]]:
    """``enter(*argv)``: start what starts a driver, and take its environment; the job's id."""
    slurm = nodes_of_all_kinds
    monkeypatch.chdir(shared_tmp_path)
    environment = shared_tmp_path / "environment"
    started = []

    def start(*argv: str, task: str = "", shell: bool = False) -> str:
        hold = ["sh", "-c", _HOLD, str(environment)]
        line = f"exec {shlex.join(hold)}"
        if shell:
            program = shared_tmp_path / "shell"
            program.write_text(f"#!/bin/sh\n{line}\n")
            program.chmod(0o755)
            its = terminals.enter_context(_terminal())
            environ = slurm.environ | {"SHELL": str(program)}
            # salloc wants that terminal to control it
            command = ["setsid", "--ctty", *argv]
            started.append(
                subprocess.Popen(command, env=environ, stdin=its, stdout=its, stderr=its)
            )
        else:
            command = [f"--wrap={line}"] if argv[0] == "sbatch" else hold
            started.append(subprocess.Popen([*argv, *command], env=slurm.environ))
        path = environment.with_name(environment.name + task)
        wait_until(path.exists, _SECONDS, f"{argv} starts")
        for name in [name for name in os.environ if name.startswith(_PREFIXES)]:
            monkeypatch.delenv(name)
        for word in path.read_text().split("\0"):
            name, _, value = word.partition("=")
            if name.startswith(_PREFIXES):
                monkeypatch.setenv(name, value)
        return os.environ["SLURM_JOB_ID"]

    with contextlib.ExitStack() as terminals:
        yield start
        slurm.run(["scancel", *slurm.jobs()])
        for process in started:
            process.wait(_SECONDS)
    wait_until(lambda: slurm.jobs() == [], _SECONDS, "no job is left")


@contextlib.contextmanager
def _terminal() -> Iterator[int]:
    """Make a terminal for a program, which nobody reads."""
    ours, its = pty.openpty()
    try:
        yield its
    finally:
        os.close(its)
        os.close(ours)


def ask(job: str, threads: int) -> Held:
    """Ask Slurm what a job holds, with the CPUs that its tasks may use."""
    environ = {"PATH": os.environ["PATH"], "SLURM_CONF": os.environ["SLURM_CONF"]}

    def run(*argv: str) -> str:
        return subprocess.check_output(argv, text=True, timeout=_SECONDS, env=environ)

    nodes = {}
    # all jobs of an array come together
    records = re.split(r"^JobId=", run("scontrol", "-d", "show", "job", job), flags=re.MULTILINE)
    (record,) = (record for record in records if record.partition(" ")[0] == job)
    for line in re.findall(r"^ *(Nodes=\S+ CPU_IDs=.*)$", record, re.MULTILINE):
        found = dict(word.split("=", 1) for word in line.split())
        gpus = re.search(r"IDX:([\d,-]+)", found["GRES"])
        cpus = _count(found["CPU_IDs"]) // threads
        size = cpus, int(found["Mem"]), _count(gpus[1]) if gpus else 0
        names = run("scontrol", "show", "hostnames", found["Nodes"]).split()
        nodes.update(dict.fromkeys(names, size))
    lines = run("squeue", "-h", f"-j{job}", "-o%A %C %D %l %e").splitlines()
    ((_, total, count, limit, end),) = (line.split() for line in lines if line.split()[0] == job)
    assert sum(size[0] for size in nodes.values()) * threads == int(total)
    assert len(nodes) == int(count)
    # The backfill scheduler writes a year into a batch job without a limit.
    if limit in ("UNLIMITED", "365-00:00:00"):
        return Held(nodes, None)
    return Held(nodes, datetime.datetime.fromisoformat(end).timestamp())


def _count(ranges: str) -> int:
    """Count the numbers in ``"0-1,3"``."""
    ends = (item.split("-") for item in ranges.split(","))
    return sum(int(each[-1]) - int(each[0]) + 1 for each in ends)


def devices(client: Client) -> dict[str, list[str]]:
    """Ask each worker, by its address, which GPUs it sees."""

    def look() -> list[str]:
        return [word for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word]

    return client.run(look)


def check(slurm: LocalSlurm, job: str, wait_until: Any, threads: int = 1, **keywords: Any) -> None:
    """Start a cluster in a job, compare it with the job, run tasks on it and close it.

    Of so many ``threads`` of each core that the job holds, it uses one.
    """
    held = ask(job, threads)
    before = steps(slurm)
    with SlurmAllocationCluster(scheduler_options={"dashboard": False}, **keywords) as cluster:
        found = cluster.allocation
        sizes = {node.name: (node.cpus, node.memory >> 20, node.gpus) for node in found.nodes}
        assert Held(sizes, found.end_time and found.end_time.timestamp()) == held
        cluster.wait_for_workers()
        with cluster.get_client() as client:
            visible = devices(client)
            workers = {
                cluster.steps.node_names()[info["name"]]: (
                    info["nthreads"],
                    info["memory_limit"] >> 20,
                    len(visible[address]),
                )
                for address, info in cluster.scheduler_info["workers"].items()
            }
            assert workers == held.nodes
            squares = client.map(lambda number: number**2, range(20))
            assert client.gather(squares) == [number**2 for number in range(20)]
    wait_until(lambda: steps(slurm) == before, _SECONDS, "no step is left")


def steps(slurm: LocalSlurm) -> set[str]:
    return {step for step in slurm.steps() if not step.endswith(".extern")}


def version(slurm: LocalSlurm) -> tuple[int, int]:
    text = slurm.run(["salloc", "--version"]).stdout
    year, month = re.findall(r"(\d+)\.(\d+)", text)[0]
    return int(year), int(month)


@pytest.mark.parametrize("start", [SALLOC, SBATCH], ids=["salloc", "sbatch"])
@pytest.mark.parametrize("shape", SHAPES)
def test_cluster_has_what_the_job_holds(nodes_of_all_kinds, enter, wait_until, start, shape):
    options = shlex.split(shape)
    if shape == _TRES_PER_TASK and version(nodes_of_all_kinds) < (23, 11):
        done = nodes_of_all_kinds.run([*start, *options, "true"])
        assert done.returncode != 0
        assert "unrecognized option '--tres-per-task" in done.stderr
        return
    threads = 2 if shape in ("--hint=nomultithread", "--threads-per-core=1") else 1
    check(nodes_of_all_kinds, enter(*start, *options), wait_until, threads)


@pytest.mark.parametrize("options", IN_STEPS)
def test_cluster_starts_from_a_driver_in_a_step(nodes_of_all_kinds, enter, wait_until, options):
    job_id = enter(*SALLOC, "-N2", "--exclusive", "srun", *shlex.split(options))
    check(nodes_of_all_kinds, job_id, wait_until)


def test_cluster_starts_from_an_interactive_step(nodes_of_all_kinds, enter, wait_until):
    """What salloc starts if no command is given (LaunchParameters=use_interactive_step)."""
    job_id = enter(*SALLOC, "-N2", "--gpus=3", shell=True)
    assert os.environ["SLURM_STEP_ID"]
    check(nodes_of_all_kinds, job_id, wait_until)


def test_cluster_starts_in_one_job_of_an_array(nodes_of_all_kinds, enter, wait_until):
    job_id = enter(*SBATCH, "--array=1-2", "-N2", "--gpus=2", task="2")
    check(nodes_of_all_kinds, job_id, wait_until)


def test_cluster_starts_below_export_none(nodes_of_all_kinds, enter, wait_until):
    job_id = enter(*SBATCH, "--export=NONE", "-N2")
    assert os.environ["SLURM_EXPORT_ENV"] == "NONE"
    check(nodes_of_all_kinds, job_id, wait_until)


@pytest.mark.parametrize("shape", ["-N2", "-N2 --gpus=3 --time=10"])
def test_cluster_starts_from_outside_of_a_job(
    nodes_of_all_kinds, enter, wait_until, monkeypatch, shape
):
    slurm = nodes_of_all_kinds
    slurm.run(["salloc", "--no-shell", *shlex.split(shape)])
    (job_id,) = slurm.jobs()
    for name in [name for name in os.environ if name.startswith(_PREFIXES)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", slurm.environ["SLURM_CONF"])
    check(slurm, job_id, wait_until, job_id=job_id)


@pytest.mark.parametrize("shape", ["-n2 --gpus-per-task=1", "-N1 --gpus=2 --gpu-bind=single:1"])
def test_each_worker_of_a_node_has_a_device_of_its_own(
    nodes_of_all_kinds, enter, wait_until, shape
):
    enter(*SALLOC, *shlex.split(shape))
    options = {"dashboard": False}
    with SlurmAllocationCluster(worker_per_gpu=True, scheduler_options=options) as cluster:
        cluster.wait_for_workers()
        with cluster.get_client() as client:
            assert sorted(devices(client).values()) == [["0"], ["1"]]


@pytest.mark.parametrize(
    ("shape", "seen"),
    [
        (TaskShape(node_gpus=2, node_names=("n1",)), "0,1"),
        (TaskShape(node_gpus=2, node_names=("n1",), whole_nodes=False), ""),
        (TaskShape(gpus=1, node_gpus=2, node_names=("n1",), whole_nodes=False), "0"),
    ],
)
def test_program_on_one_node_when_the_gpus_are_those_of_the_job(enter, shape, seen):
    """Without a word on GPUs its step would ask for all four, which its node does not have."""
    enter(*SALLOC, "-N2", "--gpus=4")
    program = ["sh", "-c", 'echo "$CUDA_VISIBLE_DEVICES"']
    argv, variables = srun_command(shape, program)
    names = misleading_variables(os.environ)
    argv = without_variables(names, argv)
    environ = os.environ | variables
    assert subprocess.check_output(argv, env=environ, text=True, timeout=_SECONDS) == f"{seen}\n"
