"""Pools without Dask: the calls of IPS and what they answer, on the cores that there are."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_TOOL = Path(__file__).parents[2] / "tools" / "mpi-programs"

DRIVER = """
import os
import sys
import time
from pathlib import Path

from ips_core.tasks.orphan_reaper import marked_processes
from ipsframework import Component


def until(what):
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline, "not within 30 s"
        time.sleep(0.02)


def double(number, where=None):
    return 2 * number, os.getpid(), os.getcwd()


def fail():
    raise ValueError("as asked")


class Driver(Component):
    factor = 3

    def times(self, number):
        return self.factor * number

    def sh(self, pool, name, script, nproc=1, **keywords):
        self.services.add_task(pool, name, nproc, os.getcwd(), "sh", "-c", script, **keywords)

    def told(self, label, *values):
        print(label, repr(values))

    def step(self, timestamp=0.0, **keywords):
        services = self.services
        for pool in "abcdefg":
            services.create_task_pool(pool)
        self.waits("a")
        self.comes_in_parts("b")
        self.callables("c")
        self.failures("d", "e")
        self.cores("f")
        self.removed("g")
        self.told("modules", sorted({"dask", "distributed"} & set(sys.modules)))

    def waits(self, pool):
        for name, script in (("x", "sleep 1; touch x"), ("y", "exit 3"), ("z", "kill -9 $$")):
            self.sh(pool, name, script)
        count = self.services.submit_tasks(pool)
        self.told("block", count, os.path.exists("x"))
        self.told("all", self.services.get_finished_tasks(pool))
        self.no_more(pool)

    def no_more(self, pool):
        try:
            self.services.get_finished_tasks(pool)
        except Exception as error:
            self.told("no more", str(error))

    def comes_in_parts(self, pool):
        self.sh(pool, "slow", "until test -e go; do sleep 0.05; done; exit 4")
        self.sh(pool, "quick", "true")
        self.told("no block", self.services.submit_tasks(pool, block=False))
        self.told("first", self.services.get_finished_tasks(pool))
        self.told("nothing", self.services.get_finished_tasks(pool, block=False))
        Path("go").touch()
        self.told("second", self.services.get_finished_tasks(pool))
        self.no_more(pool)

    def callables(self, pool):
        add = self.services.add_task
        os.mkdir("elsewhere")
        add(pool, "function", 1, os.path.abspath("elsewhere"), double, 4)
        add(pool, "method", 1, os.getcwd(), self.times, 5)
        add(pool, "raises", 1, os.getcwd(), fail)
        self.services.submit_tasks(pool)
        found = self.services.get_finished_tasks(pool)
        value, pid, cwd = found["function"]
        self.told("function", value, pid != os.getpid(), os.path.basename(cwd))
        self.told("others", list(found), found["method"], str(found["raises"]))

    def failures(self, pool, other):
        self.sh(pool, "late", "sleep 300", timeout=1)
        self.sh(pool, "twice", "test -e tried || { touch tried; exit 1; }", retry_failed=1)
        self.services.submit_tasks(pool)
        self.told("late", self.services.get_finished_tasks(pool))
        self.told("attempts", self.services.get_task_records(pool)["twice"].attempts)
        for number in range(6):
            self.sh(other, f"t{number}", "exit 1", nproc=2, mpi=False)
        self.services.submit_tasks(other, max_failures=1)
        records = self.services.get_task_records(other).values()
        self.told("stopped", [record.status for record in records])
        self.services.get_finished_tasks(other)

    def cores(self, pool):
        note = "b=$(date +%s.%N); sleep 0.3; echo $b $(date +%s.%N) > note-$1-$2"
        for number in range(6):
            nproc = 2 if number == 3 else 1
            args = ("-c", note, "sh", number, nproc)
            self.services.add_task(pool, f"t{number}", nproc, os.getcwd(), "sh", *args, mpi=False)
        self.services.submit_tasks(pool)
        changes = []
        for path in Path().glob("note-*"):
            begin, end = map(float, path.read_text().split())
            cores = int(path.name[-1])
            changes += [(begin, cores), (end, -cores)]
        held = most = 0
        for _, cores in sorted(changes):
            held += cores
            most = max(most, held)
        self.told("cores", len(changes), most)

    def removed(self, pool):
        script = "trap '' TERM; touch there; sleep 300 & wait; sleep 300"
        self.sh(pool, "t", script, task_env={"POOL": "removed"})
        self.services.submit_tasks(pool, block=False)
        until(lambda: os.path.exists("there"))
        begin = time.monotonic()
        self.services.remove_task_pool(pool)
        seconds = time.monotonic() - begin
        self.told("removed", marked_processes("POOL=removed"), seconds < 10)
"""

PLATFORM = """
MPIRUN = {mpirun}
NODE_DETECTION = manual
CORES_PER_NODE = {cores}
SOCKETS_PER_NODE = 1
NODE_ALLOCATION_MODE = shared
"""


@pytest.fixture
def answers(simulation: Any, once: Any) -> Any:
    """How the simulation ended, and what its driver told, by label."""

    def run() -> tuple[Any, dict[str, list[Any]]]:
        (simulation.folder / "platform.conf").write_text(PLATFORM.format(mpirun="eval", cores=2))
        outcome = simulation.write(DRIVER).run("--platform", "platform.conf")
        assert outcome.code == 0, outcome.stderr
        told: dict[str, list[Any]] = {}
        for line in outcome.stdout.splitlines():
            label, found, values = line.partition(" (")
            if found:
                told.setdefault(label, []).append(ast.literal_eval(found + values))
        return outcome, told

    return once("run", run)


def test_a_submission_that_blocks_waits_for_all(answers: Any) -> None:
    _, told = answers
    assert told["block"] == [(3, True)]
    assert told["all"] == [({"x": 0, "y": 3, "z": -9},)]


def test_one_that_does_not_gives_what_has_ended_since(answers: Any) -> None:
    _, told = answers
    assert told["no block"] == [(2,)]
    assert told["first"] == [({"quick": 0},)]
    assert told["nothing"] == [({},)]
    assert told["second"] == [({"slow": 4},)]


def test_there_is_an_error_when_there_is_nothing_more(answers: Any) -> None:
    _, told = answers
    assert told["no more"] == [
        ("No more active tasks in task pool a",),
        ("No more active tasks in task pool b",),
    ]


def test_callables_run_in_processes_of_their_own(answers: Any) -> None:
    _, told = answers
    assert told["function"] == [(8, True, "elsewhere")]
    ((names, method, error),) = told["others"]
    assert (sorted(names), method) == (["function", "method", "raises"], 15)
    assert "ValueError: as asked" in error


def test_failures_are_counted_and_tried_again(answers: Any) -> None:
    _, told = answers
    assert told["late"] == [({"late": -1, "twice": 0},)]
    assert told["attempts"] == [(2,)]
    ((statuses,),) = told["stopped"]
    failed = statuses.count("failed")
    # one that has got the cores of the second may have begun before that was counted
    assert failed in (2, 3)
    assert statuses == ["failed"] * failed + ["not_started"] * (6 - failed)


def test_no_more_cores_are_used_than_there_are(answers: Any) -> None:
    _, told = answers
    assert told["cores"] == [(12, 2)]


def test_a_pool_that_is_removed_leaves_no_process(answers: Any) -> None:
    _, told = answers
    assert told["removed"] == [([], True)]


def test_dask_is_not_even_imported(answers: Any) -> None:
    _, told = answers
    assert told["modules"] == [([],)]


def test_the_log_has_the_same_events_as_with_dask(answers: Any) -> None:
    outcome, _ = answers
    pools = [e["comment"] for e in outcome.of_type("IPS_TASK_POOL_BEGIN")]
    assert pools == [f"task_pool = {pool} " for pool in "abcdefg"]
    assert len(outcome.of_type("IPS_TASK_POOL_END")) == 7
    starts = {e["task_name"]: e for e in outcome.of_type("IPS_LAUNCH_TASK_POOL")}
    ends = {e["task_name"]: e for e in outcome.of_type("IPS_TASK_END")}
    start, end = starts["y"], ends["y"]
    assert start["comment"].startswith("task_name = y, Target = ")
    assert (start["host"], start["attempt"]) == (end["host"], 1)
    fields = {"status", "exit_status", "start_time", "elapsed_time", "host", "worker", "attempt"}
    assert fields <= end.keys()
    assert (end["ok"], end["status"], end["exit_status"]) == (False, "failed", 3)
    assert ends["late"]["status"] == "timed_out"
    assert ends["t"]["status"] == "cancelled"
    tried = [e["ok"] for e in outcome.of_type("IPS_TASK_END") if e["task_name"] == "twice"]
    assert tried == [False, True]


HELLO = """
from mpi4py import MPI
world = MPI.COMM_WORLD
ranks = world.allgather((world.rank, world.size))
if world.rank == 0:
    print(ranks)
"""


@pytest.fixture
def mpi(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``mpi("mpich")``: programs use this one."""

    def choose(name: str) -> None:
        argv = [_TOOL, "path", sys.executable]
        found = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
        folder = Path(found.stdout.strip())
        if not folder.is_dir():
            pytest.fail(f"no MPI in {folder}; make it: make mpi", pytrace=False)
        monkeypatch.setenv("PATH", f"{folder / name / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setenv("LD_LIBRARY_PATH", str(folder / name / "lib"))
        for variable in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
            monkeypatch.setenv(variable, "1")

    return choose


@pytest.mark.parametrize(("launcher", "library"), [("mpirun", "openmpi"), ("mpiexec", "mpich")])
def test_mpi_programs_of_the_platform(
    simulation: Any, mpi: Any, launcher: str, library: str
) -> None:
    mpi(library)
    (simulation.folder / "platform.conf").write_text(PLATFORM.format(mpirun=launcher, cores=3))
    (simulation.folder / "hello.py").write_text(HELLO)
    outcome = simulation.write(
        """
services.create_task_pool("a")
hello = os.path.abspath("../../../hello.py")
services.add_task("a", "hello", 3, cwd, sys.executable, hello, logfile="hello.log")
services.add_task("a", "code", 2, cwd, "sh", "-c", "exit 5")
services.submit_tasks("a")
print(services.get_finished_tasks("a"))
print(open("hello.log").read().splitlines()[-1])
task = services.launch_task(3, cwd, sys.executable, hello, logfile="single.log")
code = services.launch_task(2, cwd, "sh", "-c", "exit 6", logfile="code.log")
print([services.wait_task(task), services.wait_task(code)])
print(open("single.log").read().splitlines()[-1])
"""
    ).run("--platform", "platform.conf")
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout.splitlines()[-4:] == [
        "{'hello': 0, 'code': 5}",
        "[(0, 3), (1, 3), (2, 3)]",
        "[0, 6]",
        "[(0, 3), (1, 3), (2, 3)]",
    ]
