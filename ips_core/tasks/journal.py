"""What a worker notes of its tasks, on disk, so that it outlives the worker's process.

Standard library only, and nothing of ours: it arrives on Dask workers by value, see
``tasks.runner.BY_VALUE``. It is read by ``pools.dask.journal``.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
from typing import Any

__all__ = ["Journal"]

_INLINE_BYTES = 4096  # of a record; a longer one gets a file of its own


class Journal:
    """Where a worker notes what it has begun, and the record of what has ended.

    It outlives the worker's process, so that a task that has ended is never run again. It does not
    outlive a node that loses what it has not written to disk.

    Parameters
    ----------
    directory : str
        A directory that everybody sees who wants to read it.
    worker : str
        Name of the worker; each of its processes has a journal of its own.
    """

    def __init__(self, directory: str, worker: str) -> None:
        self._directory = directory
        self._mend = ""
        name = f"{worker}-{socket.gethostname()}-{os.getpid()}.journal"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            self._file = os.open(os.path.join(directory, name), flags, 0o600)
        except OSError:  # tasks can run without it; what it could have saved is told as lost
            self._file = -1

    def taken(self, key: str) -> None:
        """Note that what a Dask task brings is about to be looked at."""
        self._note(key, "taken", "true")

    def begun(self, key: str, record: bytes) -> None:
        """Note that a task begins."""
        self._note(key, "begun", f'"{base64.b64encode(record).decode()}"')

    def ended(self, key: str, record: bytes) -> dict[str, Any]:
        """Note that a task has ended and return where its record is.

        Returns
        -------
        dict
            ``record``, the bytes themselves, or ``file``, a name in the directory.
        """
        if len(record) > _INLINE_BYTES:
            name = f"{key}.result"
            try:
                self._write(name, record)
            except OSError:
                self._note(key, "unstored", "true")
                return {"record": record}
            self._note(key, "file", json.dumps(name))
            return {"file": name}
        self._note(key, "ended", f'"{base64.b64encode(record).decode()}"')
        return {"record": record}

    def _note(self, key: str, what: str, value: str) -> None:
        line = f'{self._mend}{{"key": {json.dumps(key)}, "{what}": {value}}}\n'.encode()
        with contextlib.suppress(OSError):  # one write: lines of threads do not mix
            written = os.write(self._file, line)
            # on a full disk, only a part: that shall spoil no later line
            self._mend = "" if written == len(line) else "\n"

    def _write(self, name: str, record: bytes) -> None:
        path = os.path.join(self._directory, name)
        try:
            with open(f"{path}.part", "xb") as file:
                file.write(record)
            os.rename(f"{path}.part", path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(f"{path}.part")
            raise
