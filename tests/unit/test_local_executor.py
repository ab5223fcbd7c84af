"""Tasks without Dask: real processes, and cores that are handed out here."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ips_core.errors import TaskPoolError
from ips_core.pools.attempt import Attempt
from ips_core.pools.executor import Ended, ExecutorEvent, Requeued, Started
from ips_core.pools.local.local_executor import LocalExecutor
from ips_core.tasks.launch import Launch
from ips_core.tasks.runner import Runner
from ips_core.tasks.task import Task

WaitUntil = Callable[..., Any]
NAP = "sleep 60"


class Cores:
    """Hands out cores, one a task, and counts."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._changed = threading.Condition()
        self.held: set[str] = set()
        self.most = self.allocated = self.released = 0
        self.asking = 0
        self.refusal: Exception | None = None

    def allocate(self, task: Task) -> str:
        with self._changed:
            if self.refusal is not None:
                raise self.refusal
            self.asking += 1
            assert self._changed.wait_for(lambda: self._free > 0, 60)
            self.asking -= 1
            self._free -= 1
            self.allocated += 1
            self.held.add(task.name)
            self.most = max(self.most, len(self.held))
            return task.name

    def release(self, allocation: str) -> None:
        with self._changed:
            self.released += 1
            self.held.remove(allocation)
            self._free += 1
            self._changed.notify()


def as_it_is(task: Task, allocation: str) -> Launch:
    return list(task.argv), {"ALLOCATION": allocation, "WHOSE": "launch"}


class Heard:
    """What an executor tells."""

    def __init__(self) -> None:
        self.all: list[ExecutorEvent] = []

    def post(self, news: ExecutorEvent) -> None:
        self.all.append(news)

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        return {each.key: each.record for each in self.all if isinstance(each, Ended)}

    @property
    def begun(self) -> list[str]:
        return [each.key for each in self.all if isinstance(each, Started)]

    @property
    def given_back(self) -> list[str]:
        return [key for each in self.all if isinstance(each, Requeued) for key in each.keys]


@pytest.fixture
def cores() -> Cores:
    return Cores(2)


@pytest.fixture
def news() -> Heard:
    return Heard()


@pytest.fixture
def start(cores: Cores, news: Heard) -> Iterator[Callable[..., LocalExecutor]]:
    """``start(slots=..., launch=...)``: an executor that is closed in the end."""
    executors = []

    def start(slots: int = 4, launch: Callable[..., Launch] = as_it_is) -> LocalExecutor:
        executor = LocalExecutor(
            "pool", Runner("local"), slots, cores.allocate, cores.release, launch
        )
        executors.append(executor)
        executor.start(news.post)
        return executor

    yield start
    for executor in executors:
        executor.close()


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., Attempt]:
    """``shell(name, script)``: an attempt at a task that runs in ``tmp_path``."""

    def shell(name: str, script: str, **keywords: Any) -> Attempt:
        task = Task(name, 1, str(tmp_path), "/bin/sh", "-c", script, **keywords)
        return Attempt(task, name)

    return shell


def outcome(record: dict[str, Any]) -> tuple[str, int, str]:
    return record["status"], record["exit_status"], record["error"]


def test_results_and_news(start, shell, news, wait_until, tmp_path) -> None:
    executor = start()
    executor.submit([shell("good", "pwd > where")])
    executor.submit([shell("bad", "exit 3"), shell("shot", "kill -SEGV $$")])
    wait_until(lambda: len(news.records) == 3, 20, "three records")
    assert outcome(news.records["good"]) == ("finished", 0, "")
    assert news.records["bad"]["exit_status"] == 3
    assert news.records["shot"]["exit_status"] == -11
    assert sorted(news.begun) == ["bad", "good", "shot"]
    assert (tmp_path / "where").read_text().strip() == str(tmp_path)


def test_never_more_at_a_time_than_there_are_cores(start, shell, cores, news, wait_until) -> None:
    executor = start(slots=8)
    executor.submit([shell(f"t{number}", "sleep 0.05") for number in range(20)])
    wait_until(lambda: len(news.records) == 20, 30, "all records")
    assert {record["status"] for record in news.records.values()} == {"finished"}
    assert cores.most == 2
    wait_until(lambda: cores.released == 20, 5, "all cores back")
    assert cores.allocated == 20


def test_threads_are_as_many_as_slots(start, shell, cores, wait_until) -> None:
    before = threading.active_count()
    executor = start(slots=3)
    executor.submit([shell(f"t{number}", NAP) for number in range(20)])
    wait_until(lambda: len(cores.held) == 2 and cores.asking == 1, 10, "two run, one waits")
    assert threading.active_count() - before == 3


def test_task_that_never_fits_is_told_at_once(start, tmp_path) -> None:
    executor = start(slots=3)
    assert executor.why_not(Task("t1", 3, str(tmp_path), "true")) == ""
    assert executor.why_not(Task("t1", 4, str(tmp_path), "true")) == (
        "nproc = 4, but there are 3 cores"
    )


def test_submit_does_not_wait_for_cores(start, shell, cores, wait_until) -> None:
    executor = start()
    executor.submit([shell("a", NAP), shell("b", NAP)])
    wait_until(lambda: len(cores.held) == 2, 10, "all cores taken")
    begin = time.monotonic()
    executor.submit([shell("c", NAP)])
    assert time.monotonic() - begin < 5


def test_program_is_started_as_the_platform_says(start, shell, news, wait_until, tmp_path) -> None:
    def under_env(task: Task, allocation: str) -> Launch:
        argv, variables = as_it_is(task, allocation)
        return ["/usr/bin/env", "LAUNCHER=env", *argv], variables

    script = 'echo "$LAUNCHER $ALLOCATION $WHOSE" > out'
    start(launch=under_env).submit([shell("t1", script, task_env={"WHOSE": "task"})])
    wait_until(lambda: news.records, 20, "a record")
    assert outcome(news.records["t1"]) == ("finished", 0, "")
    assert (tmp_path / "out").read_text() == "env t1 task\n"


def test_callable_gets_its_arguments_and_a_process_of_its_own(
    start, news, wait_until, tmp_path
) -> None:
    def who(*given: int) -> tuple[int, str, tuple[int, ...]]:
        return os.getpid(), os.getcwd(), given

    start().submit([Attempt(Task("who", 1, str(tmp_path), who, 1, 2), "who")])
    wait_until(lambda: news.records, 30, "a record")
    pid, directory, given = news.records["who"]["value"]
    assert (directory, given) == (str(tmp_path), (1, 2))
    assert pid != os.getpid()


@pytest.mark.parametrize("where", ["launch", "runner"])
def test_cores_come_back_when_the_start_fails(
    start, shell, cores, news, wait_until, tmp_path, where
) -> None:
    def broken(task: Task, allocation: str) -> Launch:
        if where == "launch":
            raise ValueError("no such launcher")
        return [str(tmp_path / "nope")], {}

    start(launch=broken).submit([shell("t1", "true")])
    wait_until(lambda: news.records, 20, "a record")
    assert cores.released == cores.allocated == 1
    status, code, error = outcome(news.records["t1"])
    assert status == "failed"
    assert code == {"launch": 126, "runner": 127}[where]
    assert {"launch": "no such launcher", "runner": "nope"}[where] in error


def test_task_that_gets_no_cores_ends_with_the_reason(
    start, shell, cores, news, wait_until
) -> None:
    cores.refusal = TaskPoolError("16 cores on a node: the largest has 2")
    executor = start()
    executor.submit([shell("t1", "true")])
    wait_until(lambda: "t1" in news.records, 20, "a record")
    assert outcome(news.records["t1"]) == (
        "failed",
        126,
        "it could not be started: 16 cores on a node: the largest has 2",
    )
    cores.refusal = None
    executor.submit([shell("t2", "true")])
    wait_until(lambda: "t2" in news.records, 20, "the next one")
    assert news.records["t2"]["status"] == "finished"
    assert cores.released == cores.allocated == 1


def test_hold_gives_back_what_has_not_begun(
    start, shell, cores, news, wait_until, tmp_path
) -> None:
    executor = start(slots=3)
    until = "while [ ! -e go ]; do sleep 0.05; done"
    executor.submit([shell(f"t{number}", until) for number in range(5)])
    wait_until(lambda: len(news.begun) == 2 and cores.asking == 1, 10, "two run, one waits")
    executor.hold()
    assert sorted(news.given_back) == sorted({f"t{n}" for n in range(5)} - set(news.begun))
    executor.submit([shell("late", "true")])
    assert news.given_back[-1] == "late"
    (tmp_path / "go").touch()
    wait_until(lambda: len(news.records) == 2, 20, "what ran goes on to its end")
    assert {record["status"] for record in news.records.values()} == {"finished"}
    # the one that waited gets its cores now, and gives them back
    wait_until(lambda: cores.allocated == cores.released == 3, 20, "all cores back")
    assert len(news.begun) == 2


def test_cancel_ends_whole_process_groups(start, shell, cores, news, wait_until, tmp_path) -> None:
    executor = start()
    script = f"{NAP} & echo $! > pid-$ALLOCATION; trap '' TERM; wait; wait; {NAP}"
    executor.submit([shell(f"t{number}", script) for number in range(4)])
    pids = wait_until(lambda: pids_in(tmp_path, 2), 10, "two that run")
    begin = time.monotonic()
    executor.cancel()
    assert time.monotonic() - begin < 10
    assert [pid for pid in pids if is_alive(pid)] == []
    assert sorted(news.records) == sorted(news.begun)
    assert {record["status"] for record in news.records.values()} == {"cancelled"}
    assert len(news.records) + len(news.given_back) == 4
    assert not cores.held


def test_close_ends_what_runs_and_its_threads(start, shell, news, cores, wait_until) -> None:
    before = threading.active_count()
    executor = start()
    executor.submit([shell("t1", NAP)])
    wait_until(lambda: news.begun, 10, "it runs")
    assert executor.close() == ""
    assert news.records["t1"]["status"] == "cancelled"
    assert threading.active_count() == before
    assert executor.close() == ""


def test_close_tells_of_cores_that_nobody_takes_back(
    start, shell, news, cores, wait_until, monkeypatch
) -> None:
    def gone(allocation: str) -> None:
        raise TaskPoolError("the framework is gone")

    monkeypatch.setattr(cores, "release", gone)
    executor = start()
    executor.submit([shell("t1", "true")])
    wait_until(lambda: news.records, 20, "a record")
    assert news.records["t1"]["status"] == "finished"
    assert executor.close() == "cores could not be given back: the framework is gone"


def test_close_ends_what_has_left_its_process_group(
    start, shell, news, wait_until, tmp_path
) -> None:
    executor = start()
    executor.submit([shell("t1", f"setsid {NAP} & echo $! > pid-1")])
    wait_until(lambda: news.records, 20, "a record")
    (pid,) = pids_in(tmp_path, 1)
    assert is_alive(pid)
    assert executor.close() == ""
    assert not is_alive(pid)


OWNER = """
import sys, time
from ips_core.pools.executor import Attempt
from ips_core.pools.local.local_executor import LocalExecutor
from ips_core.tasks.task import Task
from ips_core.tasks.runner import Runner
executor = LocalExecutor(
    "pool", Runner("local"), 2, lambda task: task, lambda task: None,
    lambda task, allocation: (list(task.argv), {}),
)
executor.start(lambda news: None)
script = "trap '' TERM; sleep 60 & echo $$ > pid-1; echo $! > pid-2; wait; wait"
executor.submit([Attempt(Task("t1", 1, sys.argv[1], "/bin/sh", "-c", script), "t1")])
time.sleep(60)
"""


def test_tasks_do_not_outlive_a_component_that_is_killed(tmp_path, wait_until) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)])
    try:
        pids = wait_until(lambda: pids_in(tmp_path, 2), 20, "a task that runs")
    finally:
        owner.kill()
        owner.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in pids), 10, "all gone")


def pids_in(folder: Path, count: int) -> list[int]:
    pids = [int(text) for path in folder.glob("pid-*") if (text := path.read_text().strip())]
    return pids if len(pids) == count else []


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] != "Z"
