"""The life of a simulation, step by step; processes and log are fakes."""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from ips_core.errors import ComponentError
from ips_core.framework import lifecycle as life_module
from ips_core.framework.lifecycle import Lifecycle
from ips_core.ipc.calls import Call, CallTable
from ips_core.ipc.messages import ComponentID, Failure, Returned, Terminate

DRIVER, WORKER, KEEPER = (ComponentID("sim", name, n) for n, name in enumerate("DWK", 1))


@dataclass
class Handle:
    """A process that leaves when it gets what it listens to."""

    leaves_at: object = Terminate
    alive: bool = True
    heard: list[object] = field(default_factory=list)

    def send(self, message: Any) -> None:
        self.heard.append(message)
        self.alive = self.alive and self.leaves_at is not Terminate

    def signal(self, number: signal.Signals) -> None:
        self.heard.append(number)
        self.alive = self.leaves_at is not number

    def close(self) -> None:
        self.heard.append("closed")


class World:
    """A simulation with a driver, and what the framework has for it."""

    def __init__(self) -> None:
        self.calls = CallTable()
        self.processes = {DRIVER: Handle(), WORKER: Handle(), KEEPER: Handle()}
        self.invoked: list[Call] = []
        self.told: list[tuple[str, bool]] = []
        self.over = False
        self.now = 0.0
        self.started = [self.calls.open(DRIVER, "constructor")]
        self.simulation: Any = SimpleNamespace(
            ports={"DRIVER": DRIVER},
            members=[DRIVER, WORKER],
            failure="",
            root_span="root",
            tell=lambda kind, comment, at, ok=True, trace=None: self.told.append((kind, ok)),
        )
        self.life = Lifecycle(self.simulation, self, self.start, lambda: [KEEPER], self.end)

    def start(self) -> list[Call]:
        return self.started

    def end(self) -> None:
        self.over = True

    def handles(self, ids: Any) -> list[Any]:
        return [self.processes[each] for each in ids]

    def invoke(self, target: ComponentID, method: str, payload: bytes, operation: str) -> Call:
        self.invoked.append(self.calls.open(target, method))
        return self.invoked[-1]

    def error_of(self, call: Call) -> ComponentError | None:
        failure = call.outcome.failure if call.outcome else None
        return ComponentError("D", call.method, failure.text) if failure else None

    def answer(self, call: Call, failure: str = "") -> bool:
        """End a call, and go on."""
        call.outcome = Returned(call.call_id, failure=Failure(failure) if failure else None)
        return self.life.advance()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(life_module.time, "monotonic", lambda: world.now)
    return world


def test_phases_follow_one_another(world: World) -> None:
    assert world.life.advance()
    assert world.life.deadline == math.inf
    assert world.answer(world.started[0])
    for number, method in enumerate(("init", "step", "finalize")):
        assert [call.method for call in world.invoked[number:]] == [method]
        assert not world.over
        goes_on = world.answer(world.invoked[number])
    assert (goes_on, world.over, world.simulation.failure) == (False, True, "")
    assert world.told == [("IPS_CALL_BEGIN", True), ("IPS_CALL_END", True)] * 3
    assert world.processes[DRIVER].heard == [Terminate(ok=True), "closed"]
    assert world.processes[KEEPER].heard == [Terminate(ok=True), "closed"]


@pytest.mark.parametrize("after", range(3))
def test_it_can_be_interrupted_at_any_time(world: World, after: int) -> None:
    if after > 0:
        world.life.advance()
    if after > 1:
        world.answer(world.started[0])
    world.life.interrupt("interrupted by SIGINT")
    assert not world.life.advance()
    assert (world.over, world.simulation.failure) == (True, "interrupted by SIGINT")
    assert world.processes[WORKER].heard == [Terminate(ok=False), "closed"]
    assert world.told == [("IPS_CALL_BEGIN", True), ("IPS_CALL_END", False)] * (after > 1)


def test_a_failure_ends_it(world: World) -> None:
    world.life.advance()
    assert not world.answer(world.started[0], "no plasma")
    assert world.simulation.failure == "component D failed in constructor: no plasma"
    assert world.invoked == []


def test_an_error_of_the_framework_ends_only_this_simulation(world: World) -> None:
    world.start = lambda: 1 / 0
    world.life = Lifecycle(world.simulation, world, world.start, list, world.end)
    assert not world.life.advance()
    assert world.simulation.failure == ("in the framework: ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    ("leaves_at", "heard"),
    [
        (signal.SIGTERM, [signal.SIGTERM]),
        (signal.SIGKILL, [signal.SIGTERM, signal.SIGKILL]),
        (None, [signal.SIGTERM, signal.SIGKILL]),
    ],
)
def test_who_does_not_leave_is_made_to(world: World, leaves_at: Any, heard: list[Any]) -> None:
    world.processes[WORKER].leaves_at = leaves_at
    world.life.advance()
    world.life.interrupt("enough")
    goes_on = world.life.advance()
    while goes_on:
        assert world.life.deadline < math.inf
        assert world.processes[KEEPER].heard == []  # components first
        world.now = world.life.deadline
        world.life.interrupt("again")  # changes nothing any more
        goes_on = world.life.advance()
    assert world.over
    assert world.simulation.failure == "enough"
    assert world.processes[WORKER].heard == [Terminate(ok=False), *heard, "closed"]
