"""Read the worker journals, which ``tasks.journal.Journal`` writes."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import cloudpickle

__all__ = ["JournalReader", "ended_records"]

_KEY = b'{"key": "'  # The start of each line of ``tasks.journal.Journal``.


class JournalReader:
    """Reader of the journals of a cluster's workers.

    It keeps only entries of the keys that ``wanted`` contains at the time of reading.
    """

    def __init__(self, directory: Path, wanted: Container[str]) -> None:
        self._directory = directory
        self._wanted = wanted
        self._offsets: dict[Path, int] = {}
        self._taken: set[str] = set()
        self._begun: dict[str, dict[str, Any]] = {}
        self._ended: dict[str, dict[str, Any]] = {}

    def read(self) -> None:
        """Read what the workers have added since the last call."""
        for path in self._directory.glob("*.journal"):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                file.seek(self._offsets.get(path, 0))
                for line in file:  # One by one: journals may have gigabytes.
                    if not line.endswith(b"\n"):
                        break  # The worker is just writing this line.
                    self._offsets[path] = self._offsets.get(path, 0) + len(line)
                    if self._is_wanted(line):
                        # A line that was written while the disk was full is incomplete.
                        with contextlib.suppress(ValueError, KeyError, TypeError):
                            self._take(json.loads(line))

    def _is_wanted(self, line: bytes) -> bool:
        """Tell whether the key of a line is wanted, without parsing the whole line."""
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
        """Tell whether a worker has begun to unpack the chunk whose first key this is."""
        return key in self._taken

    def begun(self, key: str) -> dict[str, Any] | None:
        """Return the first part of a task's record, None if the task did not start."""
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
        """Return a record from a file of its own and remove the file; None if it does not exist."""
        path = self._directory / name
        with contextlib.suppress(OSError):
            record = path.read_bytes()
            path.unlink(missing_ok=True)
            return record
        return None


def ended_records(directory: Path) -> Iterator[bytes]:
    """Yield the stored records of all tasks that have ended.

    The files stay as they are; a missing directory yields nothing.
    """
    for path in sorted(directory.glob("*.journal")):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            for line in file:
                # The last line of a worker that was killed may be incomplete.
                with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
                    entry = json.loads(line)
                    if "ended" in entry:
                        yield base64.b64decode(entry["ended"])
                    elif "file" in entry:
                        yield (directory / entry["file"]).read_bytes()
