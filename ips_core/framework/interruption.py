"""Turn signals and requests of other threads into something that a loop can wait for."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

__all__ = ["Interruptions"]


class Interruptions:
    """Records why a loop should end, instead of raising an exception in the middle of it.

    As a context manager it handles SIGINT, SIGTERM and, if its handler is the default one (not
    under nohup), SIGHUP. Outside of the main thread, where Python allows no handlers, signals keep
    their effect. ``fileno`` makes the object usable in ``wait``.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._sockets: tuple[socket.socket, socket.socket] | None = None
        self._restore: Callable[[], None] = _nothing

    def request(self, reason: str) -> None:
        """Ask the loop to end, from any thread; do nothing outside of the context."""
        if self._sockets is None:
            return
        self.reason = self.reason or reason
        with contextlib.suppress(OSError):  # full, so that the loop wakes up anyway, or closed
            self._sockets[1].send(b"\0")

    def fileno(self) -> int:
        """Return the file descriptor that a signal or a request makes readable."""
        assert self._sockets is not None
        return self._sockets[0].fileno()

    def drain(self) -> None:
        """Make the file descriptor unreadable again; :attr:`reason` stays."""
        assert self._sockets is not None
        with contextlib.suppress(BlockingIOError):
            self._sockets[0].recv(64)

    def __enter__(self) -> Interruptions:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self.reason = ""
        self._sockets = ours, theirs
        if threading.current_thread() is threading.main_thread():
            self._restore = self._handle_signals(theirs)
        return self

    def _handle_signals(self, wakeup: socket.socket) -> Callable[[], None]:
        """Install the signal handlers and return a function that restores the former ones."""

        def handle(number: int, _frame: Any) -> None:
            self.request(f"interrupted by {signal.Signals(number).name}")

        # If a signal arrives just before the loop begins to wait, Python runs the handler only
        # after the wait; the wakeup descriptor ends the wait.
        descriptor = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, handle) for number in numbers}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(descriptor)

        return restore

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._restore()
        self._restore = _nothing
        sockets, self._sockets = self._sockets, None
        for end in sockets or ():
            end.close()


def _nothing() -> None:
    pass
