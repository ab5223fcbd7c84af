"""The tasks that a component launches, with a framework that gives what is asked for."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ips_core.errors import TaskLaunchError
from ips_core.resources.nodes import Demand, NodeShare, Reservation
from ips_core.tasks.launcher import TaskLauncher
from ips_core.tasks.single_tasks import SingleTasks
from ips_core.tasks.task import Task

#: A launcher that starts one process, here.
LAUNCHER = """#!/bin/sh
while [ "$1" != /bin/sh ]; do shift; done
exec "$@"
"""


class Link:
    """A framework that gives everybody two processes of two cores on a node."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.events: list[str] = []

    def ask(self, service: str, *arguments: Any) -> Any:
        self.asked.append(service)
        allocation = Reservation(7, (NodeShare("n2", 2, 4),))
        return {"allocate": allocation, "new_task_id": self.asked.count(service)}.get(service)

    def emit(self, eventtype: str, comment: str, **fields: Any) -> None:
        self.events.append(eventtype)


@pytest.fixture
def link() -> Link:
    return Link()


@pytest.fixture
def tasks_by(link: Link) -> Iterator[Callable[[str], SingleTasks]]:
    """``tasks_by("mpiexec")``: single tasks with that ``MPIRUN``."""
    with contextlib.ExitStack() as stack:

        def make(mpirun: str) -> SingleTasks:
            logger = logging.getLogger("test_single_tasks")
            tasks = SingleTasks(link, lambda: TaskLauncher(mpirun, False), logger)
            stack.callback(tasks.close)
            return tasks

        yield make


@pytest.mark.parametrize(
    ("mpirun", "omp", "own", "given", "expected"),
    [
        ("mpiexec", False, None, {}, "2"),
        ("mpiexec", False, "7", {}, "7"),
        ("mpiexec", True, "7", {}, "2"),
        ("mpiexec", True, None, {"OMP_NUM_THREADS": "5"}, "5"),
        ("eval", False, None, {}, str(len(os.sched_getaffinity(0)))),
        ("eval", False, "7", {}, "7"),
        ("eval", True, "7", {}, "2"),
    ],
)
def test_openmp_threads_are_those_that_somebody_asked_for(
    tasks_by: Callable[[str], SingleTasks],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mpirun: str,
    omp: bool,
    own: str | None,
    given: dict[str, str],
    expected: str,
) -> None:
    (tmp_path / "mpiexec").write_text(LAUNCHER)
    (tmp_path / "mpiexec").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if own is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    script = "echo $OMP_NUM_THREADS > omp"
    task = Task("t", 2, str(tmp_path), "/bin/sh", "-c", script, omp=omp, task_env=given)
    tasks = tasks_by(mpirun)
    assert tasks.wait(tasks.launch(task, Demand(2))) == 0
    assert (tmp_path / "omp").read_text() == f"{expected}\n"


def test_cores_are_given_back_if_there_is_no_such_launcher(
    tasks_by: Callable[[str], SingleTasks], link: Link
) -> None:
    tasks = tasks_by("aprun")
    with pytest.raises(ValueError, match="MPIRUN = aprun"):
        tasks.launch(Task("t", 1, "/", "true"), Demand(1))
    assert (link.asked[0], link.asked[-1]) == ("allocate", "release")
    assert (tasks.tasks, link.events) == ({}, [])


def test_cores_are_given_back_if_the_launcher_is_not_there(
    tasks_by: Callable[[str], SingleTasks], link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = tasks_by("mpirun")
    task = Task("t", 1, "/", "true")
    monkeypatch.setenv("PATH", "/nope")
    with pytest.raises(TaskLaunchError, match="task t: program mpirun not found on "):
        tasks.launch(task, Demand(1))
    assert link.asked == ["allocate", "new_task_id", "release"]
    assert (tasks.tasks, link.events) == ({}, [])


def test_none_is_forgotten_if_one_of_several_is_not_there(
    tasks_by: Callable[[str], SingleTasks],
) -> None:
    tasks = tasks_by("eval")
    task_id = tasks.launch(Task("t", 1, "/", "true"), Demand(1))
    with pytest.raises(KeyError, match="no task 99, or it was waited for already"):
        tasks.wait_for([task_id, 99])
    with pytest.raises(KeyError, match="no task 99"):
        tasks.kill([task_id, 99])
    assert tasks.wait_for([task_id, task_id]) == {task_id: 0}


def test_no_time_is_too_long_to_wait(
    tasks_by: Callable[[str], SingleTasks], tmp_path: Path
) -> None:
    tasks = tasks_by("eval")
    for seconds in (1e10, float("inf")):
        task_id = tasks.launch(Task("t", 1, str(tmp_path), "/bin/true"), Demand(1))
        assert tasks.wait(task_id, seconds) == 0


@pytest.mark.parametrize("failing", ["release", "IPS_TASK_END"])
def test_nobody_waits_for_ever_if_an_end_cannot_be_told(
    tasks_by: Callable[[str], SingleTasks],
    link: Link,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failing: str,
) -> None:
    method = "ask" if failing == "release" else "emit"
    works = getattr(link, method)

    def fail(name: str, *arguments: Any, **fields: Any) -> Any:
        if name == failing:
            raise TypeError("cannot be sent")
        return works(name, *arguments, **fields)

    monkeypatch.setattr(link, method, fail)
    tasks = tasks_by("eval")
    task_id = tasks.launch(Task("t", 1, "/", "/bin/sh", "-c", "exit 3"), Demand(1))
    record = tasks.tasks[task_id]
    assert tasks._await([record], 30)
    assert tasks.wait(task_id) == 3
    assert "TypeError: cannot be sent" in caplog.text
