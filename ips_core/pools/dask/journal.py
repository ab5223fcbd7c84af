"""Reads what workers have noted of their tasks, see ``tasks.runner.Journal``."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import cloudpickle

__all__ = ["JournalReader", "ended_records"]

_KEY = b'{"key": "'  # how ``tasks.journal.Journal`` begins a line


class JournalReader:
    """The journals of a cluster's workers.

    Parameters
    ----------
    directory : pathlib.Path
        Where they are.
    wanted : container of str
        The keys of the tasks that are of interest, as it is when the journals are read.
    """

    def __init__(self, directory: Path, wanted: Container[str]) -> None:
        self._directory = directory
        self._wanted = wanted
        self._offsets: dict[Path, int] = {}
        self._taken: set[str] = set()
        self._begun: dict[str, dict[str, Any]] = {}
        self._ended: dict[str, dict[str, Any]] = {}

    def read(self) -> None:
        """Take what has been added since the last time."""
        for path in self._directory.glob("*.journal"):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                file.seek(self._offsets.get(path, 0))
                for line in file:  # there may be gigabytes of them
                    if not line.endswith(b"\n"):
                        break  # it is just being written
                    self._offsets[path] = self._offsets.get(path, 0) + len(line)
                    if self._is_wanted(line):
                        # what was written while the disk was full is not whole
                        with contextlib.suppress(ValueError, KeyError, TypeError):
                            self._take(json.loads(line))

    def _is_wanted(self, line: bytes) -> bool:
        """Tell whether a line is of interest, without the time that it takes to read it all."""
        key = line[len(_KEY) : line.find(b'"', len(_KEY))]
        return line.startswith(_KEY) and key.decode("ascii", "replace") in self._wanted

    def _take(self, entry: dict[str, Any]) -> None:
        if "taken" in entry:
            self._taken.add(entry["key"])
        elif "begun" in entry:
            self._begun[entry["key"]] = cloudpickle.loads(base64.b64decode(entry["begun"]))
        else:
            self._ended[entry["key"]] = entry

    def was_taken(self, key: str) -> bool:
        """Tell whether a worker has looked at what a Dask task brought, named by its first key."""
        return key in self._taken

    def begun(self, key: str) -> dict[str, Any] | None:
        """Return the first part of the record of a task, None if it did not begin."""
        return self._begun.get(key)

    def has_ended(self, key: str) -> bool:
        """Tell whether a task has ended."""
        return key in self._ended

    def record(self, key: str) -> bytes | None:
        """Return the record of a task that has ended, None if it could not be stored."""
        entry = self._ended[key]
        if "ended" in entry:
            return base64.b64decode(entry["ended"])
        return self.take_file(entry["file"]) if "file" in entry else None

    def take_file(self, name: str) -> bytes | None:
        """Return a record that has a file of its own, which is removed; None if it is not there."""
        path = self._directory / name
        with contextlib.suppress(OSError):
            record = path.read_bytes()
            path.unlink(missing_ok=True)
            return record
        return None


def ended_records(directory: Path) -> Iterator[bytes]:
    """Yield the records of all tasks that have ended and whose records are still there.

    Nothing is changed, and nothing raised: the directory may be gone.
    """
    for path in sorted(directory.glob("*.journal")):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            for line in file:
                # the last line of a worker that was killed may not be whole
                with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
                    entry = json.loads(line)
                    if "ended" in entry:
                        yield base64.b64decode(entry["ended"])
                    elif "file" in entry:
                        yield (directory / entry["file"]).read_bytes()
