"""A task pool: its names, its order, its results, and where programs are looked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ips_core.errors import TaskPoolError
from ips_core.pools.pool import TaskPool
from ips_core.pools.results import Results
from ips_core.tasks.record import TaskRecord
from ips_core.tasks.task import Task

Program = Callable[..., Path]
NONE = "No more active tasks in task pool pool"


class FakeSubmission:
    """A submission that does what the test says."""

    def __init__(self, *names: str) -> None:
        self.results = Results(names)
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        self.results.end(None)

    def finish(self, *names: str, ended: bool = False) -> None:
        self.results.put([(TaskRecord(name, "finished", 0, name.upper()), True) for name in names])
        if ended:
            self.results.end(None)


@pytest.fixture
def pool() -> TaskPool:
    return TaskPool("pool")


def add(pool: TaskPool, *names: str, binary: Any = "/bin/sh") -> None:
    for name in names:
        pool.add_task(name, 1, "/", binary, "a b", timeout=3)


def submit(pool: TaskPool, *names: str, in_parts: bool = False) -> FakeSubmission:
    add(pool, *names)
    pool.check(in_container=False)
    submission = FakeSubmission(*names)
    pool.begin(submission, in_parts)
    return submission


def taken(pool: TaskPool, in_container: bool = False) -> list[Task]:
    source = pool.source(in_container)
    found = []
    while (item := source.take()) is not None:
        found.append(item[0])
    return found


def message(call: Callable[..., object], *args: Any, **keywords: Any) -> str:
    with pytest.raises(TaskPoolError) as caught:
        call(*args, **keywords)
    return str(caught.value)


# Adding.


def test_tasks_are_in_the_order_of_adding(pool: TaskPool) -> None:
    add(pool, "t2", "t10", "t1")
    assert list(pool.queued_tasks) == ["t2", "t10", "t1"]
    tasks = taken(pool)
    assert [task.name for task in tasks] == ["t2", "t10", "t1"]
    assert (tasks[0].argv, tasks[0].timeout) == (("/bin/sh", "a b"), 3.0)


def test_name_is_new_until_the_tasks_are_submitted(pool: TaskPool) -> None:
    add(pool, "t1")
    assert message(add, pool, "t1") == "Duplicate task name t1 in task pool pool"
    submit(pool).finish(ended=True)
    add(pool, "t1")
    assert list(pool.queued_tasks) == ["t1"]


NOT_THERE = "task t1 of pool pool: Program solve is not in path or is not executable"


def test_missing_program_is_an_error_at_once(pool: TaskPool, program: Program) -> None:
    assert message(add, pool, "t1", binary="solve") == NOT_THERE
    assert pool.queued_tasks == {}


def test_missing_directory_is_an_error_at_once(pool: TaskPool) -> None:
    text = message(pool.add_task, "t1", 1, "/no/such/place", "/bin/sh")
    assert text == "task t1 of pool pool: there is no directory /no/such/place"
    assert pool.queued_tasks == {}


def test_with_shifter_a_missing_program_is_an_error_of_the_submission(
    pool: TaskPool, program: Program
) -> None:
    program("shifter")
    add(pool, "t1", binary="solve -x")
    assert message(pool.check, in_container=False) == NOT_THERE
    pool.check(in_container=True)
    (task,) = taken(pool, in_container=True)
    assert (task.argv, task.missing) == (("solve", "-x", "a b"), "")


def test_container_is_asked_for_the_program_by_its_name(pool: TaskPool, program: Program) -> None:
    """Where this host has one of the same name, its path is nothing to the container."""
    program("shifter")
    path = program("solve")
    add(pool, "t1", binary="solve")
    (here,) = taken(pool)
    (there,) = taken(pool, in_container=True)
    assert (here.argv, there.argv) == ((str(path), "a b"), ("solve", "a b"))


def test_iterable_comes_after_the_tasks_and_is_looked_at_in_its_turn(pool: TaskPool) -> None:
    asked: list[str] = []

    def tasks() -> Iterator[Task]:
        asked.append("b")
        yield Task("b", 1, "/", "/bin/sh")

    pool.add_tasks(tasks(), keep_results=False)
    add(pool, "a")
    pool.check(in_container=False)
    source = pool.source(in_container=False)
    first = source.take()
    assert first is not None
    assert (first[0].name, first[1], asked) == ("a", True, [])
    second = source.take()
    assert second is not None
    assert (second[0].name, second[1]) == ("b", False)


def test_what_cannot_be_iterated_is_an_error_at_once(pool: TaskPool) -> None:
    assert message(pool.add_tasks, 3, True) == "pool pool: expected an iterable of Task, found 3"
    assert message(pool.check, False).startswith("pool pool has no tasks")


def test_empty_pool_is_an_error(pool: TaskPool) -> None:
    text = "pool pool has no tasks: call add_task before submit_tasks"
    assert message(pool.check, in_container=False) == text
    submit(pool, "a").finish(ended=True)
    pool.get_finished_tasks()
    assert message(pool.check, in_container=False) == text


# Results.


def test_results_are_given_once_in_the_order_of_adding(pool: TaskPool) -> None:
    assert message(pool.get_finished_tasks) == NONE
    submit(pool, "b", "a").finish("a", "b", ended=True)
    assert list(pool.get_finished_tasks().items()) == [("b", "B"), ("a", "A")]
    assert message(pool.get_finished_tasks) == NONE
    assert message(pool.iter_finished_tasks) == NONE
    assert list(pool.records()) == ["b", "a"]


def test_results_so_far(pool: TaskPool) -> None:
    submission = submit(pool, "a", "b", "c")
    assert pool.get_finished_tasks(block=False) == {}
    submission.finish("c")
    assert pool.get_finished_tasks(block=False) == {"c": "C"}
    submission.finish("a", "b")
    assert list(pool.get_finished_tasks(block=False)) == ["a", "b", "c"]
    submission.finish(ended=True)
    assert list(pool.get_finished_tasks()) == ["a", "b", "c"]
    assert message(pool.get_finished_tasks, False) == NONE


def test_results_in_parts_are_those_since_the_last_call(pool: TaskPool) -> None:
    submission = submit(pool, "a", "b", "c", in_parts=True)
    submission.finish("b")
    assert pool.get_finished_tasks() == {"b": "B"}
    assert pool.get_finished_tasks(block=False) == {}
    submission.finish("c", "a", ended=True)
    assert pool.get_finished_tasks() == {"a": "A", "c": "C"}
    assert message(pool.get_finished_tasks) == NONE
    assert list(pool.records()) == ["a", "b", "c"]


@pytest.mark.parametrize("in_parts", [False, True])
def test_results_that_come_during_a_call_are_those_of_the_next(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch, in_parts: bool
) -> None:
    submission = submit(pool, "a", "b", "c", in_parts=in_parts)
    submission.finish("a")
    values = submission.results.values

    def values_just_before_the_end(since: int) -> dict[str, Any]:
        found = values(since)
        submission.finish("b", "c", ended=True)
        return found

    monkeypatch.setattr(submission.results, "values", values_just_before_the_end)
    assert pool.get_finished_tasks(block=False) == {"a": "A"}
    monkeypatch.undo()
    later = {"b": "B", "c": "C"}
    assert pool.get_finished_tasks() == (later if in_parts else {"a": "A"} | later)


def test_error_of_the_submission_is_raised_once_and_costs_no_record(pool: TaskPool) -> None:
    submission = submit(pool, "a", "b")
    submission.finish("a")
    submission.results.end(TaskPoolError("its tasks ended early"))
    assert message(pool.get_finished_tasks) == "its tasks ended early"
    assert message(pool.get_finished_tasks) == NONE
    assert list(pool.records()) == ["a"]


def test_records_come_one_by_one(pool: TaskPool) -> None:
    submission = submit(pool, "a", "b")
    iterator = pool.iter_finished_tasks()
    submission.finish("b")
    assert next(iterator).name == "b"
    submission.finish("a", ended=True)
    assert [record.value for record in iterator] == ["A"]


def test_progress_is_that_of_the_last_submission(pool: TaskPool) -> None:
    assert pool.progress == (0, 0)
    submission = submit(pool, "a", "b", "c")
    submission.finish("b")
    submission.results.put([(TaskRecord("a", "failed", 1), True)])
    assert pool.progress == (2, 1)
    assert not pool.wait(0.01)
    submission.finish(ended=True)
    assert pool.wait(30)
    submit(pool_after(pool), "d")
    assert pool.progress == (0, 0)


def pool_after(pool: TaskPool) -> TaskPool:
    pool.get_finished_tasks()
    return pool


@pytest.mark.parametrize(("ended", "what"), [(False, "is running"), (True, "has results")])
def test_pool_is_submitted_again_when_its_results_are_taken(
    pool: TaskPool, ended: bool, what: str
) -> None:
    submission = submit(pool, "a")
    add(pool, "b")
    submission.finish("a", ended=ended)
    assert message(pool.check, in_container=False) == (
        f"pool pool {what}: call get_finished_tasks before the next submit_tasks"
    )
    assert list(pool.queued_tasks) == ["b"]
    submission.finish(ended=True)
    assert pool.get_finished_tasks() == {"a": "A"}
    pool.check(in_container=False)


def test_terminated_pool_has_nothing_left(pool: TaskPool) -> None:
    submission = submit(pool, "a")
    add(pool, "b")
    pool.add_tasks([], keep_results=True)
    pool.terminate_tasks()
    assert submission.cancelled
    assert message(pool.get_finished_tasks) == NONE
    assert message(pool.check, in_container=False).startswith("pool pool has no tasks")
    pool.terminate_tasks()
