"""Which calls are on their way: outcomes are kept until asked for, and handed out once."""

from __future__ import annotations

import pytest

from ips_core.ipc.calls import CallTable
from ips_core.ipc.messages import ComponentID, Failure, Returned

WORKER = ComponentID("sim", "Worker", 2)
DRIVER = ComponentID("sim", "Driver", 1)


@pytest.fixture
def calls() -> CallTable:
    return CallTable()


def test_calls_are_numbered_from_1(calls: CallTable) -> None:
    made = [calls.open(WORKER, "init"), calls.open(DRIVER, "step")]
    assert [(call.call_id, call.target, call.method) for call in made] == [
        (1, WORKER, "init"),
        (2, DRIVER, "step"),
    ]
    assert [calls.get(number) for number in (1, 2, 3)] == [*made, None]


@pytest.mark.parametrize("waits_first", [True, False])
def test_outcome_is_handed_out_once(calls: CallTable, waits_first: bool) -> None:
    call = calls.open(WORKER, "step")
    told: list[Returned] = []
    outcome = Returned(1, b"value")
    steps = [lambda: calls.when_ended(call, told.append), lambda: calls.end(outcome)]
    for step in steps if waits_first else reversed(steps):
        assert told == []
        step()
    assert told == [outcome]
    assert calls.get(1) is None
    calls.end(Returned(1, b"late"))
    assert told == [outcome]


def test_first_end_counts(calls: CallTable) -> None:
    call = calls.open(WORKER, "step")
    calls.end(Returned(1, b"first"))
    calls.end(Returned(1, b"second"))
    assert call.outcome == Returned(1, b"first")


def test_end_of_an_unknown_call_is_ignored(calls: CallTable) -> None:
    calls.end(Returned(7))
    assert calls.get(7) is None


def test_calls_of_a_component_that_is_gone_end_with_the_reason(calls: CallTable) -> None:
    made = [calls.open(target, "step") for target in (WORKER, DRIVER, WORKER, WORKER)]
    told: list[Returned] = []
    calls.when_ended(made[0], told.append)
    calls.end(Returned(3, b"done"))
    calls.end_all_of(WORKER, "killed")
    gone = Failure("killed")
    assert told == [Returned(1, failure=gone)]
    assert [call.outcome for call in made[1:]] == [
        None,
        Returned(3, b"done"),
        Returned(4, failure=gone),
    ]
