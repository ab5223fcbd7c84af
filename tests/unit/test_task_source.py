"""In which order tasks are taken, and what iterables may do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_core.errors import TaskPoolError
from ips_core.pools import task_queue as module
from ips_core.pools.attempt import Attempt
from ips_core.pools.dispatcher import Dispatcher
from ips_core.pools.executor import Ended
from ips_core.pools.policy import Policy
from ips_core.pools.results import Results
from ips_core.pools.task_queue import Batch, TaskQueue
from ips_core.tasks.task import Task


def work() -> None:
    """What the tasks do; nobody calls it here."""


def task(name: str, **keywords: Any) -> Task:
    return Task(name, 1, "/", work, **keywords)


def rest(source: TaskQueue) -> list[tuple[str, bool]]:
    found = []
    while (taken := source.take()) is not None:
        found.append((taken[0].name, taken[1]))
    return found


@given(st.lists(st.integers(-2, 2)))
def test_higher_priorities_first_and_equal_ones_in_order(priorities: list[int]) -> None:
    tasks = [task(f"{n}", priority=priority) for n, priority in enumerate(priorities)]
    expected = sorted(range(len(tasks)), key=lambda n: (-priorities[n], n))
    assert rest(TaskQueue(tasks)) == [(f"{n}", True) for n in expected]


def test_how_many_wait_is_known_until_an_iterable_comes_and_after_it() -> None:
    source = TaskQueue([task("a"), task("b")])
    assert source.waiting == 2
    source.take()
    assert source.waiting == 1
    source = TaskQueue([task("a")], [Batch([task("b")])])
    assert source.waiting is None
    assert rest(source) == [("a", True), ("b", True)]
    assert source.waiting == 0
    assert TaskQueue([]).take() is None


def test_iterables_come_after_what_is_known_one_after_the_other() -> None:
    source = TaskQueue(
        [task("a", priority=-9)],
        [Batch([task("b")], keep=False), Batch([]), Batch(task(name) for name in "cd")],
    )
    assert rest(source) == [("a", True), ("b", False), ("c", True), ("d", True)]


def test_iterable_is_not_looked_at_before_its_turn() -> None:
    asked: list[str] = []

    def tasks() -> Iterator[Task]:
        for name in "bcd":
            asked.append(name)
            yield task(name)

    source = TaskQueue([task("a")], [Batch(tasks())])
    source.take()
    assert asked == []
    source.take()
    assert asked == ["b"]


def test_closed_source_asks_for_no_more_but_has_what_was_known() -> None:
    asked: list[str] = []

    def tasks() -> Iterator[Task]:
        asked.append("c")
        yield task("c")

    source = TaskQueue([task("a"), task("b")], [Batch(tasks())])
    source.take()
    source.close()
    assert source.waiting == 1
    assert rest(source) == [("b", True)]
    assert asked == []
    assert source.error is None


def test_iterable_that_raises_is_the_last() -> None:
    def tasks() -> Iterator[Task]:
        yield task("a")
        raise OSError("no such list")

    source = TaskQueue([], [Batch(tasks()), Batch([task("b")])])
    assert rest(source) == [("a", True)]
    assert isinstance(source.error, TaskPoolError)
    assert str(source.error) == "its tasks ended early: OSError: no such list"
    assert source.waiting == 0


def test_what_is_no_task_is_an_error_that_shows_it() -> None:
    source = TaskQueue([], [Batch(["solve"])])  # type: ignore[list-item]
    assert source.take() is None
    assert str(source.error) == ("its tasks ended early: TypeError: expected a Task, found 'solve'")


def test_container_looks_for_programs_itself() -> None:
    missing = Task("a", 1, "/no/such/place", "no-such-program", "x")
    batches = [Batch([missing]), Batch([missing], in_container=True)]
    source = TaskQueue([], batches)
    here, there = source.take(), source.take()
    assert here is not None
    assert there is not None
    assert here[0].missing
    assert (there[0].missing, there[0].argv) == ("", ("no-such-program", "x"))


def test_iterable_that_takes_long_is_told_of_when_it_has_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    go, late = threading.Event(), threading.Event()

    def tasks() -> Iterator[Task]:
        assert go.wait(60)
        yield task("a")

    source = TaskQueue([], [Batch(tasks())])
    source.tell_late(late.set)
    assert source.take() is None
    assert source.take() is None
    assert source.waiting is None
    assert not late.is_set()
    go.set()
    assert late.wait(60)
    monkeypatch.setattr(module, "_PATIENCE", 60)
    assert rest(source) == [("a", True)]
    assert source.waiting == 0


class Prompt:
    """An executor whose tasks end as soon as they are submitted."""

    slots, ends_at, journal_directory = 4, None, None

    def start(self, hear: Callable[[Any], None]) -> None:
        self._hear = hear

    def why_not(self, task: Task) -> str:
        return ""

    def submit(self, attempts: list[Attempt]) -> None:
        for each in attempts:
            self._hear(Ended(each.key, {"status": "finished", "exit_status": 0, "value": None}))

    def cancel(self) -> None:
        """Nothing runs."""

    def close(self) -> str:
        return ""


def dispatched(tasks: Iterator[Task]) -> Dispatcher:
    nothing = {name: lambda *args, **more: None for name in ("started", "ended", "recorded")}
    report = SimpleNamespace(**nothing, flush=lambda: None, finished=lambda trouble: None)
    source = TaskQueue([], [Batch(tasks)])
    found = Dispatcher(
        "run", source, Prompt(), Results(), report, Policy(), lambda task: ("", None)
    )
    found.start()
    return found


def test_iterable_may_wait_for_what_becomes_of_its_tasks() -> None:
    ended: list[str] = []
    changed = threading.Condition()

    def tasks() -> Iterator[Task]:
        for name in "abc":
            yield task(name)
            with changed:
                assert changed.wait_for(lambda name=name: name in ended, 60)

    dispatcher = dispatched(tasks())
    for record in dispatcher.results.follow():
        with changed:
            ended.append(record.name)
            changed.notify_all()
    assert ended == ["a", "b", "c"]
    dispatcher.results.raise_error()


def test_pool_is_cancelled_while_its_iterable_waits() -> None:
    go = threading.Event()

    def tasks() -> Iterator[Task]:
        yield task("a")
        go.wait(120)

    dispatcher = dispatched(tasks())
    assert next(dispatcher.results.follow()).name == "a"
    cancelling = threading.Thread(target=dispatcher.cancel, daemon=True)
    cancelling.start()
    cancelling.join(30)
    is_over = not cancelling.is_alive()
    go.set()
    assert is_over
