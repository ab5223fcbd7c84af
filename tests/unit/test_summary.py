"""A pool in figures, against Python's own statistics."""

from __future__ import annotations

import json
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_core.pools.summary import PoolSummary
from ips_core.tasks.record import TaskRecord

TIMES = st.floats(0, 1e6, allow_subnormal=False)
STATUSES = ["finished", "failed", "timed_out", "cancelled", "lost", "result_lost", "not_started"]


def record(elapsed: float, name: str = "a", **fields: Any) -> TaskRecord:
    return TaskRecord(
        name,
        **{"status": "finished", "start_time": 1000.0, "elapsed_time": elapsed, "attempts": 1}
        | fields,
    )


def fields_of(*records: TaskRecord) -> dict[str, Any]:
    summary = PoolSummary("scan")
    for each in records:
        summary.add(each)
    return summary.fields(slots=8, wall_time=1800.0)


@given(st.lists(TIMES, min_size=2, max_size=50))
def test_times_are_those_of_the_statistics_module(times: list[float]) -> None:
    fields = fields_of(*(record(each) for each in times))
    assert (fields["elapsed_min"], fields["elapsed_max"]) == (min(times), max(times))
    assert fields["elapsed_mean"] == pytest.approx(statistics.fmean(times), abs=1e-6)
    assert fields["elapsed_sd"] == pytest.approx(statistics.stdev(times), rel=1e-6, abs=1e-6)


def test_small_spread_of_long_times_is_not_cancelled() -> None:
    times = [1e7 + offset for offset in (0.0, 0.001, 0.002)]
    assert fields_of(*map(record, times))["elapsed_sd"] == pytest.approx(0.001, rel=1e-3)


@given(st.lists(st.tuples(TIMES, st.text(max_size=3)), max_size=20))
def test_slowest_five(tasks: list[tuple[float, str]]) -> None:
    fields = fields_of(*(record(elapsed, name) for elapsed, name in tasks))
    assert [seconds for _, seconds in fields["slowest"]] == sorted(
        (elapsed for elapsed, _ in tasks), reverse=True
    )[:5]
    assert all((seconds, name) in tasks for name, seconds in fields["slowest"])


@given(st.lists(st.sampled_from(STATUSES), max_size=30))
def test_counts_add_up_and_json_takes_them(statuses: list[str]) -> None:
    fields = fields_of(*(record(1.0, status=status) for status in statuses))
    assert fields["tasks"] == len(statuses)
    assert fields["counts"] == {status: statuses.count(status) for status in set(statuses)}
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields


def test_core_hours() -> None:
    summary = PoolSummary("scan")
    summary.add(record(3600.0, slots=4, attempts=3))
    summary.add_lost(slots=4, elapsed_time=900.0)
    summary.add(record(900.0, status="lost"))
    summary.add(TaskRecord("b", "not_started"))
    fields = summary.fields(slots=8, wall_time=1800.0)
    assert (fields["core_hours_used"], fields["core_hours_available"]) == (5.25, 4.0)
    assert fields["attempts"] == 4


def test_times_are_of_tasks_that_ended_of_themselves() -> None:
    cut_short = [record(9.0, status=status) for status in ("cancelled", "lost", "result_lost")]
    fields = fields_of(record(1.0), *cut_short, TaskRecord("b", "failed"))
    assert (fields["elapsed_max"], fields["elapsed_min"]) == (1.0, 1.0)
    assert fields["slowest"] == [["a", 1.0]]


def test_resumed_tasks_count_and_cost_nothing() -> None:
    summary = PoolSummary("scan")
    summary.add(record(3600.0), resumed=True)
    fields = summary.fields(8, 0.0)
    assert (fields["counts"], fields["resumed"]) == ({"finished": 1}, 1)
    assert (fields["core_hours_used"], fields["attempts"], fields["slowest"]) == (0.0, 0, [])


def test_nothing_at_all() -> None:
    fields = fields_of()
    assert (fields["tasks"], fields["counts"], fields["slowest"]) == (0, {}, [])
    assert [fields[f"elapsed_{which}"] for which in ("min", "mean", "max", "sd")] == [None] * 4


def test_in_words() -> None:
    summary = PoolSummary("scan")
    assert summary.text(8, 0.0) == "pool scan: 0 tasks; 0 of 0 core hours used"
    summary.add(record(0.25))
    assert summary.text(8, 1800.0) == (
        "pool scan: 1 task, 1 finished; 0.25 s; 0 of 4 core hours used"
    )
    summary.add(record(1234.5, status="timed_out"))
    summary.add(record(0.0, status="failed"), resumed=True)
    assert summary.text(8, 1800.0) == (
        "pool scan: 3 tasks, 1 finished, 1 failed, 1 timed out (1 in the run before); "
        "617 s mean (0.25 to 1234 s, sd 873 s); 0.343 of 4 core hours used"
    )
