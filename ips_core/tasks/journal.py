"""Write the worker journal, which outlives the worker's process.

``pools.dask.journal`` reads it. This module imports only the standard library, because Dask workers
get it by value (see ``tasks.runner.BY_VALUE``).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
from typing import Any

__all__ = ["Journal"]

_INLINE_BYTES = 4096  # A longer record gets a separate file.


class Journal:
    """Write the starts of tasks and the records of finished tasks to a file of this process.

    A finished task is thus never run again after its worker died. A node that fails may lose what
    the kernel had not written to disk. All readers must see ``directory``.
    """

    def __init__(self, directory: str, worker: str) -> None:
        self._directory = directory
        self._mend = ""
        name = f"{worker}-{socket.gethostname()}-{os.getpid()}.journal"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            self._file = os.open(os.path.join(directory, name), flags, 0o600)
        # Tasks run without a journal; after the death of the worker their results count as lost.
        except OSError:
            self._file = -1

    def taken(self, key: str) -> None:
        """Record that the payloads of a Dask task are about to be unpacked.

        Unpacking may kill the worker.
        """
        self._note(key, "taken", "true")

    def begun(self, key: str, record: bytes) -> None:
        """Record that a task starts."""
        self._note(key, "begun", f'"{base64.b64encode(record).decode()}"')

    def ended(self, key: str, record: bytes) -> dict[str, Any]:
        """Record that a task has ended, and return where its record is.

        The result has ``record``, the bytes themselves, or ``file``, a name in the directory.
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
        # One write per line, so that lines of threads do not mix.
        with contextlib.suppress(OSError):
            written = os.write(self._file, line)
            # A full disk takes only a part of the line; the next line then starts with a newline.
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
