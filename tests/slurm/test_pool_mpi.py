"""MPI programs among other tasks of pools on Dask: four nodes of two slots, a worker on each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ips_core import read_log

_SECONDS = 60.0
_CHECKOUT = Path(__file__).parents[2]
_IPS = (sys.executable, "-m", "ips_core", "--config", "sim.config")

COMPONENTS = """
import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

from ips_core.tasks.orphan_reaper import marked_processes
from ipsframework import Component

# where and when it ran
NOTE = '''
begin=$(date +%s.%N)
sleep {seconds}
echo ${{SLURMD_NODENAME:-$IPS_DASK_NODE}} $begin $(date +%s.%N) $SLURM_PROCID > {name}-$SLURM_PROCID
'''
# two processes that only SIGKILL ends
STUBBORN = '''
trap '' TERM INT HUP
sleep 300 & touch {name}-$SLURM_PROCID
exec sleep 300
'''
HELLO = '''
import os
from mpi4py import MPI
world = MPI.COMM_WORLD
node = os.environ["SLURMD_NODENAME"]
# all wait for all: this MPICH may not deliver what a rank sent that is at its end
ranks = world.allgather((world.rank, world.size, node))
if world.rank == 0:
    print(ranks)
'''


class Base(Component):
    top = property(lambda self: str(Path("../../..").resolve()))

    def pool(self, name, **options):
        self.services.submit_tasks(name, use_dask=True, dask_nodes=4, **options)
        return self.services.get_finished_tasks(name)

    def sh(self, pool, name, nproc, script, **keywords):
        text = script.format(name=f"{pool}-{name}", **keywords.pop("values", {}))
        self.services.add_task(pool, name, nproc, self.top, "sh", "-c", text, **keywords)

    def mixed(self, pool):
        self.services.create_task_pool(pool)
        for number in range(8):
            self.sh(pool, f"one{number}", 1, NOTE, values={"seconds": 0.1 * (number % 4)})
        for nproc in (4, 8):
            for number in range(6):  # more than one component gathers slots at a time
                self.sh(pool, f"mpi{nproc}-{number}", nproc, NOTE, values={"seconds": 0.1})
                self.sh(pool, f"some{nproc}-{number}", 1, NOTE, values={"seconds": 0.2})
        found = self.pool(pool)
        assert set(found.values()) == {0}, found
        return self.records(pool)

    def records(self, pool):
        records = self.services.get_task_records(pool)
        return {name: {**asdict(record), "value": None} for name, record in records.items()}

    def stubborn(self, pool):
        self.services.create_task_pool(pool)
        for nproc in (1, 1, 4):
            name = f"t{len(self.services.task_pools[pool].queued_tasks)}"
            self.sh(pool, name, nproc, STUBBORN, task_env={"RANKS": "stubborn"})
        self.services.submit_tasks(pool, use_dask=True, dask_nodes=4)
        self.until(lambda: len(list(Path(self.top).glob(f"{pool}-t*"))) == 6)

    def until(self, what):
        deadline = time.monotonic() + 60
        while not what():
            assert time.monotonic() < deadline, "not within 60 s"
            time.sleep(0.02)

"""


def test_slots_are_never_overbooked_by_two_components(run, shared_tmp_path) -> None:
    told = run(
        """
        worker = self.services.get_port("WORKER")
        other = self.services.call_nonblocking(worker, "mixed", "b")
        mine = self.mixed("a")
        told = {"a": mine, "b": self.services.wait_call(other)[0]}
        """
    )
    uses = {}
    for pool in "ab":
        for name, record in told[pool].items():
            ranks = [path.read_text().split() for path in shared_tmp_path.glob(f"{pool}-{name}-*")]
            assert len(ranks) == record["slots"]
            nodes = {rank[0] for rank in ranks}
            assert set(record["host"].split(",")) == nodes
            assert len(nodes) == -(-record["slots"] // 2)
            if record["slots"] > 1:
                assert sorted(int(rank[3]) for rank in ranks) == list(range(record["slots"]))
            for node, begin, end, *_ in ranks:
                uses.setdefault(node, []).extend([(float(begin), 1), (float(end), -1)])
    assert sorted(uses) == ["n1", "n2", "n3", "n4"]
    assert [most_at_once(changes) for changes in uses.values()] == [2] * 4


def most_at_once(changes: list[tuple[float, int]]) -> int:
    count = most = 0
    for _, change in sorted(changes):
        count += change
        most = max(most, count)
    return most


@pytest.mark.versions
def test_kinds_of_programs_and_of_ends(run, mpich, shared_tmp_path, processes_with) -> None:
    told = run(
        """
        self.services.create_task_pool("a")
        add, mpi = self.services.add_task, {"launch_cmd_extra_args": "--mpi=pmi2"}
        add("a", "real", 4, self.top, sys.executable, "-c", HELLO, logfile="real", **mpi)
        mpi["mpi"] = True
        add("a", "small", 2, self.top, sys.executable, "-c", HELLO, logfile="small", **mpi)
        add("a", "apart", 3, self.top, "sh", "-c", "echo $OMP_NUM_THREADS", task_ppn=1, task_cpp=2,
            logfile="apart", mpi=True)
        self.sh("a", "code", 4, "[ $SLURM_PROCID = 1 ] && exit 5; sleep 300")
        self.sh("a", "signal", 4, "[ $SLURM_PROCID = 2 ] && kill -SEGV $$; sleep 300")
        self.sh("a", "late", 4, STUBBORN, timeout=4, task_env={"RANKS": "late"})
        self.sh("a", "odd", 4, "true", launch_cmd_extra_args=5)
        found = self.pool("a")
        told = {"found": found, "records": self.records("a")}
        told["late"] = marked_processes("RANKS=late")

        self.services.create_task_pool("large")
        self.sh("large", "t", 9, "true")
        try:
            self.pool("large")
        except Exception as error:
            told["large"] = str(error)

        # a rank on each node, and a task that kills the worker of one
        self.services.create_task_pool("b")
        self.sh("b", "mpi", 4, NOTE, task_ppn=1, values={"seconds": 5})
        self.services.submit_tasks("b", use_dask=True, dask_nodes=4)
        self.services.create_task_pool("killer")
        self.sh("killer", "t", 1, "kill -9 $PPID", retries=0)
        self.until(lambda: marked_processes("SLURM_PROCID=3"))
        told["killer"] = (self.pool("killer"), self.records("killer"))[1]["t"]["status"]
        told["beside"] = (self.services.get_finished_tasks("b"), self.records("b"))[1]["mpi"]

        self.stubborn("c")
        begin = time.monotonic()
        self.services.remove_task_pool("c")
        told["removed"] = time.monotonic() - begin, marked_processes("RANKS=stubborn")
        """
    )
    found, records = told["found"], told["records"]
    assert found == {
        "real": 0,
        "small": 0,
        "apart": 0,
        "code": 5,
        "signal": -signal.SIGSEGV,
        "late": -1,
        "odd": 126,
    }
    ranks = eval(Path("real").read_text())
    assert [rank[:2] for rank in ranks] == [(n, 4) for n in range(4)]
    nodes = [rank[2] for rank in ranks]
    assert nodes[0] == nodes[1] != nodes[2] == nodes[3]
    assert set(records["real"]["host"].split(",")) == {nodes[0], nodes[2]}
    ranks = eval(Path("small").read_text())
    assert [rank[:2] for rank in ranks] == [(0, 2), (1, 2)]
    assert {rank[2] for rank in ranks} == {records["small"]["host"]}
    assert Path("apart").read_text().split() == ["2"] * 3
    assert len(records["apart"]["host"].split(",")) == 3
    code, late = records["code"], records["late"]
    assert (code["status"], code["error"]) == (
        "failed",
        f"exit code 5 of rank 1 on {code['host'].split(',')[0]}",
    )
    assert records["signal"]["error"].endswith(" crashed (SIGSEGV) in compiled code")
    assert (late["status"], told["late"]) == ("timed_out", [])
    assert records["odd"]["error"].startswith("it could not be started: TypeError: ")
    assert told["large"] == "task t of pool large: nproc = 9, but the pool has 4 nodes of 2 slots"
    assert told["killer"] == "lost"
    assert (told["beside"]["status"], told["beside"]["attempts"]) == ("finished", 1)
    seconds, left = told["removed"]
    assert left == []
    assert seconds < 10


@pytest.mark.parametrize("whom", ["simulation", "component"])
def test_no_rank_outlives_what_is_killed(
    start, wait_until, processes_with, shared_tmp_path, whom
) -> None:
    process = start(
        """
        Path(self.top, "pid").write_text(str(os.getpid()))
        self.stubborn("a")
        told = {}
        Path(self.top, "go").touch()
        self.services.get_finished_tasks("a")
        """
    )
    wait_until((shared_tmp_path / "go").exists, _SECONDS, "all tasks run")
    assert len(processes_with("RANKS=stubborn")) >= 12  # two a task and rank
    if whom == "simulation":
        process.send_signal(signal.SIGINT)
    else:
        os.kill(int((shared_tmp_path / "pid").read_text()), signal.SIGKILL)
    begin = time.monotonic()
    wait_until(lambda: not processes_with("RANKS=stubborn"), 10, "all of them are gone")
    print(f"gone after {time.monotonic() - begin:.1f} s")
    assert process.wait(_SECONDS) != 0


@pytest.fixture
def mpich(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs use MPICH."""
    argv = [_CHECKOUT / "tools" / "mpi-programs", "path", sys.executable]
    folder = Path(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip())
    if not folder.is_dir():
        pytest.fail(f"no MPI in {folder}; make it: make mpi", pytrace=False)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder / "mpich" / "lib"))


@pytest.fixture
def start(
    slurm, job_id, shared_tmp_path, two_components
) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """``start(statements)``: a simulation whose driver does this in its step."""
    processes = []

    def start(statements: str) -> subprocess.Popen[str]:
        Path("sim.config").write_text(two_components)
        driver = (
            f"class Driver(Base):\n    def step(self, timestamp=0.0, **keywords):\n{statements}\n"
        )
        tell = '        Path(self.top, "told").write_text(json.dumps(told))\n'
        Path("components.py").write_text(
            f"{COMPONENTS}\n{driver}{tell}\n\nclass Worker(Base):\n    pass\n"
        )
        process = subprocess.Popen(
            _IPS,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate(timeout=_SECONDS)


@pytest.fixture
def run(start, shared_tmp_path) -> Callable[[str], Any]:
    """``run(statements)``: such a simulation to its end; its ``told``."""

    def run(statements: str) -> Any:
        process = start(statements)
        try:
            stdout, stderr = process.communicate(timeout=2 * _SECONDS - 20)
        except subprocess.TimeoutExpired:
            events = read_log(shared_tmp_path / "sim" / "simulation_log")
            pytest.fail("\n".join(f"{e['eventtype']} {e['comment'][:80]}" for e in events))
        assert (shared_tmp_path / "told").exists(), stdout + stderr
        return json.loads((shared_tmp_path / "told").read_text())

    return run
