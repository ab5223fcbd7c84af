"""The portal's sink, against real servers: what is delivered, said and waited for."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ips_core.log import portal as module
from ips_core.log.portal import Portal

#: What no answer may make a run wait for: far more than a few seconds, far less than a hang.
_SOON = 25.0


def event(number: int, eventtype: str = "E", **fields: Any) -> dict[str, Any]:
    return {"eventtype": eventtype, "seqnum": number, **fields}


def events(count: int) -> list[dict[str, Any]]:
    return [event(number) for number in range(count)]


@pytest.fixture(autouse=True)
def _no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSES", (0.01, 0.01))


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def open_portal(said: list[str]) -> Iterator[Callable[[str], Portal]]:
    """``open_portal(url)``: a sink, which is ended with the test."""
    opened: list[Portal] = []

    def start(url: str) -> Portal:
        opened.append(Portal(url, said.append))
        return opened[-1]

    yield start
    for sink in opened:
        sink.end()
        sink.close()


def finish(sink: Portal) -> float:
    """The seconds that its end takes."""
    begin = time.monotonic()
    sink.end()
    sink.close()
    return time.monotonic() - begin


def test_every_event_is_delivered_in_order_and_few_requests(
    open_portal, web_portal, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(module, "_GATHER_SECONDS", 60.0)  # cut short by the end
    sink = open_portal(web_portal.url + "/")
    for each in events(30):
        sink.write([each])
    finish(sink)
    assert web_portal.received() == events(30)
    assert len(web_portal.requests) == 1
    assert said == [f"Run Portal URL = {web_portal.url}/42"]


def test_odd_values_are_delivered_as_the_log_writes_them(open_portal, web_portal) -> None:
    sink = open_portal(web_portal.url)
    sink.write([event(0, odd={1}, value=float("nan"))])
    finish(sink)
    assert web_portal.received() == [event(0, odd="{1}", value="nan")]


@pytest.mark.parametrize(
    ("behaviour", "attempts", "words"),
    [(500, 3, "Internal Server Error"), (404, 1, "Not Found"), ("moved", 1, "Found")],
)
def test_an_error_is_said_once_and_the_next_events_are_tried(
    open_portal, web_portal, wait_until, said: list[str], behaviour, attempts: int, words: str
) -> None:
    web_portal.behaviour = behaviour
    sink = open_portal(web_portal.url)
    sink.write(events(2))
    wait_until(lambda: len(web_portal.requests) == attempts, _SOON, "nothing happened")
    sink.write([event(2)])
    wait_until(lambda: len(web_portal.requests) == 2 * attempts, _SOON, "nothing happened")
    web_portal.behaviour = "good"
    sink.write([event(3, "IPS_END")])
    finish(sink)
    assert web_portal.requests[-1][-1] == event(3, "IPS_END")
    status = 302 if behaviour == "moved" else behaviour
    assert said == [
        f"Portal Error: {status} {words} ({web_portal.url})",
        f"Run Portal URL = {web_portal.url}/42",
        f"Portal: 3 of 4 events were not delivered to {web_portal.url}",
    ]


def test_a_portal_that_comes_back_in_time_gets_everything(
    open_portal, web_portal, wait_until, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(module, "_PAUSES", (60.0, 60.0))  # cut short by the end
    web_portal.behaviour = "drops"
    sink = open_portal(web_portal.url)
    sink.write(events(2))
    wait_until(lambda: web_portal.requests, _SOON, "nothing happened")
    web_portal.behaviour = "good"
    finish(sink)
    assert web_portal.requests == [events(2), events(2)]
    assert said == [f"Run Portal URL = {web_portal.url}/42"]


def test_a_portal_that_is_not_there_is_given_up(open_portal, wait_until, said: list[str]) -> None:
    with socket.socket() as nobody:  # bound, but not listening
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        sink = open_portal(url)
        sink.write(events(5))
        wait_until(lambda: said, _SOON, "nothing happened")
        sink.write(events(5))
        assert finish(sink) < _SOON
    assert said == [
        f"Disabling portal because: Too many consecutive failed connections to {url} "
        "(Connection refused); the simulation goes on without it",
        f"Portal: 10 of 10 events were not delivered to {url}",
    ]


def test_a_portal_that_closes_connections_is_given_up(
    open_portal, web_portal, wait_until, said: list[str]
) -> None:
    web_portal.behaviour = "drops"
    sink = open_portal(web_portal.url)
    sink.write(events(1))
    wait_until(lambda: said, _SOON, "nothing happened")
    assert web_portal.requests == [events(1)] * 3
    assert said[0].startswith("Disabling portal because: Too many consecutive failed connections")
    finish(sink)
    assert len(web_portal.requests) == 3


def test_a_portal_that_never_answers_is_not_waited_for(
    open_portal, web_portal, wait_until, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(module, "_CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(module, "_REQUEST_SECONDS", 120.0)
    web_portal.behaviour = "hangs"
    sink = open_portal(web_portal.url)
    sink.write(events(1))
    wait_until(lambda: web_portal.requests, _SOON, "nothing happened")
    sink.write(events(3))  # returns at once; the portal still has the first
    assert finish(sink) < _SOON
    assert said == [f"Portal: 4 of 4 events were not delivered to {web_portal.url}"]
    web_portal.close()
    wait_until(lambda: not sink._thread.is_alive(), _SOON, "nothing happened")
    assert len(said) == 1  # who listened may be gone


def test_what_waits_for_a_slow_portal_is_bounded_and_the_end_is_let_in(
    open_portal, web_portal, wait_until, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 10 * module._EVENT_BYTES + 10_000)
    hold = threading.Event()
    monkeypatch.setattr(
        module, "_post", lambda url, body, post=module._post: (hold.wait(60), post(url, body))[1]
    )
    sink = open_portal(web_portal.url)
    sink.write([event(0, output="x" * 30_000)])  # too large
    for each in events(1000):
        sink.write([each])
    sink.write([event(1000, "IPS_END")])
    hold.set()
    finish(sink)
    received = web_portal.received()
    assert received[0] == event(0)
    assert received[-1] == event(1000, "IPS_END")
    assert 10 < len(received) < 40
    assert said[-1] == (
        f"Portal: {1002 - len(received)} of 1002 events were not delivered to {web_portal.url}"
    )


def test_what_is_delivered_makes_room(
    open_portal, web_portal, wait_until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 3 * module._EVENT_BYTES)
    monkeypatch.setattr(module, "_GATHER_SECONDS", 0.0)
    sink = open_portal(web_portal.url)
    for number in range(6):
        sink.write([event(number)])
        wait_until(lambda n=number: len(web_portal.received()) > n, _SOON, "it is delivered")
    assert web_portal.received() == events(6)


def test_listener_that_raises_costs_nothing(web_portal) -> None:
    def refuse(text: str) -> None:
        raise RuntimeError(text)

    sink = Portal(web_portal.url, refuse)
    sink.write(events(1))
    finish(sink)
    assert web_portal.received() == events(1)
