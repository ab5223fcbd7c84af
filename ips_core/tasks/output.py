"""Pass the output of tasks on to the worker's output in whole lines, and keep its end.

This module imports only the standard library, because Dask workers get it by value (see
``tasks.runner.BY_VALUE``).
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

__all__ = ["TAIL_BYTES", "Lines", "Sink", "ThreadOutput", "as_text", "install_output"]

TAIL_BYTES = 4096
_LONGEST_LINE = 65536  # A longer line is passed on in pieces.


class Sink:
    """Write to a descriptor for several owners without mixing their lines; the caller closes it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._unfinished: object = None  # Owner of the unfinished last line.

    def write(self, data: bytes, owner: object) -> None:
        """Write all data; drop what cannot be written, because that must not fail the task."""
        with self._lock, contextlib.suppress(OSError):
            if self._unfinished not in (None, owner):
                data = b"\n" + data
            self._unfinished = None if data.endswith(b"\n") else owner
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def renew(self) -> None:
        """Replace the lock after a fork, because another thread may have held the old one."""
        self._lock = threading.Lock()


class Lines:
    """Pass the output of one task on to a sink in whole lines.

    ``tail`` holds the last 4 kB. ``since`` is the time at which the unfinished line began
    (``time.monotonic``), or None if there is no unfinished line.
    """

    def __init__(self, sink: Sink) -> None:
        self.tail = b""
        self.since: float | None = None
        self._sink = sink
        self._rest = b""

    def take(self, data: bytes) -> None:
        """Pass whole lines on and keep the rest."""
        self.tail = (self.tail + data)[-TAIL_BYTES:]
        end = data.rfind(b"\n") + 1
        if end:
            self._sink.write(self._rest + data[:end], self)
            self._rest, self.since = data[end:], None
        else:
            self._rest += data
        if len(self._rest) > _LONGEST_LINE:
            self.flush()
        elif self._rest and self.since is None:
            self.since = time.monotonic()

    def flush(self) -> None:
        """Pass the unfinished line on, too."""
        if self._rest:
            self._sink.write(self._rest, self)
        self._rest, self.since = b"", None


class ThreadOutput(io.TextIOBase):
    """Replace ``sys.stdout`` of a process whose threads run tasks.

    Output goes to the descriptor of ``stream``; ``sink`` takes the output of programs, too.
    """

    encoding = "utf-8"
    errors = "surrogateescape"

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.sink = Sink(stream.fileno())
        self._of_tasks: dict[int, Lines] = {}
        self._of_others = Lines(self.sink)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def captured(self) -> Iterator[Lines]:
        """Yield `Lines` that take what this thread writes while the context is open."""
        lines = Lines(self.sink)
        self._of_tasks[threading.get_ident()] = lines
        try:
            yield lines
        finally:
            del self._of_tasks[threading.get_ident()]
            lines.flush()

    @property
    def buffer(self) -> ThreadOutput:
        """The stream for bytes, which is this object: `write` takes text and bytes."""
        return self

    def write(self, text: str | bytes) -> int:  # type: ignore[override]  # Bytes for ``buffer``.
        """Write text or bytes and return their length."""
        if isinstance(text, str):
            # File names that are not UTF-8 come out as their bytes, other surrogates as \udXXX.
            try:
                data = text.encode("utf-8", self.errors)
            except UnicodeEncodeError:
                data = text.encode("utf-8", "backslashreplace")
        else:
            data = bytes(text)
        lines = self._of_tasks.get(threading.get_ident())
        if lines is not None:
            lines.take(data)
        else:
            with self._lock:
                self._of_others.take(data)
        return len(text)

    def flush(self) -> None:
        """Pass the unfinished line of this thread on."""
        lines = self._of_tasks.get(threading.get_ident())
        if lines is not None:
            lines.flush()
        else:
            with self._lock:
                self._of_others.flush()

    def renew(self) -> None:
        """Replace the locks after a fork, because another thread may have held the old ones."""
        self._lock = threading.Lock()
        self.sink.renew()

    def fileno(self) -> int:
        """Return the descriptor of the wrapped stream."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Return whether the wrapped stream is a terminal."""
        return self._stream.isatty()

    def writable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Only flush, so that no task closes the worker's output."""
        self.flush()


def install_output() -> None:
    """Make ``sys.stdout`` and ``sys.stderr`` of this process one :class:`ThreadOutput`.

    A second call keeps the installed one. Loggers that were set up before keep their stream.
    """
    # Tested by attribute, because the class may have arrived twice by value.
    if not hasattr(sys.stdout, "captured"):
        sys.stdout.flush()
        sys.stdout = output = ThreadOutput(sys.stdout)
        os.register_at_fork(after_in_child=output.renew)
    sys.stderr = sys.stdout


def as_text(tail: bytes) -> str:
    """Return the end of some output as text; invalid UTF-8 is replaced."""
    return tail[-TAIL_BYTES:].decode("utf-8", "replace")
