"""A task pool: its names, its order, and where programs are looked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ips_core.errors import TaskPoolError
from ips_core.pools import TaskPool

Program = Callable[..., Path]


class FakeRun:
    """A submission that is done."""

    cancelled = False

    def ended(self) -> bool:
        return True

    def results(self) -> dict[str, Any]:
        return {"t2": 0, "t1": 3}

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def pool() -> TaskPool:
    return TaskPool("pool")


def add(pool: TaskPool, *names: str, binary: Any = "/bin/sh") -> None:
    for name in names:
        pool.add_task(name, 1, "/w", binary, "a b", timeout=3)


def message(call: Callable[..., object], *args: Any, **keywords: Any) -> str:
    with pytest.raises(TaskPoolError) as caught:
        call(*args, **keywords)
    return str(caught.value)


def test_tasks_are_taken_in_the_order_of_adding_and_once(pool: TaskPool) -> None:
    add(pool, "t2", "t10", "t1")
    assert list(pool.queued_tasks) == ["t2", "t10", "t1"]
    taken = pool.take_tasks(in_container=False)
    assert [task.name for task in taken] == ["t2", "t10", "t1"]
    assert (taken[0].argv, taken[0].timeout) == (("/bin/sh", "a b"), 3.0)
    assert pool.take_tasks(in_container=False) == []


def test_name_is_new_until_the_tasks_are_taken(pool: TaskPool) -> None:
    add(pool, "t1")
    assert message(add, pool, "t1") == "Duplicate task name t1 in task pool pool"
    pool.take_tasks(in_container=False)
    add(pool, "t1")
    assert list(pool.queued_tasks) == ["t1"]


NOT_THERE = "task t1 of pool pool: Program solve is not in path or is not executable"


def test_missing_program_is_an_error_at_once(pool: TaskPool, program: Program) -> None:
    assert message(add, pool, "t1", binary="solve") == NOT_THERE
    assert pool.queued_tasks == {}


def test_with_shifter_a_missing_program_is_an_error_of_the_submission(
    pool: TaskPool, program: Program
) -> None:
    program("shifter")
    add(pool, "t1", binary="solve -x")
    assert message(pool.take_tasks, in_container=False) == NOT_THERE
    (task,) = pool.take_tasks(in_container=True)
    assert task.argv == ("solve", "-x", "a b")


def test_container_is_asked_for_the_program_by_its_name(pool: TaskPool, program: Program) -> None:
    """Where this host has one of the same name, its path is nothing to the container."""
    program("shifter")
    program("solve")
    add(pool, "t1", binary="solve")
    (task,) = pool.take_tasks(in_container=True)
    assert task.argv == ("solve", "a b")


def test_results_are_given_once(pool: TaskPool) -> None:
    none = "No more active tasks in task pool pool"
    assert message(pool.get_finished_tasks) == none
    pool.run = FakeRun()
    assert pool.get_finished_tasks() == {"t2": 0, "t1": 3}
    assert message(pool.get_finished_tasks) == none


def test_terminated_pool_has_nothing_left(pool: TaskPool) -> None:
    run = pool.run = FakeRun()
    add(pool, "t1")
    pool.terminate_tasks()
    assert run.cancelled
    assert (pool.run, pool.queued_tasks) == (None, {})
    pool.terminate_tasks()
