"""What the router does about components that send nonsense; processes are fakes, pipes are real."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from ips_core.framework.router import Router
from ips_core.ipc.messages import Channel, ComponentID, Emit

WORKER, DRIVER = ComponentID("sim", "Worker", 1), ComponentID("sim", "Driver", 2)


class Handle:
    """A component's process, as far as the router sees it."""

    def __init__(self, component_id: ComponentID) -> None:
        ours, theirs = socket.socketpair()
        self.channel, self.theirs = Channel(ours.detach()), Channel(theirs.detach())
        self.component_id, self.name, self.alive = component_id, component_id.class_name, True
        self.signals: list[int] = []

    def send(self, message: object) -> None:
        self.channel.send(message)

    def signal(self, number: signal.Signals) -> None:
        self.signals.append(number)

    def how_it_ended(self) -> str:
        return "it ended"


class Listener:
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def hear_events(self, sender: ComponentID, events: Any) -> None:
        self.heard += [(sender, event) for event in events]

    def hear_news(self, sender: ComponentID, news: Any) -> None:
        raise AssertionError(news)

    def hear_end(self, component_id: ComponentID, reason: str) -> None:
        self.heard.append((component_id, reason))


@pytest.fixture
def handles() -> Iterator[list[Handle]]:
    both = [Handle(WORKER), Handle(DRIVER)]
    yield both
    for handle in both:
        handle.channel.close()
        handle.theirs.close()


@pytest.fixture
def besides() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


def a_value_of_a_class_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return something that can be pickled where it is known, but not be read elsewhere."""
    script = ModuleType("ips_script_worker")
    exec("class Level(int): pass", script.__dict__)
    monkeypatch.setitem(sys.modules, script.__name__, script)
    return script.__dict__["Level"](3)


def test_who_sends_what_cannot_be_read_is_ended_and_nobody_else(
    handles: list[Handle], besides: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener()
    router = Router(listener)
    router._handles = {each.component_id: each for each in handles}  # type: ignore[misc]
    worker, driver = handles
    call = router.invoke(WORKER, "step", b"", "step()")
    with monkeypatch.context() as patch:
        worker.theirs.send(Emit(({"level": a_value_of_a_class_of_its_own(patch)},)))
    router.serve(besides, 10.0)
    reason = (
        "the framework cannot read what it sent: "
        "ModuleNotFoundError: No module named 'ips_script_worker'"
    )
    assert str(router.error_of(call)) == f"component Worker failed in step: {reason}"
    assert (worker.alive, worker.signals) == (False, [signal.SIGKILL])
    driver.theirs.send(Emit(({"a": 1},)))
    router.serve(besides, 10.0)
    assert listener.heard == [(WORKER, reason), (DRIVER, {"a": 1})]
