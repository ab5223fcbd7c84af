"""Section [TIME_LOOP], and arithmetic in it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_core.config.time_loop import arithmetic, time_points
from ips_core.services.time_loop import TimeLoopServices


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10**2", 100.0),
        (" 1 + 2*3 - 4/8 ", 6.5),
        ("-1.e3", -1000.0),
        ("7//2", 3.0),
        ("2**3**2", 512.0),
        ("(1 + 2)*3", 9.0),
        ("+.5", 0.5),
    ],
)
def test_arithmetic(text: str, value: float) -> None:
    assert arithmetic(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "e",
        "1 2",
        "max(1, 2)",
        "().__class__",
        "1/0",
        "9**9**9",
        "(-8)**0.5",
        "1e999",
        "1e308*10",
        "1j",
        "True",
        "'1'",
        "1,2",
        "[1]",
        "1 if 1 else 2",
        "x := 1",
        "\0",
        "-" * 100 + "(" * 101,
        "1" * 201,
    ],
)
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        arithmetic(text)


@given(st.text("1234567890-+/*.e ()", max_size=12))
def test_it_is_what_python_says_or_an_error(text: str) -> None:
    try:
        value = arithmetic(text)
    except ValueError:
        return
    assert math.isfinite(value)
    assert math.isclose(value, eval(text.strip()), rel_tol=1e-12)


REGULAR = {"MODE": "REGULAR", "START": "0", "FINISH": "1", "NSTEP": "4"}


@pytest.mark.parametrize(
    ("section", "times"),
    [
        (REGULAR, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (REGULAR | {"START": "3", "NSTEP": "1"}, [3.0, 1.0]),
        (REGULAR | {"FINISH": "10**2", "NSTEP": "4/2"}, [0.0, 50.0, 100.0]),
        ({"MODE": "EXPLICIT", "VALUES": "7 8.5"}, [7.0, 8.5]),
        ({"MODE": "EXPLICIT", "VALUES": ["7", "1e1"]}, [7.0, 10.0]),
    ],
)
def test_times(section: dict[str, Any], times: list[float]) -> None:
    assert time_points(section) == times


@pytest.mark.parametrize("key", ["MODE", "START", "FINISH", "NSTEP"])
def test_missing_key(key: str) -> None:
    section = {name: value for name, value in REGULAR.items() if name != key}
    with pytest.raises(KeyError, match=rf"\[TIME_LOOP\] {key} is missing"):
        time_points(section)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("START", "zero"),
        ("FINISH", ["1", "2"]),
        ("FINISH", "__import__('os')"),
        ("NSTEP", "2.5"),
        ("NSTEP", "0"),
        ("NSTEP", "-1"),
        ("MODE", "OFTEN"),
    ],
)
def test_odd_value(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"^Invalid TIME_LOOP value of ") as caught:
        time_points(REGULAR | {key: value})
    assert f"{key} = {value}: " in str(caught.value)


class Link:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def emit(self, eventtype: str, comment: str, phystimestamp: float) -> None:
        self.told.append(phystimestamp)


@pytest.fixture
def services() -> Any:
    found = TimeLoopServices.__new__(TimeLoopServices)
    found.link = Link()  # type: ignore[assignment]
    return found


def test_time_stamps_travel_as_plain_numbers(services: Any) -> None:
    class Level(int):
        """Only the component knows it, not the framework."""

    for stamp in (Level(3), "2.5", 4, 1e300):
        services.update_time_stamp(stamp)
    assert services.link.told == [3, 2.5, 4, 1e300]
    assert [type(stamp) for stamp in services.link.told] == [int, float, int, float]


@pytest.mark.parametrize(
    "stamp", ["soon", None, math.nan, math.inf, pytest.param(10**400, id="huge")]
)
def test_time_stamps_are_finite_numbers(services: Any, stamp: Any) -> None:
    with pytest.raises(ValueError, match="expected a number"):
        services.update_time_stamp(stamp)
    assert services.link.told == []
