"""Notes what a component's pools have finished, so that a run that was killed can be resumed.

The journal is one file of JSON lines, only ever appended to:

``{"forget": pool}``
    What stands before this about the pool does not count any more.
``{"submission": pool, "number": k, "run": ..., "directory": ...}``
    The k-th submission of the pool in a run has begun, on workers that note in the directory what
    they finish; they know it under the name of the run.
``{"task": name, "pool": pool, "number": k, "work": digest, ...}``
    A task of it has finished with success: ``record``, the fields of its record, and unless it
    returned None one of ``value`` (pickled, base64), ``file`` (its name in ``<journal>.d``), and
    ``dropped`` (true: it was not kept).

It protects against the death of processes, not against a node that loses what it has not written.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import errno
import fcntl
import io
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle

from ips_core.errors import TaskPoolError, describe
from ips_core.pools.dask.journal import ended_records
from ips_core.tasks.record import TaskRecord
from ips_dask_cluster.by_value import dump

__all__ = ["PoolJournal", "Submission"]

_INLINE_BYTES = 4096  # of a pickled value; a longer one gets a file of its own
_FIELDS = [
    (field.name, field.default)
    for field in dataclasses.fields(TaskRecord)
    if field.name not in ("name", "value", "is_program")  # workers do not note the last
]
_as_json = json.JSONEncoder(default=str).encode  # made once, not for each line
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # Lustre without the mount option flock


class PoolJournal:
    """The journal of one component's pools, open for a run of the simulation.

    Nothing is raised when it cannot be written: the tasks have finished all the same.

    Parameters
    ----------
    path : pathlib.Path
        The file; its folder is made if it is not there. One run at a time has it.
    warn : callable
        Takes a sentence about what cannot be noted, or cannot be used.
    """

    def __init__(self, path: Path, warn: Callable[[str], object]) -> None:
        self.path = path
        self._warn = warn
        self._values = path.with_name(f"{path.name}.d")
        self._lock = threading.Lock()
        self._warned: set[str] = set()
        self._numbers: dict[str, int] = {}  # submissions of each pool in this run
        self._index: dict[str, dict[int, dict[str, int]]] = {}  # where the line of a task begins
        self._runs: dict[str, tuple[str, int, str]] = {}  # pool, number and directory
        self._own: set[str] = set()  # runs that are not over: their workers still tell
        self._was_read = False
        self._file, self._trouble = -1, ""
        try:
            self._open()
        except OSError as error:
            self._trouble = f"it cannot be opened: {error.strerror}"
        self._torn = self._file >= 0 and self._ends_torn()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        file = os.open(self.path, flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            self._trouble = "another run has it; wait for its end, or use another SIM_ROOT"
            return
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(file)
                raise
            self.warn_once("this file system has no locks; do not run the simulation twice at once")
        self._file = file

    def submission(self, pool: str, resume: bool) -> Submission:
        """Return what is known of the submission of a pool that is about to be made.

        Parameters
        ----------
        pool : str
            Its name. The k-th submission under it corresponds to the k-th in the run before.
        resume : bool
            True: tasks that have finished count, and results above 4 kB are kept for a next time.
            False: at the first submission of the pool in this run, all before is forgotten.

        Raises
        ------
        TaskPoolError
            It is to be resumed, but another run has the journal, or it cannot be opened.
        """
        if self._file < 0 and resume:
            why = self._trouble or "it was closed"
            raise TaskPoolError(f"pool {pool} cannot be resumed from {self.path}: {why}")
        if self._trouble:
            self.warn_once(f"{self._trouble}; this run cannot be resumed")
        if resume and not self._was_read:
            self._was_read = True
            self._harvest(self._read(0))
        return Submission(self, pool, self._numbers.get(pool, 0) + 1, resume)

    def close(self) -> None:
        """Close the file, for another run to take; nothing more is noted."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
            self._file = -1

    def warn_once(self, sentence: str) -> None:
        """Say something about the journal, once."""
        if sentence not in self._warned:
            self._warned.add(sentence)
            self._warn(f"{self.path}: {sentence}")

    # -- for submissions ---------------------------------------------------------------------

    def begin(self, pool: str, run: str, directory: str, resume: bool) -> None:
        """Count a submission of a pool, and note it."""
        number = self._numbers[pool] = self._numbers.get(pool, 0) + 1
        entries: list[dict[str, Any]] = []
        if number == 1 and not resume:
            self._index.pop(pool, None)
            entries.append({"forget": pool})
        self._own.add(run)
        entries.append({"submission": pool, "number": number, "run": run, "directory": directory})
        self.append(entries)

    def append(self, entries: Iterable[dict[str, Any]]) -> None:
        """Add lines, in one write."""
        text = b"".join(_as_json(entry).encode() + b"\n" for entry in entries)
        with self._lock:
            if self._file < 0:
                return
            left = b"\n" + text if self._torn else text
            try:
                while left:
                    left = left[os.write(self._file, left) :]
                self._torn = False
            except OSError as error:  # a part of it may have been written
                self._torn = True
                self.warn_once(f"{error.strerror}; what is missing would run again after a resume")

    def entry(self, pool: str, number: int, name: str) -> dict[str, Any] | None:
        """Return the line of a task, None if there is none."""
        offset = self._index.get(pool, {}).get(number, {}).get(name)
        if offset is None or self._file < 0:
            return None
        size, line = 2048, b""
        while not line.endswith(b"\n"):
            size *= 4
            found = os.pread(self._file, size, offset)
            line = found[: found.find(b"\n") + 1]
            if not line and len(found) < size:
                return None
        entry: dict[str, Any] = json.loads(line)
        return entry

    def load(self, entry: dict[str, Any]) -> Any:
        """Return the value that a line of a task has."""
        if "file" in entry:
            return cloudpickle.loads((self._values / entry["file"]).read_bytes())
        return cloudpickle.loads(base64.b64decode(entry["value"])) if "value" in entry else None

    def dump(self, value: Any, keep_large: bool) -> dict[str, Any]:
        """Return what the line of a task says of its value."""
        if value is None:
            return {}
        file = _Bounded()
        try:
            dump(value, file)
            return {"value": base64.b64encode(file.getvalue()).decode()}
        except _TooLargeError:
            if keep_large:
                return self._dump_large(value)
        except Exception:  # a class that cannot be pickled twice
            pass
        return {"dropped": True}

    def _dump_large(self, value: Any) -> dict[str, Any]:
        name = f"{secrets.token_hex(8)}.value"
        part = self._values / f"{name}.part"
        try:
            self._values.mkdir(mode=0o700, exist_ok=True)
            with open(part, "xb", opener=_open_private) as file:
                dump(value, file)
            part.rename(self._values / name)
            return {"file": name}
        except Exception as error:
            why = error.strerror if isinstance(error, OSError) else describe(error)
            self.warn_once(f"a result cannot be kept: {why}")
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            return {"dropped": True}

    # -- reading what was before -------------------------------------------------------------

    def _ends_torn(self) -> bool:
        size = os.fstat(self._file).st_size
        return size > 0 and os.pread(self._file, 1, size - 1) != b"\n"

    def _read(self, begin: int) -> int:
        """Take the lines from an offset on; return where they end."""
        with open(self.path, "rb") as file:
            file.seek(begin)
            for line in file:
                if line.endswith(b"\n"):
                    # what is no line of ours was torn when its writer was killed
                    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                        self._take(json.loads(line), begin)
                begin += len(line)
        return begin

    def _take(self, entry: dict[str, Any], offset: int) -> None:
        if "task" in entry:
            numbers = self._index.setdefault(entry["pool"], {})
            numbers.setdefault(entry["number"], {})[entry["task"]] = offset
        elif "submission" in entry and entry["run"] not in self._own:
            found = entry["submission"], entry["number"], entry["directory"]
            self._runs[entry["run"]] = found
        elif "forget" in entry:
            pool = entry["forget"]
            self._index.pop(pool, None)
            self._runs = {run: each for run, each in self._runs.items() if each[0] != pool}

    def _harvest(self, end: int) -> None:
        """Note what workers had finished when their component was killed before it knew."""
        for directory in sorted({found[2] for found in self._runs.values() if found[2]}):
            self.append(self._missing(Path(directory)))
        self._read(end)

    def _missing(self, directory: Path) -> Iterator[dict[str, Any]]:
        for pickled in ended_records(directory):
            try:
                found = cloudpickle.loads(pickled)
                run, work = self._runs.get(found["pool"]), found.get("work", "")
                record = TaskRecord.of(found, **({} if found.get("attempts") else {"attempts": 1}))
            except Exception:  # its class is not there, say; so its task runs again
                continue
            if run is None or not (record.ok and work):
                continue
            pool, number, _ = run
            known = self.entry(pool, number, record.name)
            if known is None or known["record"].get("start_time", 0.0) < record.start_time:
                yield _line(pool, number, work, record) | self.dump(record.value, True)


class Submission:
    """What a journal knows of one submission of a pool; made by :meth:`PoolJournal.submission`."""

    def __init__(self, journal: PoolJournal, pool: str, number: int, resume: bool) -> None:
        self._journal = journal
        self._pool = pool
        self._number = number
        self._resume = resume
        self._complained = False

    def began(self, run: str, directory: str | os.PathLike[str] | None = None) -> None:
        """Note that the submission has begun; one that fails before that does not count.

        Parameters
        ----------
        run : str
            The ``pool`` of the records that workers make, which no other submission has.
        directory : path, optional
            Where they note them. Default: nowhere.
        """
        self._journal.begin(
            self._pool, run, os.fspath(directory) if directory else "", self._resume
        )

    def find(self, name: str, work: str, is_program: bool) -> TaskRecord | None:
        """Return the record of a task that has finished with success.

        Parameters
        ----------
        name, work : str
            The task, and what :func:`ips_core.pools.work.work_digest` says of it.
        is_program : bool
            As in the record.

        Returns
        -------
        TaskRecord or None
            None: it has not, its work was another, its result was not kept, or the pool is not to
            be resumed.
        """
        entry = self._journal.entry(self._pool, self._number, name) if self._resume else {}
        if not entry or entry["work"] != work:
            return None
        if "dropped" in entry:
            self._again(name, "its result was not kept, as it is of those above 4 kB with resume=")
            return None
        try:
            value = self._journal.load(entry)
            return TaskRecord(name, value=value, is_program=is_program, **entry["record"])
        except Exception as error:  # whatever a class of the user raises
            self._again(name, f"its result cannot be read: {describe(error)}")
            return None

    def ended(self, batch: Iterable[tuple[str, TaskRecord]]) -> None:
        """Note tasks that have ended; those without success, or without a digest, are left out.

        Parameters
        ----------
        batch : iterable of (str, TaskRecord)
            The digest of each one's work, and its record.
        """
        self._journal.append(
            _line(self._pool, self._number, work, record)
            | self._journal.dump(record.value, self._resume)
            for work, record in batch
            if record.ok and work
        )

    def _again(self, name: str, why: str) -> None:
        if not self._complained:  # there may be a hundred thousand of them
            self._complained = True
            self._journal.warn_once(f"task {name} of pool {self._pool} runs again: {why}")


def _line(pool: str, number: int, work: str, record: TaskRecord) -> dict[str, Any]:
    fields = {
        name: value for name, default in _FIELDS if (value := getattr(record, name)) != default
    }
    return {"task": record.name, "pool": pool, "number": number, "work": work, "record": fields}


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


class _TooLargeError(Exception):
    pass


class _Bounded(io.BytesIO):
    """Takes what fits on a line, and stops whoever writes more."""

    def write(self, content: Any) -> int:
        if self.tell() + memoryview(content).nbytes > _INLINE_BYTES:
            raise _TooLargeError
        return super().write(content)
