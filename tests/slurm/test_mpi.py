"""Parallel tasks: real MPI programs, started by every launcher on named nodes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ips_core.pools.executor import Attempt, Ended
from ips_core.pools.local.backend import LocalBackend
from ips_core.resources.nodes import NodeShare, Reservation
from ips_core.tasks.launch import TaskShape, launch_command, overlapping_srun_command
from ips_core.tasks.launcher import TaskLauncher
from ips_core.tasks.runner import Runner
from ips_core.tasks.srun import MPITasks
from ips_core.tasks.task import Task

WaitUntil = Callable[..., Any]
Record = dict[str, Any]

_CHECKOUT = Path(__file__).parents[2]
_SECONDS = 60
NODES = ("n2", "n4")
SHAPE = TaskShape(4, 2, 2, node_names=NODES)

#: Each rank says who it is, and what all of them have found together.
HELLO = """
import os
from mpi4py import MPI
world = MPI.COMM_WORLD
total = world.allreduce(world.rank)
words = (world.rank, world.size, total, os.environ.get("SLURMD_NODENAME"), os.environ["SAID"])
with open(f"rank-{world.rank}", "w") as file:
    print(*words, os.environ.get("OMP_NUM_THREADS"), file=file)
"""


@pytest.fixture(scope="module")
def mpi_programs() -> Path:
    """The folder with MPICH and Open MPI."""
    argv = [_CHECKOUT / "tools" / "mpi-programs", "path", sys.executable]
    folder = Path(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip())
    if not folder.is_dir():
        pytest.fail(f"no MPI in {folder}; make it: make mpi", pytrace=False)
    return folder


@pytest.fixture
def library(mpi_programs: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``library("mpich")``: programs and ranks use this one."""

    def choose(name: str) -> None:
        monkeypatch.setenv("PATH", f"{mpi_programs / name / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setenv("LD_LIBRARY_PATH", str(mpi_programs / name / "lib"))
        for variable in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
            monkeypatch.setenv(variable, "1")

    return choose


def hello_from(folder: Path) -> list[str]:
    return [path.read_text().strip() for path in sorted(folder.glob("rank-*"))]


def placed(*nodes: str, openmp: int = 1) -> list[str]:
    size = len(nodes)
    total = size * (size - 1) // 2
    return [f"{rank} {size} {total} {node} hello {openmp}" for rank, node in enumerate(nodes)]


# With the platform's MPIRUN.


@pytest.mark.versions
@pytest.mark.parametrize(
    ("launcher", "name", "extra"),
    [("srun", "mpich", ("--mpi=pmi2",)), ("mpirun", "openmpi", ()), ("mpiexec", "mpich", ())],
)
@pytest.mark.parametrize("whole_nodes", [True, False])
def test_ranks_are_where_they_belong(
    job_id, library, shared_tmp_path, launcher, name, extra, whole_nodes
) -> None:
    library(name)
    shape = TaskShape(
        4, 2, 2, 1, whole_nodes=whole_nodes, node_names=NODES, extra_args=extra, omp=True
    )
    argv, variables = launch_command(launcher, shape, [sys.executable, "-c", HELLO], ("SAID",))
    done = run(argv, {"SAID": "hello", **variables}, shared_tmp_path)
    assert done.returncode == 0, done.stderr
    assert hello_from(shared_tmp_path) == placed("n2", "n2", "n4", "n4")


@pytest.mark.parametrize(("launcher", "name"), [("mpirun", "openmpi"), ("mpiexec", "mpich")])
def test_one_machine_may_have_more_ranks_than_cores(
    library, shared_tmp_path, launcher, name
) -> None:
    library(name)
    count = len(os.sched_getaffinity(0)) + 1
    shape = TaskShape(count, cores=2)
    argv, variables = launch_command(launcher, shape, [sys.executable, "-c", HELLO])
    done = run(argv, {"SAID": "hello", **variables}, shared_tmp_path)
    assert done.returncode == 0, done.stderr
    assert hello_from(shared_tmp_path) == placed(*["None"] * count, openmp=2)


LAUNCHES = """
import json
import os
import sys
import time
from pathlib import Path

from ipsframework import Component

MEET = (
    "touch $0; for i in $(seq 600); do [ -e $1 ] && echo $SLURMD_NODENAME > node-$0 && exit 0; "
    "sleep 0.1; done; exit 1"
)


class Driver(Component):
    def step(self, timestamp=0.0, **keywords):
        top = Path("../../..").resolve()
        Path("hello.py").write_text((top / "hello.py").read_text())
        hello, extra = os.path.abspath("hello.py"), os.environ["LAUNCHER_OPTIONS"]

        def launch(name, nproc, *words, **keywords):
            (top / name).mkdir()
            return self.services.launch_task(
                nproc, str(top / name), *words, task_env={"SAID": "hello"}, logfile=f"{name}.log",
                launch_cmd_extra_args=extra, **keywords
            )

        python = (sys.executable, hello)
        ids = [
            launch("whole", 4, *python, task_ppn=2, whole_nodes=True),
            launch("threads", 2, *python, task_ppn=1, whole_nodes=True, omp=True),
        ]
        codes = self.services.wait_tasklist(ids)
        codes = [codes[each] for each in ids]
        ids = [
            self.services.launch_task(
                1, str(top), "sh", "-c", MEET, *names, launch_cmd_extra_args=extra
            )
            for names in ("ab", "ba")
        ]
        codes += self.services.wait_tasklist(ids).values()
        ranks = "touch there-$$; sleep 300"
        long = launch("killed", 2, "sh", "-c", ranks, task_ppn=1)
        deadline = time.monotonic() + 60
        while len(list((top / "killed").glob("there-*"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        codes.append(self.services.kill_task(long))
        (top / "codes").write_text(json.dumps(codes))


class Worker(Component):
    pass
"""


@pytest.mark.parametrize(
    ("launcher", "name", "options"),
    [("srun", "mpich", "--mpi=pmi2"), ("mpirun", "openmpi", ""), ("mpiexec", "mpich", "")],
)
def test_programs_that_components_launch_reach_the_nodes(
    job_id, library, shared_tmp_path, two_components, monkeypatch, launcher, name, options
) -> None:
    library(name)
    monkeypatch.setenv("LAUNCHER_OPTIONS", options)
    for file, text in (
        ("sim.config", two_components),
        ("components.py", LAUNCHES),
        ("hello.py", HELLO),
        ("platform.conf", f"MPIRUN = {launcher}\nNODE_DETECTION = slurm_env\n"),
    ):
        (shared_tmp_path / file).write_text(text)
    ips = [sys.executable, "-m", "ips_core", "--config", "sim.config", "--platform"]
    done = run([*ips, "platform.conf"], {}, shared_tmp_path, 3 * _SECONDS)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((shared_tmp_path / "codes").read_text()) == [0, 0, 0, 0, True]
    beside = [path.read_text() for path in shared_tmp_path.glob("node-*")]
    assert len(beside) == 2
    assert len(set(beside)) == 1
    nodes = {}
    for task, ranks, openmp in (("whole", 4, 1), ("threads", 2, 2)):
        said = hello_from(shared_tmp_path / task)
        nodes[task] = [line.split()[3] for line in said]
        assert said == placed(*nodes[task], openmp=openmp)
        assert len(said) == ranks
    first, second = nodes["whole"][0], nodes["whole"][2]
    assert nodes["whole"] == [first, first, second, second]
    assert len({first, second}) == 2
    assert len(set(nodes["threads"])) == 2


def test_tasks_that_share_a_node_run_side_by_side(job_id, shared_tmp_path) -> None:
    shape = TaskShape(cores=1, whole_nodes=False, node_names=("n3",))
    script = "touch %s; for i in $(seq 300); do [ -e %s ] && exit 0; sleep 0.1; done; exit 1"
    codes = {}

    def start(mine: str, other: str) -> None:
        argv, variables = launch_command("srun", shape, ["sh", "-c", script % (mine, other)])
        codes[mine] = run(argv, variables, shared_tmp_path).returncode

    threads = [threading.Thread(target=start, args=pair) for pair in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_SECONDS)
    assert codes == {"a": 0, "b": 0}


def run(
    argv: list[str], variables: dict[str, str], cwd: Path, seconds: float = _SECONDS
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        env=os.environ | variables,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


class Link:
    """A framework that gives everybody two cores of n2 and of n4."""

    def ask(self, what: str, *details: Any) -> Reservation | None:
        if what == "release":
            return None
        return Reservation(1, (NodeShare("n2", 2, 2), NodeShare("n4", 2, 2)), whole_nodes=True)


def test_pool_without_dask_runs_steps_that_end_with_it(
    job_id, shared_tmp_path, wait_until, processes_with
) -> None:
    heard: list[Any] = []
    executor = LocalBackend(Link(), TaskLauncher("srun", True), slots=8).executor("run")
    executor.start(heard.append)

    def record_of(key: str, script: str, **keywords: Any) -> Record:
        task = Task(key, 4, str(shared_tmp_path), "/bin/sh", "-c", script, **keywords)
        executor.submit([Attempt(task, key)])
        ended = wait_until(lambda: [n.record for n in heard if is_end(n, key)], _SECONDS, key)
        return ended[0]

    def is_end(news: Any, key: str) -> bool:
        return isinstance(news, Ended) and news.key == key

    record = record_of("good", "echo $SLURM_PROCID $SLURMD_NODENAME > rank-$SLURM_PROCID")
    assert outcome(record) == ("finished", 0, "")
    assert hello_from(shared_tmp_path) == ["0 n2", "1 n2", "2 n4", "3 n4"]
    record = record_of("bad", "exit $(($SLURM_PROCID == 2 ? 5 : 0))")
    assert outcome(record) == ("failed", 5, "exit code 5 of rank 2 on n4")
    late = {"timeout": 5, "task_env": {"IPS_TEST_RANKS": "pool"}}
    assert record_of("late", STUBBORN, **late)["status"] == "timed_out"
    wait_until(lambda: processes_with("IPS_TEST_RANKS=pool") == [], 10, "no rank left")
    assert executor.close() == ""


# Beside the workers of a Dask cluster.


@pytest.fixture
def runner() -> Runner:
    return Runner("component")


@pytest.fixture
def start(
    job_id, runner, library, shared_tmp_path
) -> Iterator[Callable[..., Callable[[], Record]]]:
    """``start(*argv, **payload)``: a parallel task in a thread; call it for the record."""
    library("mpich")
    tasks = MPITasks(runner, job_id, ["--mpi=pmi2"])
    threads = []

    def start(*argv: str, shape: TaskShape = SHAPE, **more: Any) -> Callable[[], Record]:
        name = f"t{len(threads)}"
        payload = {"pool": "pool", "name": name, "argv": list(argv), "cwd": str(shared_tmp_path)}
        records = []

        def work() -> None:
            records.append(tasks.run(payload | more, shape, f"pool-{name}", lambda begun: None))

        def record() -> Record:
            thread.join(_SECONDS)
            return records[0]

        thread = threading.Thread(target=work)
        threads.append(thread)
        thread.start()
        return record

    yield start
    runner.cancel()
    for thread in threads:
        thread.join(_SECONDS)


def outcome(record: Record) -> tuple[str, int, str]:
    return record["status"], record["exit_status"], record["error"]


def test_mpi_program_starts_beside_the_workers(cluster, start, shared_tmp_path) -> None:
    record = start(sys.executable, "-c", HELLO, env={"SAID": "hello"}, slots=4)()
    assert outcome(record) == ("finished", 0, "")
    assert set(record["host"].split(",")) == {"n2", "n4"}
    assert hello_from(shared_tmp_path) == placed("n2", "n2", "n4", "n4")


def test_programs_beside_each_other_use_more_ranks_than_there_are_cpus(start) -> None:
    """The slots of a pool need not be CPUs."""
    shape = TaskShape(8, 2, node_names=NODES)
    meet = (
        "touch $SLURM_STEP_ID-$SLURM_PROCID; for i in $(seq 300); do [ $(ls | grep -c -- -) = 16 ]"
    )
    records = [start("sh", "-c", f"{meet} && exit 0; sleep 0.1; done; exit 1", shape=shape)]
    records.append(start("sh", "-c", f"{meet} && exit 0; sleep 0.1; done; exit 1", shape=shape))
    assert [outcome(record()) for record in records] == [("finished", 0, "")] * 2


@pytest.mark.versions
@pytest.mark.parametrize(
    ("script", "status", "error"),
    [
        ("[ $SLURM_PROCID = 1 ] && exit 5; sleep 60", 5, "exit code 5 of rank 1 on n2"),
        (
            "[ $SLURM_PROCID = 2 ] && kill -SEGV $$; sleep 60",
            -signal.SIGSEGV,
            "rank 2 on n4 crashed (SIGSEGV) in compiled code",
        ),
    ],
)
def test_rank_that_fails_ends_the_others(start, script, status, error) -> None:
    assert outcome(start("sh", "-c", script)()) == ("failed", status, error)


def test_program_that_no_node_has(start) -> None:
    status, code, error = outcome(start("/nope/code")())
    assert (status, code) == ("failed", 127)
    assert "No such file or directory" in error


def test_node_without_the_directory_is_an_error(job_id, shared_tmp_path) -> None:
    """Slurm itself would run the program in /tmp."""
    argv, _ = overlapping_srun_command(
        SHAPE, ["touch", "ran"], job_id=job_id, job_name="t1", cwd="/nope"
    )
    assert run(argv, {}, shared_tmp_path).returncode == 125


def test_node_that_is_not_of_the_job(start) -> None:
    shape = TaskShape(2, 2, node_names=("n2", "n9"))
    status, code, error = outcome(start("true", shape=shape)())
    assert (status, code) == ("failed", 1)
    assert "node" in error


#: A process and its child, all that proctrack/linuxproc of Slurm finds for sure: what a shell
#: starts while its processes are being killed may escape that.
STUBBORN = "trap '' TERM INT HUP; sleep 60 & echo $$ > pid-$SLURM_PROCID; exec sleep 60"


def test_cancel_ends_every_rank_on_every_node(
    start, runner, slurm, shared_tmp_path, wait_until, processes_with
) -> None:
    record = start("sh", "-c", STUBBORN, env={"IPS_TEST_RANKS": "cancel"})
    wait_until(lambda: len(list(shared_tmp_path.glob("pid-*"))) == 4, 30, "four ranks")
    runner.cancel("pool")
    assert record()["status"] == "cancelled"
    assert processes_with("IPS_TEST_RANKS=cancel") == []
    wait_until(lambda: step_names().count("pool-t0") == 0, 20, "no step left")


def test_timeout_ends_every_rank(start, wait_until, processes_with) -> None:
    record = start("sh", "-c", STUBBORN, env={"IPS_TEST_RANKS": "late"}, timeout=5)()
    assert outcome(record)[:2] == ("timed_out", -1)
    wait_until(lambda: processes_with("IPS_TEST_RANKS=late") == [], 10, "no rank left")


@pytest.mark.versions
def test_ranks_do_not_outlive_an_srun_that_is_killed(
    start, shared_tmp_path, wait_until, processes_with
) -> None:
    record = start("sh", "-c", STUBBORN, env={"IPS_TEST_RANKS": "killed"})
    wait_until(lambda: len(list(shared_tmp_path.glob("pid-*"))) == 4, 30, "four ranks")
    for pid, command in processes_with("IPS_TEST_RANKS=killed"):
        if command.startswith("srun "):
            # srun is two processes, and the second ends soon after the first
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert outcome(record())[:2] == ("failed", -signal.SIGKILL)
    wait_until(lambda: processes_with("IPS_TEST_RANKS=killed") == [], 10, "no rank left")


def step_names() -> list[str]:
    argv = ["squeue", "--steps", "--noheader", "--format=%j"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20).stdout.split()
