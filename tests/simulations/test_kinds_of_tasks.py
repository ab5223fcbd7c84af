"""All kinds of tasks in one pool: programs with input, callables in processes of their own, slots.

Arguments, environments and files of programs are in ``test_running_tasks.py``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.versions

DRIVER = """
from __future__ import annotations

import asyncio
import colorsys
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

from ipsframework import Component


def wait_for(path):
    deadline = time.monotonic() + 30
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.01)


def pid():
    return os.getpid()


async def later(number, by):
    await asyncio.sleep(0.01)
    return number + by


def where():
    return os.getcwd()


def leave(code):
    os._exit(code)


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def big():
    return b"x" * 20_000_000


def lock():
    return threading.Lock()


def hold(folder):
    # where every callable of this worker would find it
    colorsys.lock = threading.Lock()
    colorsys.lock.acquire()
    Path(folder, "held").touch()
    wait_for(Path(folder, "looked"))
    return hasattr(colorsys, "lock")


def look(folder):
    wait_for(Path(folder, "held"))
    found = hasattr(colorsys, "lock")
    Path(folder, "looked").touch()
    return found


def hog(folder):
    # one call that keeps the lock of its interpreter for a second or more
    wait_for(Path(folder, "ticking"))
    begin = time.time()
    7 ** 5_000_000
    end = time.time()
    Path(folder, "hogged").touch()
    return begin, end


def tick(folder):
    samples = []
    Path(folder, "ticking").touch()
    while not os.path.exists(Path(folder, "hogged")):
        samples.append((time.time(), time.process_time()))
        sum(range(20_000))
        if len(samples) > 100_000:
            break
    return samples


def children():
    child = os.fork()
    if not child:
        time.sleep(300)
    Path("pids").write_text(f"{os.getpid()} {child}")
    time.sleep(300)


def speak():
    print("to the log")
    print("to the errors", file=sys.stderr)
    return os.environ["GREETING"], os.getpid(), sys.stdin.read()


def threads():
    return os.environ["OMP_NUM_THREADS"]


def meet(folder, ours, theirs):
    Path(folder, ours).touch()
    wait_for(Path(folder, theirs))
    return sorted(os.sched_getaffinity(0))


def cores():
    return sorted(os.sched_getaffinity(0))


def busy(folder, name, slots, seconds):
    begin = time.time()
    time.sleep(seconds)
    Path(folder, name).write_text(f"{slots} {begin} {time.time()}")
    return name


BUSY = 'begin=$(date +%s.%N); sleep $3; echo $2 $begin $(date +%s.%N) > "$1"'


def alive(process):
    try:
        return Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Driver(Component):
    def offset(self, number):
        return number + self.base, os.getcwd()

    def step(self, timestamp=0.0, **keywords):
        self.services.create_task_pool("kinds")
        self.cwd = self.services.get_working_dir()
        self.place = Path("a place"), Path("other place")
        for place in self.place:
            place.mkdir()
        self.base = 40
        self.refused()
        self.programs()
        self.callables()
        self.processes()
        values, records = self.go("kinds")
        values |= self.pairs()
        facts = self.judge(values)
        facts["records"] = {
            name: [record.status, record.exit_status, record.error]
            for name, record in records.items()
        }
        self.services.create_task_pool("slots")
        self.slots()
        values, _ = self.go("slots")
        facts["wrong"] = {n: repr(v) for n, v in values.items() if v not in (0, n)}
        self.services.create_task_pool("order")
        for name, priority in (("c", 0), ("a", 5), ("z", -1), ("A", 5), ("b", 2)):
            self.services.add_task("order", name, 2, self.cwd, pid, priority=priority)
        self.go("order")
        print(json.dumps(facts))

    def go(self, pool):
        self.services.submit_tasks(pool, use_dask=True, dask_ppw=2)
        values = self.services.get_finished_tasks(pool)
        return values, self.services.get_task_records(pool)

    def add(self, name, *args, nproc=1, cwd=None, **keywords):
        self.services.add_task("kinds", name, nproc, cwd or self.cwd, *args, **keywords)

    def refused(self):
        try:
            self.add("refused", pid, timeout=5, isolate=False)
        except Exception as error:
            print(error)

    def programs(self):
        Path("a place", "input").write_text("from a file")
        self.add("no stdin", "sh", "-c", "cat > nothing")
        self.add("file", "sh", "-c", "cat > copy", cwd=self.place[0], stdin="input")
        self.add("bytes", "sh", "-c", "cat > bytes", stdin=b"a\\0b\\r\\n")
        self.add("unread", "true", stdin=b"x" * 1_000_000)
        for number in (1, 2):
            command = 'echo "$OMP_NUM_THREADS"'
            self.add(f"omp {number}", "sh", "-c", command, nproc=number, logfile=f"omp {number}")

    def callables(self):
        self.add("worker", pid)
        self.add("coroutine", later, 3, by=4)
        self.add("own coroutine", later, 3, by=4, isolate=True)
        self.add("both", cores, nproc=2, pin=True)
        self.add("free", cores)

    def processes(self):
        self.add("own", pid, isolate=True)
        for place in self.place:
            self.add(f"in {place}", where, cwd=place, isolate=True)
        self.add("worker's place", where, cwd=self.place[0])
        self.add("method", self.offset, 2, cwd=self.place[1], isolate=True)
        self.add("leaves", leave, 3, isolate=True)
        self.add("crashes", crash, isolate=True)
        self.add("big", big, isolate=True)
        self.add("lock", lock, isolate=True)
        self.add("late", children, timeout=2)
        self.add(
            *("speaks", speak),
            cwd=self.place[0],
            task_env={"GREETING": "hi  there"},
            logfile="logs/out",
            errfile="logs/err",
            stdin=b"input",
        )
        self.add("own threads", threads, nproc=2, isolate=True)

    def pairs(self):
        # tasks that wait for each other: a pool of two, for two slots
        values, own = {}, {"isolate": True}
        for pair in (
            [("hold", hold, {}), ("look", look, own)],
            [("hog", hog, own), ("tick", tick, own)],
            [("left", meet, {"pin": True}), ("right", meet, {"pin": True} | own)],
        ):
            pool, names = pair[0][0], [name for name, _, _ in pair]
            self.services.create_task_pool(pool)
            for name, work, keywords in pair:
                args = (name, *(other for other in names if other != name)) if work is meet else ()
                self.services.add_task(pool, name, 1, self.cwd, work, self.cwd, *args, **keywords)
            values |= self.go(pool)[0]
        return values

    def judge(self, values):
        deadline = time.monotonic() + 5
        pids = Path("pids").read_text().split()
        while any(map(alive, pids)) and time.monotonic() < deadline:
            time.sleep(0.02)
        plain = (str, int, list, tuple, bool)
        facts = {name: value for name, value in values.items() if isinstance(value, plain)}
        facts["big"] = len(values["big"])
        facts["alive"] = [each for each in pids if alive(each)]
        return facts

    def slots(self):
        folder = Path("slots")
        folder.mkdir()
        choose = random.Random(4)
        for number in range(60):
            slots, kind = choose.choice((1, 1, 2)), choose.choice(("program", "function", "own"))
            seconds, name = choose.uniform(0.01, 0.15), f"{number} {kind}"
            work = busy, str(folder.absolute()), name, slots, seconds
            if kind == "program":
                work = "sh", "-c", BUSY, "sh", folder.absolute() / name, slots, seconds
            own = {"isolate": True} if kind == "own" else {}
            self.services.add_task("slots", name, slots, self.cwd, *work, **own)
"""


@pytest.fixture
def kinds(simulation: Any, once: Callable[..., Any]) -> Any:
    """One driver's tasks: the outcome, what the driver found, its work directory."""

    def run() -> Any:
        outcome = simulation.write(DRIVER).run()
        assert (outcome.code, outcome.stderr) == (0, "")
        facts = json.loads(outcome.stdout.splitlines()[-1])
        return outcome, facts, simulation.root / "work" / "DRIVER__Driver_1"

    return once("kinds", run)


def test_a_callable_that_must_not_have_a_process_cannot_have_what_needs_one(kinds: Any) -> None:
    outcome, _, _ = kinds
    assert (
        "task refused: timeout= of a callable needs a process of its own: leave out isolate=False"
        in outcome.stdout.splitlines()
    )


def test_a_program_reads_what_it_is_given_and_nothing_else(kinds: Any) -> None:
    _, facts, work = kinds
    assert [facts[name] for name in ("no stdin", "file", "bytes", "unread")] == [0] * 4
    assert (work / "nothing").read_bytes() == b""
    assert (work / "a place" / "copy").read_text() == "from a file"
    assert (work / "bytes").read_bytes() == b"a\0b\r\n"


def test_a_coroutine_function_is_run_to_its_end(kinds: Any) -> None:
    _, facts, _ = kinds
    assert facts["coroutine"] == facts["own coroutine"] == 7


def test_only_isolated_callables_have_processes_and_places_of_their_own(kinds: Any) -> None:
    _, facts, work = kinds
    pids = [facts["worker"], facts["own"], facts["speaks"][1]]
    assert len(set(pids)) == 3
    for place in ("a place", "other place"):
        assert facts[f"in {place}"] == str(work / place)
    assert facts["worker's place"] != str(work / "a place")
    assert facts["method"] == [42, str(work / "other place")]


def test_a_process_of_its_own_sees_no_lock_of_others(kinds: Any) -> None:
    _, facts, _ = kinds
    assert (facts["hold"], facts["look"]) == (True, False)


def test_isolated_callables_share_no_interpreter_lock(kinds: Any) -> None:
    """One uses CPU time while the other is inside a single call that would keep all others out."""
    _, facts, _ = kinds
    begin, end = facts["hog"]
    meanwhile = [cpu for at, cpu in facts["tick"] if begin < at < end]
    assert len(meanwhile) > 10
    assert meanwhile[-1] - meanwhile[0] > 0.1


def test_a_process_that_dies_costs_no_other_task(kinds: Any) -> None:
    outcome, facts, _ = kinds
    records = facts["records"]
    assert records["leaves"] == ["failed", 3, "exit code 3"]
    assert records["crashes"] == ["failed", -11, "crashed (SIGSEGV) in compiled code"]
    good = {name for name, (status, _, _) in records.items() if status == "finished"}
    assert records.keys() - good == {"leaves", "crashes", "lock", "late"}
    assert len(outcome.of_type("IPS_LAUNCH_TASK")) == 1  # one cluster served all
    workers = {event["worker"] for event in outcome.of_type("IPS_LAUNCH_DASK_TASK")}
    assert len(workers) == 1


def test_results_of_processes_may_be_large_but_must_be_picklable(kinds: Any) -> None:
    _, facts, _ = kinds
    assert facts["big"] == 20_000_000
    status, code, error = facts["records"]["lock"]
    assert (status, code) == ("failed", 1)
    assert error.startswith("its result cannot be pickled: TypeError: ")


def test_a_late_callable_ends_with_all_it_started(kinds: Any) -> None:
    _, facts, _ = kinds
    assert facts["records"]["late"] == ["timed_out", -1, "timed out after 2 s"]
    assert facts["alive"] == []


def test_environment_and_files_of_a_callable(kinds: Any) -> None:
    _, facts, work = kinds
    assert facts["speaks"][::2] == ["hi  there", "input"]
    assert (work / "a place" / "logs" / "out").read_text() == "to the log\n"
    assert (work / "a place" / "logs" / "err").read_text() == "to the errors\n"


def test_a_task_is_told_how_many_threads_it_may_have(kinds: Any) -> None:
    _, facts, work = kinds
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert (work / "omp 1").read_text() == f"{share}\n"
    assert (work / "omp 2").read_text() == f"{2 * share}\n"
    assert facts["own threads"] == str(2 * share)


def test_pinned_tasks_have_cores_of_their_own(kinds: Any) -> None:
    _, facts, _ = kinds
    everywhere = sorted(os.sched_getaffinity(0))
    left, right = facts["left"], facts["right"]  # at the same time
    assert len(left) == len(right) == len(everywhere) // 2
    assert not set(left) & set(right)
    assert len(facts["both"]) == 2 * (len(everywhere) // 2)
    assert facts["free"] == everywhere


def test_tasks_never_hold_more_slots_than_there_are(kinds: Any) -> None:
    """By what 60 programs, functions and isolated functions with one or two slots have noted."""
    outcome, facts, work = kinds
    assert facts["wrong"] == {}
    notes = [file.read_text().split() for file in (work / "slots").iterdir()]
    assert len(notes) == 60
    changes = []
    for slots, begin, end in notes:
        changes += [(float(begin), int(slots)), (float(end), -int(slots))]
    held = most = 0
    for _, change in sorted(changes):
        held += change
        most = max(most, held)
    assert most == 2
    ends = {e["task_name"]: e for e in outcome.of_type("IPS_TASK_END") if "task_name" in e}
    assert {ends[file.name]["status"] for file in (work / "slots").iterdir()} == {"finished"}


def test_tasks_of_higher_priority_start_first(kinds: Any) -> None:
    outcome, _, _ = kinds
    names = {"a", "A", "b", "c", "z"}
    launches = [e["task_name"] for e in outcome.of_type("IPS_LAUNCH_DASK_TASK")]
    assert [name for name in launches if name in names] == ["a", "A", "b", "c", "z"]
