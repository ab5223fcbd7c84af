"""A file that only grows, line by line, and survives a full disk."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["Appender"]


class Appender:
    """A file open for appending; what it is given is in the file at once.

    On a full disk data waits for the next call; one line on stderr says so.

    Parameters
    ----------
    path : pathlib.Path
        The file; made if it is not there.

    Raises
    ------
    OSError
        It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unwritten = bytearray()
        self._complained = False
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  # closed by close()

    def write(self, data: bytes) -> None:
        """Append data, after what could not be written before; never raises OSError."""
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
        """Try a last time to write what is left, and close the file."""
        self.write(b"")
        self._file.close()
