"""Messages to processes that do not read."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from ips_core.ipc.messages import Channel
from ips_core.ipc.outbox import Outbox


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    both = tuple(Channel(each.detach()) for each in socket.socketpair())
    yield both  # type: ignore[misc]
    for each in both:
        each.close()


def outboxes() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "ips-outbox"]


@pytest.mark.parametrize("size", [100, 500_000])
def test_who_sends_does_not_wait_and_who_reads_gets_all_in_order(
    ends: tuple[Channel, Channel], size: int
) -> None:
    ours, theirs = ends
    outbox = Outbox(ours)
    count = 5_000_000 // size  # much more than a pipe takes
    for number in range(count):
        outbox.send((number, b"x" * size))
    assert len(outboxes()) == 1
    assert [theirs.receive() for _ in range(count)] == [(n, b"x" * size) for n in range(count)]
    for thread in outboxes():
        thread.join(10.0)
    outbox.send("last")
    assert (theirs.receive(), outboxes()) == ("last", [])


def test_nothing_is_left_when_the_process_is_gone(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    outbox = Outbox(ours)
    for _ in range(3):
        outbox.send(b"x" * 500_000)
    (thread,) = outboxes()
    theirs.close()
    thread.join(10.0)
    assert not thread.is_alive()
    with pytest.raises(OSError, match="Broken pipe"):
        outbox.send("more")
