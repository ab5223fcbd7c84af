"""What tasks write: passed on to the worker's output in whole lines, and the end of it kept.

Standard library only, and nothing of ours: it arrives on Dask workers by value, see
``tasks.runner.BY_VALUE``.
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
_LONGEST_LINE = 65536  # a longer one is passed on in pieces


class Sink:
    """A file descriptor that many write to, in which the lines of one are not those of another.

    Parameters
    ----------
    descriptor : int
        Where it goes; it stays the caller's.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._unfinished: object = None  # who wrote the line that has no end yet

    def write(self, data: bytes, owner: object) -> None:
        """Write all of it; what cannot be written is dropped, for it must not cost the task."""
        with self._lock, contextlib.suppress(OSError):
            if self._unfinished not in (None, owner):
                data = b"\n" + data
            self._unfinished = None if data.endswith(b"\n") else owner
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def renew(self) -> None:
        """Forget that another thread is writing: this process was forked from that one's."""
        self._lock = threading.Lock()


class Lines:
    """The output of one task.

    Parameters
    ----------
    sink : Sink
        Takes the lines as they come.

    Attributes
    ----------
    tail : bytes
        The last 4 kB.
    since : float or None
        When the line began that has no end yet (``time.monotonic``); None if there is none.
    """

    def __init__(self, sink: Sink) -> None:
        self.tail = b""
        self.since: float | None = None
        self._sink = sink
        self._rest = b""

    def take(self, data: bytes) -> None:
        """Pass on what is whole lines by now, and keep the rest."""
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
        """Pass on the line that has no end yet, too."""
        if self._rest:
            self._sink.write(self._rest, self)
        self._rest, self.since = b"", None


class ThreadOutput(io.TextIOBase):
    """Stands in for ``sys.stdout`` of a process whose threads run tasks.

    Parameters
    ----------
    stream : file object
        The standard output so far; its descriptor takes what is written.

    Attributes
    ----------
    sink : Sink
        Where the output of programs goes, too.
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
        """Take what this thread writes for the output of a task; yield that."""
        lines = Lines(self.sink)
        self._of_tasks[threading.get_ident()] = lines
        try:
            yield lines
        finally:
            del self._of_tasks[threading.get_ident()]
            lines.flush()

    @property
    def buffer(self) -> ThreadOutput:
        """The stream for bytes: this one takes both."""
        return self

    def write(self, text: str | bytes) -> int:  # type: ignore[override]  # bytes for ``buffer``
        """Take text, or bytes; return the length of it."""
        if isinstance(text, str):
            # a name of a file that is no text comes out as it is; another odd character as \\udXXX
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
        """Pass on also what is no whole line yet."""
        lines = self._of_tasks.get(threading.get_ident())
        if lines is not None:
            lines.flush()
        else:
            with self._lock:
                self._of_others.flush()

    def renew(self) -> None:
        """Forget what other threads are doing: they are not in this process, which was forked."""
        self._lock = threading.Lock()
        self.sink.renew()

    def fileno(self) -> int:
        """Return the descriptor below."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Tell whether the descriptor below is a terminal."""
        return self._stream.isatty()

    def writable(self) -> bool:
        """Say so."""
        return True

    def close(self) -> None:
        """Only flush: no task closes the worker's output."""
        self.flush()


def install_output() -> None:
    """Let ``sys.stdout`` and ``sys.stderr`` of this process be one :class:`ThreadOutput`.

    A second time nothing is changed. Loggers that have been set up before keep their stream.
    """
    if not hasattr(sys.stdout, "captured"):  # by name: the class may have arrived twice, by value
        sys.stdout.flush()
        sys.stdout = output = ThreadOutput(sys.stdout)
        os.register_at_fork(after_in_child=output.renew)
    sys.stderr = sys.stdout


def as_text(tail: bytes) -> str:
    """Return the end of some output as text, whatever bytes it is made of."""
    return tail[-TAIL_BYTES:].decode("utf-8", "replace")
