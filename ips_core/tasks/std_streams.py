"""Open a task's standard streams, and explain why its process could not start.

This module imports only the standard library and ``tasks`` modules of ``BY_VALUE``, because Dask
workers get it by value (see ``tasks.runner.BY_VALUE``).
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Mapping
from typing import Any

from ips_core.tasks.output import TAIL_BYTES, Lines
from ips_core.tasks.process import Pipes

__all__ = ["StdStreams", "CannotStart"]

_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # Exit codes of shells.


class CannotStart(Exception):
    """Say why a task cannot start; ``exit_status`` is 127 if something is missing, else 126."""

    def __init__(self, message: str, exit_status: int = _NOT_EXECUTABLE) -> None:
        super().__init__(message, exit_status)
        self.exit_status = exit_status

    def __str__(self) -> str:
        return str(self.args[0])


class StdStreams:
    """Open stdin, stdout and stderr of a task's process; ``streams`` holds their descriptors.

    The task's ``cwd``, ``stdin``, ``logfile`` and ``errfile`` name the files. By default stdin is
    empty, stdout goes through ``pipes`` to ``lines``, and stderr goes where stdout goes. Raises
    CannotStart, which names ``host``, if a file cannot be opened.
    """

    def __init__(self, task: Mapping[str, Any], pipes: Pipes, lines: Lines, host: str) -> None:
        self._cwd: str | None = task.get("cwd")
        self._host = host
        self._lines = lines
        self._descriptors: list[int] = []
        self._log = self._errors = -1
        stdin, logfile, errfile = (task.get(key) for key in ("stdin", "logfile", "errfile"))
        # Without a file, the start of the process finds a missing directory.
        named = (stdin, logfile, errfile) != (None, None, None)
        if named and self._cwd is not None and not os.path.isdir(self._cwd):
            # Checked first, because opening a log file below the directory would create it.
            raise self._no_directory()
        try:
            stdin = self._input(stdin, pipes)
            if logfile is not None:
                self._log = self._output("log file", logfile)
            if errfile not in (None, logfile):
                self._errors = self._output("error file", errfile)
            stdout = pipes.reader(lines.take) if self._log < 0 else self._log
            stderr = subprocess.STDOUT if self._errors < 0 else self._errors
        except BaseException:
            self.close()
            raise
        self.streams = (stdin, stdout, stderr)

    def _input(self, given: str | bytes | None, pipes: Pipes) -> int:
        if given is None:
            return subprocess.DEVNULL
        if isinstance(given, bytes):
            return pipes.writer(given)
        return self._opened("input file", given, os.O_RDONLY)

    def _output(self, what: str, path: str) -> int:
        # Opened for reading too, so that `tail` works even if the file was renamed or removed.
        return self._opened(what, path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def _opened(self, what: str, path: str, flags: int) -> int:
        path = os.path.join(self._cwd or os.getcwd(), path)
        try:
            if flags & os.O_CREAT:
                # The parent is a file; open() gives the clearer error.
                with contextlib.suppress(FileExistsError):
                    os.makedirs(os.path.dirname(path), exist_ok=True)
            descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
        except OSError as error:
            status = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
            at = "" if error.filename in (None, path) else f" ({error.filename})"
            raise CannotStart(
                f"{what} {path} cannot be opened on {self._host}: {error.strerror}{at}", status
            ) from None
        self._descriptors.append(descriptor)
        return descriptor

    def why_not(self, program: str, error: OSError | ValueError) -> CannotStart:
        """Return a CannotStart that says why a program could not be started."""
        where = f"on {self._host}"
        if not isinstance(error, OSError):
            return CannotStart(f"program {program!r} cannot be started {where}: {error}")
        reason = error.strerror or str(error)
        if self._cwd is not None and error.filename == self._cwd != program:
            if isinstance(error, (FileNotFoundError, NotADirectoryError)):
                return self._no_directory()
            return CannotStart(f"working directory {self._cwd} cannot be entered {where}: {reason}")
        if isinstance(error, FileNotFoundError):
            if os.path.exists(os.path.join(self._cwd or "", program)) and os.sep in program:
                return CannotStart(
                    f"program {program} cannot be started {where}: no such interpreter"
                )
            return CannotStart(f"program {program} not found {where}", _NOT_FOUND)
        return CannotStart(f"program {program} cannot be started {where}: {reason}")

    def _no_directory(self) -> CannotStart:
        return CannotStart(f"working directory {self._cwd} not found on {self._host}", _NOT_FOUND)

    def tail(self) -> bytes:
        """Return the end of the output, followed by the end of a separate error file."""
        return (_end_of(self._log) or self._lines.tail) + _end_of(self._errors)

    def close(self) -> None:
        """Close the files."""
        while self._descriptors:
            os.close(self._descriptors.pop())


def _end_of(descriptor: int) -> bytes:
    with contextlib.suppress(OSError):  # No file was named, and the descriptor is -1.
        found = os.fstat(descriptor)
        # A device such as /dev/full returns bytes that no task wrote.
        if stat.S_ISREG(found.st_mode):
            return os.pread(descriptor, TAIL_BYTES, max(0, found.st_size - TAIL_BYTES))
    return b""
