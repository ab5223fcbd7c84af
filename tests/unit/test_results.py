"""What has come of a submission, for those who wait and those who follow."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ips_core.errors import TaskError, TaskPoolError
from ips_core.pools import results as module
from ips_core.pools.results import Results
from ips_core.tasks.record import TaskRecord


def done(name: str, value: Any = None) -> TaskRecord:
    return TaskRecord(name, "finished", 0, value)


def kept(*names: str) -> list[tuple[TaskRecord, bool]]:
    return [(done(name, name.upper()), True) for name in names]


def loose(*names: str) -> list[tuple[TaskRecord, bool]]:
    return [(done(name), False) for name in names]


@pytest.fixture
def results() -> Results:
    return Results(["a", "b", "c"])


def test_records_are_in_the_order_of_adding(results: Results) -> None:
    results.expect("d")
    results.put(kept("d", "c"))
    results.put(kept("a"))
    assert list(results.records()) == ["a", "c", "d"]
    assert results.values() == {"a": "A", "c": "C", "d": "D"}
    assert "b" in results
    assert "e" not in results


def test_what_came_first_may_be_left_out(results: Results) -> None:
    results.put(kept("c"))
    results.put(loose("x"))
    results.put(kept("b", "a"))
    assert results.values(since=1) == {"b": "B", "a": "A"}
    assert results.values(since=3) == {}


def test_what_is_not_kept_is_counted_only(results: Results) -> None:
    failed = TaskRecord("x", "failed", 1, error="no")
    results.put([*kept("a"), *loose("y"), (failed, False)])
    assert (results.count, results.failed) == (3, 1)
    assert list(results.records()) == ["a"]
    assert "x" not in results


def test_failure_is_a_value(results: Results) -> None:
    results.put([(TaskRecord("a", "failed", 1, error="no", traceback="there"), True)])
    (error,) = results.values().values()
    assert isinstance(error, TaskError)
    assert error.args == ("a", "no", "there")


class Waiting:
    """A thread that waits for results."""

    def __init__(self, results: Results, **keywords: Any) -> None:
        self.answers: list[bool] = []
        self._thread = threading.Thread(
            target=lambda: self.answers.append(results.wait(**keywords)), daemon=True
        )
        self._thread.start()

    def answer(self) -> bool:
        self._thread.join(30)
        assert self.answers, "it still waits"
        return self.answers[0]


def test_waiting_for_all(results: Results) -> None:
    waiting = Waiting(results)
    results.put(kept("a", "b", "c"))
    assert not results.wait(seconds=0.05)
    assert waiting.answers == []
    results.end(None)
    assert waiting.answer() is True
    assert results.ended
    results.raise_error()


def test_waiting_for_one_more_that_is_kept(results: Results) -> None:
    results.put(kept("a"))
    assert results.wait(more_than=0) is False
    waiting = Waiting(results, more_than=1)
    results.put(loose("x", "y"))
    assert not results.wait(seconds=0.05)
    assert waiting.answers == []
    results.put(kept("b"))
    assert waiting.answer() is False


def test_error_of_the_whole_is_raised_to_those_who_ask(results: Results) -> None:
    results.end(TaskPoolError("it broke"))
    assert results.wait()
    for _ in range(2):
        with pytest.raises(TaskPoolError, match="it broke"):
            results.raise_error()


def names(records: Iterator[TaskRecord]) -> list[str]:
    return [record.name for record in records]


def test_iterator_has_all_that_is_kept_and_what_comes(results: Results) -> None:
    results.put(kept("a"))
    results.put(loose(*(str(number) for number in range(1001))))
    iterator = results.follow()
    assert next(iterator).name == "a"
    results.put([*kept("c"), *loose("x")])
    results.end(None)
    # the last thousand of those that came before the first iterator, which has them for itself
    assert names(iterator) == [*(str(number) for number in range(1, 1001)), "c", "x"]
    assert names(results.follow()) == ["a", "c"]


def test_iterator_waits_for_the_next(results: Results) -> None:
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.extend(names(results.follow())), daemon=True)
    thread.start()
    results.put(kept("b"))
    results.end(None)
    thread.join(30)
    assert seen == ["b"]


def test_iterators_do_not_disturb_each_other(results: Results) -> None:
    """Also where what waits for one equals what waits for the other."""
    results.put(kept("a"))
    first, second = results.follow(), results.follow()
    assert (next(first).name, next(second).name) == ("a", "a")
    second.close()
    results.put(kept("b"))
    results.end(None)
    assert names(first) == ["b"]


def test_slow_iterator_of_what_is_not_kept_is_a_crowd_until_half_is_read(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CROWD", 10)
    rooms: list[int] = []
    results.on_room = lambda: rooms.append(1)
    results.put(kept("a"))
    iterator = results.follow()
    next(iterator)
    results.put(loose(*"123456789"))
    assert not results.crowded
    results.put(loose("10", "11"))
    assert results.crowded
    for _ in range(6):
        assert rooms == []
        next(iterator)
    assert rooms == [1]
    assert not results.crowded


def test_what_is_kept_anyway_is_no_crowd(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CROWD", 2)
    results.put(kept("a"))
    iterator = results.follow()
    next(iterator)
    results.put(kept(*(f"t{number}" for number in range(10))))
    assert not results.crowded
    results.put(loose("x", "y"))
    assert results.crowded
    iterator.close()


def test_who_waits_for_all_does_not_keep_them_waiting_with_an_iterator_begun(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CROWD", 2)
    crowds: list[bool] = []

    def look() -> None:
        crowds.append(results.crowded)
        results.end(None)

    results.on_room = look
    results.put(kept("a"))
    iterator = results.follow()
    next(iterator)
    results.put(loose("x", "y", "z"))
    assert results.crowded
    results.wait(seconds=0.1)
    assert crowds == [False]
    assert [record.name for record in iterator] == ["x", "y", "z"]


def test_iterator_that_is_left_is_no_crowd(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CROWD", 2)
    rooms: list[int] = []
    results.on_room = lambda: rooms.append(1)
    results.put(kept("a"))
    iterator = results.follow()
    next(iterator)
    results.put(loose("x", "y", "z"))
    assert results.crowded
    del iterator
    gc.collect()
    assert not results.crowded
    assert rooms == [1]
