"""SIGINT and SIGTERM as something that a loop can wait for, instead of exceptions anywhere."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["interruptions"]


@contextmanager
def interruptions(note: Callable[[str], None]) -> Iterator[socket.socket | None]:
    """Take note of SIGINT and SIGTERM for as long as the context lasts.

    Parameters
    ----------
    note : callable
        Called in the signal handler with the signal's name.

    Yields
    ------
    socket.socket or None
        Becomes readable when one has arrived. None outside of the main thread, where handlers
        cannot be set: signals then stay what they are.
    """
    if threading.current_thread() is not threading.main_thread():
        yield None
        return

    def handle(number: int, _frame: Any) -> None:
        note(signal.Signals(number).name)

    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield ours
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        ours.close()
        theirs.close()
