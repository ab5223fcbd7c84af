"""When checkpoints are due, and which of them stay."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_core.config.checkpoint import CheckpointPlan, Moment, kept_checkpoints, read_plan
from ips_core.errors import ConfigError
from ips_core.files.checkpoint import CheckpointHistory, checkpoint_name

BASE = {"MODE": "ALL", "NUM_CHECKPOINT": "2"}


@pytest.mark.parametrize(
    ("section", "plan"),
    [
        (BASE, CheckpointPlan("ALL", 2)),
        (BASE | {"PROTECT_FREQUENCY": "3"}, CheckpointPlan("ALL", 2, protect_every=3)),
        (
            BASE | {"MODE": "WALLTIME_REGULAR", "WALLTIME_INTERVAL": "30"},
            CheckpointPlan("WALLTIME_REGULAR", 2, (30.0,)),
        ),
        (
            BASE | {"MODE": "PHYSTIME_EXPLICIT", "PHYSTIME_VALUES": "1 2.5"},
            CheckpointPlan("PHYSTIME_EXPLICIT", 2, (1.0, 2.5)),
        ),
        (
            BASE | {"MODE": "WALLTIME_EXPLICIT", "WALLTIME_VALUES": ["1", "2.5"]},
            CheckpointPlan("WALLTIME_EXPLICIT", 2, (1.0, 2.5)),
        ),
    ],
)
def test_plan(section: dict[str, Any], plan: CheckpointPlan) -> None:
    assert read_plan("sim.config", section) == plan


@pytest.mark.parametrize(
    ("section", "missing"),
    [
        ({"MODE": "ALL"}, "NUM_CHECKPOINT"),
        ({"NUM_CHECKPOINT": "1"}, "MODE"),
        (BASE | {"MODE": "PHYSTIME_REGULAR"}, "PHYSTIME_INTERVAL"),
    ],
)
def test_missing_key(section: dict[str, Any], missing: str) -> None:
    with pytest.raises(KeyError, match=rf"\[CHECKPOINT\] {missing} is missing"):
        read_plan("sim.config", section)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"MODE": "SOMETIMES"},
            "Invalid MODE = SOMETIMES in checkpoint configuration: expected one of ALL, "
            "WALLTIME_REGULAR, WALLTIME_EXPLICIT, PHYSTIME_REGULAR, PHYSTIME_EXPLICIT",
        ),
        ({"NUM_CHECKPOINT": "two"}, "[CHECKPOINT] NUM_CHECKPOINT = two: expected a whole number"),
        (
            {"PROTECT_FREQUENCY": "-1"},
            "[CHECKPOINT] PROTECT_FREQUENCY = -1: expected 1 or more",
        ),
        (
            {"MODE": "WALLTIME_REGULAR", "WALLTIME_INTERVAL": "1 2"},
            "[CHECKPOINT] WALLTIME_INTERVAL = 1 2: expected a number",
        ),
        (
            {"MODE": "PHYSTIME_EXPLICIT", "PHYSTIME_VALUES": "1 b"},
            "[CHECKPOINT] PHYSTIME_VALUES = 1 b: expected numbers",
        ),
    ],
)
def test_odd_value(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_plan("sim.config", BASE | change)
    assert str(caught.value) == f"sim.config: {problem}"


def test_number_alone() -> None:
    assert kept_checkpoints("f", {"NUM_CHECKPOINT": "-1"}) == -1


def due(plan: CheckpointPlan, times: list[float], start: float, clock: str = "phys") -> list[float]:
    """The times at which one was due."""
    other = {"wall": "phys", "phys": "wall"}[clock]
    last = Moment(**{clock: start, other: 0.0})
    found = []
    for time in times:
        now = Moment(**{clock: time, other: 0.0})
        if plan.is_due(now, last):
            last = now
            found.append(time)
    return found


TENTHS = [0.1 * number for number in range(11)]


@pytest.mark.parametrize(
    ("mode", "values", "start", "expected"),
    [
        ("REGULAR", (0.2,), 0.0, [TENTHS[i] for i in (2, 4, 6, 8, 10)]),
        ("REGULAR", (0.1,), 0.0, TENTHS[1:]),
        ("REGULAR", (0.25,), 0.0, [TENTHS[i] for i in (3, 6, 9)]),
        ("REGULAR", (0.3,), 0.5, [TENTHS[8]]),
        ("EXPLICIT", (0.0, 0.25, 0.3, 0.8), -math.inf, [TENTHS[i] for i in (0, 3, 8)]),
        ("EXPLICIT", (0.05, 0.31, 0.32), 0.35, []),
        ("EXPLICIT", (2.0,), -math.inf, []),
    ],
)
@pytest.mark.parametrize("clock", ["wall", "phys"])
def test_when_one_is_due(
    mode: str, values: tuple[float, ...], start: float, expected: list[float], clock: str
) -> None:
    plan = CheckpointPlan(f"{clock.upper()}TIME_{mode}", 2, values)
    assert due(plan, TENTHS, start, clock) == expected


@pytest.mark.parametrize(("keep", "count"), [(2, 11), (-1, 11), (0, 0)])
def test_all_and_none(keep: int, count: int) -> None:
    assert len(due(CheckpointPlan("ALL", keep), TENTHS, 0.0)) == count


def test_a_step_a_little_short_counts_once() -> None:
    plan = CheckpointPlan("PHYSTIME_EXPLICIT", 2, (0.8,))
    assert due(plan, [0.7999999999999999, 0.8, 0.9], -math.inf) == [0.7999999999999999]


@given(
    st.lists(st.integers(0, 50), min_size=1, unique=True).map(sorted),
    st.lists(st.integers(0, 60), unique=True).map(sorted),
)
def test_each_value_is_answered_once_and_at_once(values: list[int], times: list[int]) -> None:
    plan = CheckpointPlan("PHYSTIME_EXPLICIT", 1, tuple(map(float, values)))
    expected, before = [], -math.inf
    for time in times:
        if any(before < value <= time for value in values):
            expected.append(time)
            before = time
    assert due(plan, list(map(float, times)), -math.inf) == expected


def kept(
    plan: CheckpointPlan,
    names: list[str],
    protect: tuple[str, ...] = (),
    there: tuple[str, ...] = (),
) -> list[str]:
    """What is there in the end."""
    history, existing = CheckpointHistory(), list(there)
    for name in names:
        existing = [*dict.fromkeys([*existing, name])]
        history.add(name, Moment(0.0, float(name)), plan, name == protect)
        gone = history.obsolete(existing, plan.keep)
        existing = [each for each in existing if each not in gone]
    return existing


NAMES = [f"{number}.000" for number in range(1, 8)]


def test_newest_stay() -> None:
    assert kept(CheckpointPlan(keep=2), NAMES) == NAMES[-2:]


def test_protected_ones_stay_and_do_not_count() -> None:
    assert kept(CheckpointPlan(keep=2), NAMES, protect="2.000") == ["2.000", *NAMES[-2:]]
    every = CheckpointPlan(keep=1, protect_every=3)
    assert kept(every, NAMES) == ["3.000", "6.000", "7.000"]


def test_those_of_earlier_runs_go_first_by_time() -> None:
    earlier = ("10.000", "9.000", "2.000")
    assert kept(CheckpointPlan(keep=3), ["1.000"], there=earlier) == ["10.000", "9.000", "1.000"]
    assert kept(CheckpointPlan(keep=3), NAMES[:4], there=earlier) == ["2.000", "3.000", "4.000"]


def test_what_was_noted_twice_counts_once() -> None:
    history, plan = CheckpointHistory(), CheckpointPlan(keep=2)
    for name in ("1.000", "2.000"):
        history.note(name)
        history.add(name, Moment(0, 0), plan, protect=False)
    assert history.obsolete(["1.000", "2.000"], 2) == []
    assert history.obsolete(["1.000", "2.000"], 1) == ["1.000"]


@pytest.mark.parametrize("stamp", [3, 3.0, "3.0", 3.0004])
def test_name_of_a_time(stamp: Any) -> None:
    assert checkpoint_name(stamp) == "3.000"


@pytest.mark.parametrize("stamp", ["LATEST", None])
def test_name_of_no_time(stamp: Any) -> None:
    with pytest.raises(ValueError, match=f"^time stamp {stamp!r}: expected a number$"):
        checkpoint_name(stamp)
