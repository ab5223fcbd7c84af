"""Short tasks travel together; nobody but Dask can tell."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

SHORT = 300
DRIVER = """
from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from ipsframework import Component

LONG_PROGRAM = 'touch "begun $1"; echo $$ > "pid $1"; exec sleep 300'


def wait_for(look):
    deadline = time.monotonic() + 50
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


def short(folder, number):
    from distributed.worker import thread_state

    begin = time.time()
    Path(folder, f"short {number}").touch()
    return thread_state.key, begin, time.time()


def long(folder, count):
    # it ends after all the others have, and somebody has seen its start
    wait_for(lambda: os.path.exists(f"{folder}/seen"))
    wait_for(lambda: sum(name.startswith("short") for name in os.listdir(folder)) == count)


def note(folder, what, number):
    with open(Path(folder, "notes"), "a") as file:
        file.write(f"{what} {number}\\n")


def deadly(folder, number, deadly):
    note(folder, "begin", number)
    mark = Path(folder, "killed")
    if number == deadly and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    note(folder, "end", number)


def alive(process):
    try:
        return Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Driver(Component):
    def step(self, timestamp=0.0, **keywords):
        self.cwd = self.services.get_working_dir()
        facts = {"short": self.short(), "cancelled": self.cancelled(), "killed": self.killed()}
        print(json.dumps(facts))

    def submit(self, pool):
        self.services.submit_tasks(pool, use_dask=True, dask_ppw=2)

    def add(self, pool, name, *work):
        self.services.add_task(pool, name, 1, self.cwd, *work)

    def short(self):
        self.services.create_task_pool("short")
        for number in range(300):
            if number == 100:
                self.add("short", "long", long, self.cwd, 300)
            work = short, self.cwd, number
            if number % 2:
                work = "touch", f"short {number}"
            self.add("short", f"s{number}", *work)
        self.submit("short")
        return self.services.get_finished_tasks("short")

    def cancelled(self):
        self.services.create_task_pool("cancelled")
        for number in range(100):
            self.add("cancelled", f"c{number}", "true")
        for number in range(100, 200):
            self.add("cancelled", f"c{number}", "sh", "-c", LONG_PROGRAM, "sh", number)
        self.submit("cancelled")
        files = Path().glob
        wait_for(lambda: any(file.read_text().strip() for file in files("pid *")))
        self.services.task_pools["cancelled"].terminate_tasks()
        pids = [file.read_text().strip() for file in files("pid *")]
        records = self.services.get_task_records("cancelled").values()
        return {
            "alive": [pid for pid in pids if alive(pid)],
            "begun": sorted(file.name.removeprefix("begun ") for file in files("begun *")),
            "records": [[r.name, r.status, r.attempts] for r in records],
        }

    def killed(self):
        self.services.create_task_pool("killed")
        for number in range(200):
            self.add("killed", f"k{number}", deadly, self.cwd, number, 150)
        self.submit("killed")
        self.services.get_finished_tasks("killed")
        records = self.services.get_task_records("killed").values()
        return [[r.name, r.status, r.attempts] for r in records]
"""


@pytest.fixture
def chunks(simulation: Any, once: Callable[..., Any], wait_until: Callable[..., Any]) -> Any:
    """One driver's pools: the outcome, what it says, its directory, the log while one runs."""

    def run() -> Any:
        running = simulation.write(DRIVER).start()
        folder = simulation.root / "work" / "DRIVER__Driver_1"
        wait_until(lambda: "long" in running.launched(1), 30, "the start of the long task")

        def seen() -> Any:
            events = simulation.events()
            ends = [e["task_name"] for e in events if e["eventtype"] == "IPS_TASK_END"]
            return ends if len(ends) >= SHORT else []

        ends = wait_until(seen, 30, "the end of the short tasks")
        (folder / "seen").touch()
        outcome = running.finish()
        told, *others = outcome.stderr.splitlines()
        assert others == []
        assert "was killed by signal 9" in told
        assert outcome.code == 0
        return outcome, json.loads(outcome.stdout.splitlines()[-1]), folder, ends

    return once("chunks", run)


def of_pool(outcome: Any, letter: str, eventtype: str) -> list[dict[str, Any]]:
    """Events of the tasks named by a letter and a number."""
    events = outcome.of_type(eventtype)
    return [e for e in events if e["task_name"][0] == letter and e["task_name"][1:].isdigit()]


def test_short_tasks_travel_together(chunks: Any) -> None:
    _, facts, _, _ = chunks
    keys = Counter(value[0] for value in facts["short"].values() if isinstance(value, list))
    assert sum(keys.values()) == SHORT / 2
    assert len(keys) < SHORT / 4
    # in words on the dashboard: the first one's name, and how many there are
    assert any(" x " in key for key in keys)
    assert all(key.startswith("s") for key in keys)


def test_a_long_task_keeps_no_other_waiting(chunks: Any) -> None:
    _, facts, _, ends = chunks
    assert facts["short"]["long"] is None
    assert sorted(ends) == sorted(f"s{number}" for number in range(SHORT))


def test_each_has_its_own_times_and_events(chunks: Any) -> None:
    outcome, facts, _, _ = chunks
    launches = {e["task_name"]: e for e in of_pool(outcome, "s", "IPS_LAUNCH_DASK_TASK")}
    ends = {e["task_name"]: e for e in of_pool(outcome, "s", "IPS_TASK_END")}
    assert launches.keys() == ends.keys() == facts["short"].keys() - {"long"}
    assert len(of_pool(outcome, "s", "IPS_TASK_END")) == SHORT
    (long_end,) = [e for e in outcome.of_type("IPS_TASK_END") if e["task_name"] == "long"]
    (long_launch,) = [
        e for e in outcome.of_type("IPS_LAUNCH_DASK_TASK") if e["task_name"] == "long"
    ]
    for name, end in ends.items():
        assert end.keys() == long_end.keys()
        assert launches[name].keys() == long_launch.keys()
        assert (end["ok"], end["status"], end["exit_status"], end["attempt"]) == (
            *(True, "finished", 0, 1),
        )
        assert launches[name]["start_time"] == end["start_time"]
        assert launches[name]["worker"] == end["worker"]
        assert 0 < end["elapsed_time"] < long_end["elapsed_time"]
    for name, value in facts["short"].items():
        if isinstance(value, list):
            begin = ends[name]["start_time"]
            end = begin + ends[name]["elapsed_time"] + 0.001
            assert begin <= value[1] <= value[2] <= end


def test_cancelling_reaches_inside(chunks: Any) -> None:
    outcome, facts, _, _ = chunks
    seen = facts["cancelled"]
    assert seen["alive"] == []
    assert 1 <= len(seen["begun"]) <= 2  # there are two slots, and nothing began afterwards
    statuses = {name: status for name, status, _ in seen["records"]}
    running = {f"c{number}" for number in seen["begun"]}
    assert {name for name, status in statuses.items() if status == "cancelled"} >= running
    finished = {name for name, status in statuses.items() if status == "finished"}
    assert finished <= {f"c{number}" for number in range(100)}
    assert len(statuses) == 200
    assert Counter(statuses.values())["not_started"] >= 90
    ends = {e["task_name"]: e["status"] for e in of_pool(outcome, "c", "IPS_TASK_END")}
    assert {ends[name] for name in running} == {"cancelled"}


def test_of_those_with_a_deadly_one_none_that_had_ended_runs_again(chunks: Any) -> None:
    outcome, facts, folder, _ = chunks
    notes = Counter((folder / "notes").read_text().splitlines())
    attempts = {name: number for name, _, number in facts["killed"]}
    assert {status for _, status, _ in facts["killed"]} == {"finished"}
    again = [number for number in range(200) if attempts[f"k{number}"] > 1]
    assert 150 in again
    assert len(again) <= 2  # the other slot may have been inside of one
    for number in range(200):
        begins, ends = notes[f"begin {number}"], notes[f"end {number}"]
        if number in again:
            # the one in the other slot may have been killed before it could note anything
            assert (attempts[f"k{number}"], 1 <= ends <= begins <= 2) == (2, True)
        else:
            assert (begins, ends) == (1, 1)
    assert notes["begin 150"] == 2
    told = of_pool(outcome, "k", "IPS_TASK_END")
    lost = [e for e in told if not e["ok"]]
    assert sorted(e["task_name"] for e in lost) == sorted(f"k{number}" for number in again)
    assert {(e["status"], e["attempt"], e["exit_status"]) for e in lost} == {("lost", 1, None)}
    assert len(told) == 200 + len(again)
