"""Append to a file without losing data on a full disk."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["Appender"]


class Appender:
    """A file open for appending; data is in the file at once.

    If the disk is full, data waits in memory for the next write, and one line on stderr reports it.
    The constructor raises OSError if the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unwritten = bytearray()
        self._complained = False
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  # closed by close()

    def write(self, data: bytes) -> None:
        """Append data, after data that could not be written before; never raise OSError."""
        self._unwritten += data
        try:
            while self._unwritten:
                written = self._file.write(self._unwritten)
                del self._unwritten[:written]
        except OSError as error:
            if not self._complained:
                self._complained = True
                print(f"{self.path}: {error.strerror}; trying again later", file=sys.stderr)

    def close(self) -> None:
        """Try once more to write the remaining data, and close the file."""
        self.write(b"")
        self._file.close()
