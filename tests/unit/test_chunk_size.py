"""How many short tasks travel together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_core.pools.chunk_size import ChunkSize

SECONDS = st.floats(0, 1e5)


def after(*durations: float) -> ChunkSize:
    size = ChunkSize()
    for seconds in durations:
        size.take(seconds)
    return size


def test_nothing_is_known_at_first() -> None:
    assert ChunkSize().next(None, 4) == 1
    assert ChunkSize().next(100_000, 4) == 1


def test_short_tasks_travel_together_and_long_ones_alone() -> None:
    assert after(0.0).next(None, 4) == 300
    assert after(*[0.02] * 50).next(None, 4) == 50
    assert after(*[0.6] * 50).next(None, 4) == 1


def test_many_slots_have_shorter_chunks() -> None:
    assert after(0.0).next(None, 1000) == 100
    assert after(0.0).next(None, 1_000_000) == 1


def test_one_long_task_makes_chunks_short_for_a_while() -> None:
    size = after(*[0.001] * 500)
    assert size.next(None, 4) == 300
    size.take(3.0)
    assert size.next(None, 4) == 1  # the mean alone would allow six
    for _ in range(10):
        size.take(0.001)
    assert 1 < size.next(None, 4) <= 10
    for _ in range(400):
        size.take(0.001)
    assert size.next(None, 4) == 300


def test_last_tasks_are_shared_out() -> None:
    size = after(*[0.01] * 50)
    whole = size.next(None, 4)
    assert size.next(100_000, 4) == whole
    assert size.next(4 * 30, 4) == 30
    assert size.next(4 * 10, 4) == 20  # hardly more than Dask takes for it
    assert size.next(0, 4) < whole


@given(st.lists(SECONDS, min_size=1), st.none() | st.integers(0, 10**6), st.integers(1, 10**4))
def test_chunk_has_a_task_and_two_seconds_of_work_at_most(
    durations: list[float], waiting: int | None, slots: int
) -> None:
    size = after(*durations).next(waiting, slots)
    assert 1 <= size <= 300
    assert size == 1 or size * durations[-1] <= 2.0
    longest = max(durations[-3:])  # two tasks later, two thirds of it still count
    assert size == 1 or size * longest <= 3.2
    assert size <= after(*durations).next(None, slots)


@pytest.mark.parametrize("shorter", [0.5, 0.1])
def test_shorter_tasks_make_no_shorter_chunks(shorter: float) -> None:
    durations = [0.02, 0.05, 0.01, 0.03]
    usual = after(*durations).next(None, 4)
    assert after(*(shorter * seconds for seconds in durations)).next(None, 4) > usual
