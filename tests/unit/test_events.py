"""Events of the simulation log: every key in its place, every value."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from ips_core.log.events import call_target, component_event, framework_event, span_id, trace

STARTED = 1_700_000_000.0
AT = STARTED + 12.345


@pytest.fixture(autouse=True)
def _zone() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "EST5")
        time.tzset()
        yield
    time.tzset()


def test_event_of_the_framework() -> None:
    event = framework_event(
        "IPS_START", "Starting", at=AT, started=STARTED, state="Running", tag=None
    )
    assert list(event.items()) == [
        ("code", "Framework"),
        ("eventtype", "IPS_START"),
        ("ok", True),
        ("comment", "Starting"),
        ("walltime", "12.35"),
        ("time", "2023-11-14|17:13:32EST"),
        ("state", "Running"),
        ("tag", None),
    ]


def test_event_of_a_component() -> None:
    event = component_event(
        "W__Worker_2", "IPS_TASK_END", "done", at=AT, started=STARTED, ok=False, exit_status=3
    )
    assert list(event.items()) == [
        ("code", "W__Worker_2"),
        ("eventtype", "IPS_TASK_END"),
        ("ok", False),
        ("walltime", "12.35"),
        ("time", "2023-11-14|17:13:32EST"),
        ("state", "Running"),
        ("comment", "done"),
        ("exit_status", 3),
    ]


def test_trace_of_an_event_stands_before_its_state() -> None:
    event = component_event("W", "E", "c", at=AT, started=STARTED, trace={"name": "x"})
    assert list(event)[4:7] == ["time", "trace", "state"]
    assert (event["trace"], event["ok"]) == ({"name": "x"}, True)


@pytest.mark.parametrize(
    ("arguments", "span"),
    [
        (("sim@FRAMEWORK@Framework@0",), "3542dbd6f2ec12a7"),
        (("sim@Worker@2", "step(0)", 7), "227919de07297dc8"),
        (("sim@Worker@2:stage_output_files", "", 1.5), "198030eb43e60448"),
        (("sim@Worker@2", "step(0)", "7"), "227919de07297dc8"),
    ],
)
def test_span_ids_never_change(arguments: tuple[Any, ...], span: str) -> None:
    assert span_id(*arguments) == span


def test_span_of_something_that_ended() -> None:
    found = trace("W", "step", span="s1", begin=STARTED, end=STARTED + 0.5, parent="s0", cores=2)
    assert list(found.items()) == [
        ("timestamp", 1_700_000_000_000_000),
        ("duration", 500_000),
        ("localEndpoint", {"serviceName": "W"}),
        ("name", "step"),
        ("id", "s1"),
        ("parentId", "s0"),
        ("tags", {"cores": "2"}),
    ]


@pytest.mark.parametrize("parent", [None, ""])
def test_span_without_parent_and_tags_has_neither(parent: str | None) -> None:
    found = trace("W", "step", span="s1", begin=0, end=1, parent=parent)
    assert list(found) == ["timestamp", "duration", "localEndpoint", "name", "id"]


@pytest.mark.parametrize(
    ("args", "kwargs", "operation"),
    [
        ((), {}, "step()"),
        ((0,), {}, "step(0)"),
        ((0.0,), {}, "step(0.000)"),
        ((1.23456, "a b", [1]), {"x": 0.5, "y": None}, "step(1.235 ,a b ,[1] ,x=0.500 ,y=None)"),
        (("x" * 500,), {}, f"step({'x' * 500})"),
        (("x" * 501,), {}, f"step({'x' * 500}...)"),
        ((1, "x" * 300), {"y": "z" * 200}, f"step(1 ,{'x' * 300} ,y={'z' * 193}...)"),
    ],
)
def test_target_and_operation_of_a_call(
    args: tuple[Any, ...], kwargs: dict[str, Any], operation: str
) -> None:
    assert call_target("sim@W@2", "step", args, kwargs) == ("sim@W@2", operation)
