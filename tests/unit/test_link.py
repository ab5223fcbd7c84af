"""A component's end of the pipe: events go in one message, errors arrive as what they are."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from ips_core.errors import InsufficientResources, IPSError
from ips_core.ipc.link import FrameworkLink
from ips_core.ipc.messages import Channel, Emit, Failure, Reply, Request


@pytest.fixture
def ends() -> Iterator[tuple[FrameworkLink, Channel]]:
    ours, theirs = (Channel(end.detach()) for end in socket.socketpair())
    start: Any = SimpleNamespace(name="W_1", start_time=0.0)
    yield FrameworkLink(start, ours), theirs
    ours.close()
    theirs.close()


def test_several_events_are_one_message(ends: tuple[FrameworkLink, Channel]) -> None:
    link, framework = ends
    events = [link.event("E", f"{number}", at=1.0, ok=number > 0) for number in range(3)]
    link.emit_all(iter(events))
    link.emit("E", "3", at=1.0, code="X_2", ok=True)
    assert framework.receive() == Emit(tuple(events))
    (last,) = framework.receive().events
    assert last == events[2] | {"comment": "3", "code": "X_2"}
    assert events[0]["code"] == "W_1"


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (Failure("busy"), IPSError),
        (Failure("busy", error=InsufficientResources("busy")), InsufficientResources),
    ],
)
def test_an_answer_is_raised_as_what_it_is(
    ends: tuple[FrameworkLink, Channel], failure: Failure, kind: type[Exception]
) -> None:
    link, framework = ends
    number = link.post("allocate", 1)
    assert framework.receive() == Request(number, "allocate", (1,))
    link.deliver(Reply(number, failure=failure))
    with pytest.raises(IPSError, match=r"^busy$") as caught:
        link.answer(number)
    assert type(caught.value) is kind
