"""Signals and requests that end the framework's loop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait

import pytest

from ips_core.framework.interruption import Interruptions


@pytest.fixture
def hangup() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def seen(interruptions: Interruptions, timeout: float = 0.0) -> bool:
    """Whether it woke up, which is then forgotten."""
    readable = bool(wait([interruptions], timeout))
    interruptions.drain()
    return readable


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_are_noted_and_given_back(hangup: None, name: str) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)
    with Interruptions() as interruptions:
        assert (interruptions.reason, seen(interruptions)) == ("", False)
        os.kill(os.getpid(), number)
        assert seen(interruptions, 10)
        assert interruptions.reason == f"interrupted by {name}"
        os.kill(os.getpid(), signal.SIGINT)
        assert interruptions.reason == f"interrupted by {name}"  # the first one counts
    assert signal.getsignal(number) == before


def test_nohup_stays_what_it_is(hangup: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interruptions() as interruptions:
        os.kill(os.getpid(), signal.SIGHUP)
        assert (interruptions.reason, seen(interruptions)) == ("", False)


def test_another_thread_may_ask_while_it_lasts() -> None:
    interruptions = Interruptions()
    interruptions.request("too early")
    with interruptions:
        assert interruptions.reason == ""
        thread = threading.Thread(target=interruptions.request, args=["enough"])
        thread.start()
        assert seen(interruptions, 10)
        thread.join()
        assert interruptions.reason == "enough"
        for _ in range(100_000):  # more than the socket takes
            interruptions.request("again")
    interruptions.request("too late")
    assert interruptions.reason == "enough"
