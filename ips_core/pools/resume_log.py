"""Record the finished tasks of a component's pools, so that a later run can resume them.

The resume log is a file of JSON lines that is only appended to:

``{"forget": pool}``
    Ignore all earlier lines about the pool.
``{"submission": pool, "number": k, "run": ..., "directory": ...}``
    The k-th submission of the pool has begun. Its workers write their journals to the directory,
    under the name of the run.
``{"task": name, "pool": pool, "number": k, "work": digest, ...}``
    A task of the k-th submission has finished successfully: ``record``, the fields of its record,
    and unless the task returned None one of ``value`` (pickled, base64), ``file`` (a name in
    ``<resume log>.d``) and ``dropped`` (true: the value was not kept).

The log survives the death of processes, but not the crash of a node before its data is on disk.
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

__all__ = ["ResumeLog", "ResumeLogRun"]

_INLINE_BYTES = 4096  # A longer pickled value gets a file of its own.
_FIELDS = [
    (field.name, field.default)
    for field in dataclasses.fields(TaskRecord)
    if field.name not in ("name", "value", "is_program")  # Worker journals lack the last.
]
_as_json = json.JSONEncoder(default=str).encode  # json.dumps would make an encoder for each line.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # Lustre without the mount option flock


class ResumeLog:
    """Resume log of one component, open for one run of the simulation at a time.

    If it cannot be written, ``warn`` gets a sentence and nothing is raised: the tasks finish all
    the same.
    """

    def __init__(self, path: Path, warn: Callable[[str], object]) -> None:
        self.path = path
        self._warn = warn
        self._values = path.with_name(f"{path.name}.d")
        self._lock = threading.Lock()
        self._warned: set[str] = set()
        self._numbers: dict[str, int] = {}  # count of each pool's submissions so far
        self._index: dict[str, dict[int, dict[str, int]]] = {}  # offsets of the tasks' lines
        self._runs: dict[str, tuple[str, int, str]] = {}  # pool, number and directory
        self._own: set[str] = set()  # Runs of this process report their tasks themselves.
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

    def submission(self, pool: str, resume: bool) -> ResumeLogRun:
        """Return the part of the log for the submission of a pool that is about to be made.

        The k-th submission of a pool corresponds to the k-th one of the earlier run. With
        ``resume``, finished tasks count, and values above 4 kB are kept for the next run; without,
        the first submission of a pool forgets all earlier ones. A TaskPoolError says that a pool is
        to be resumed but the log cannot be opened or another run has it.
        """
        if self._file < 0 and resume:
            why = self._trouble or "it was closed"
            raise TaskPoolError(f"pool {pool} cannot be resumed from {self.path}: {why}")
        if self._trouble:
            self.warn_once(f"{self._trouble}; this run cannot be resumed")
        if resume and not self._was_read:
            self._was_read = True
            self._harvest(self._read(0))
        return ResumeLogRun(self, pool, self._numbers.get(pool, 0) + 1, resume)

    def close(self) -> None:
        """Close the file, so that another run can open it; later records are dropped."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
            self._file = -1

    def warn_once(self, sentence: str) -> None:
        """Warn about the log, once for each sentence."""
        if sentence not in self._warned:
            self._warned.add(sentence)
            self._warn(f"{self.path}: {sentence}")

    # -- called by ResumeLogRun --------------------------------------------------------------

    def begin(self, pool: str, run: str, directory: str, resume: bool) -> None:
        """Count a submission of a pool and record it."""
        number = self._numbers[pool] = self._numbers.get(pool, 0) + 1
        entries: list[dict[str, Any]] = []
        if number == 1 and not resume:
            self._index.pop(pool, None)
            entries.append({"forget": pool})
        self._own.add(run)
        entries.append({"submission": pool, "number": number, "run": run, "directory": directory})
        self.append(entries)

    def append(self, entries: Iterable[dict[str, Any]]) -> None:
        """Append lines in one write."""
        text = b"".join(_as_json(entry).encode() + b"\n" for entry in entries)
        with self._lock:
            if self._file < 0:
                return
            left = b"\n" + text if self._torn else text
            try:
                while left:
                    left = left[os.write(self._file, left) :]
                self._torn = False
            except OSError as error:  # A part of the text may have been written.
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
        """Return the value in a task's line."""
        if "file" in entry:
            return cloudpickle.loads((self._values / entry["file"]).read_bytes())
        return cloudpickle.loads(base64.b64decode(entry["value"])) if "value" in entry else None

    def dump(self, value: Any, keep_large: bool) -> dict[str, Any]:
        """Return the fields of a task's line for its value."""
        if value is None:
            return {}
        file = _Bounded()
        try:
            dump(value, file)
            return {"value": base64.b64encode(file.getvalue()).decode()}
        except _TooLargeError:
            if keep_large:
                return self._dump_large(value)
        except Exception:  # A worker pickled the value, but some classes cannot be pickled again.
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

    # -- reading earlier runs ----------------------------------------------------------------

    def _ends_torn(self) -> bool:
        size = os.fstat(self._file).st_size
        return size > 0 and os.pread(self._file, 1, size - 1) != b"\n"

    def _read(self, begin: int) -> int:
        """Read the lines from an offset on and return the offset of their end."""
        with open(self.path, "rb") as file:
            file.seek(begin)
            for line in file:
                if line.endswith(b"\n"):
                    # An invalid line was torn when its writer was killed.
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
        """Add the tasks that worker journals record as finished and the log does not.

        A component that is killed does not record the tasks that its workers finish meanwhile.
        """
        for directory in sorted({found[2] for found in self._runs.values() if found[2]}):
            self.append(self._missing(Path(directory)))
        self._read(end)

    def _missing(self, directory: Path) -> Iterator[dict[str, Any]]:
        for pickled in ended_records(directory):
            try:
                found = cloudpickle.loads(pickled)
                run, work = self._runs.get(found["pool"]), found.get("work", "")
                record = TaskRecord.of(found, **({} if found.get("attempts") else {"attempts": 1}))
            except Exception:  # The class of a value may be missing; then the task runs again.
                continue
            if run is None or not (record.ok and work):
                continue
            pool, number, _ = run
            known = self.entry(pool, number, record.name)
            if known is None or known["record"].get("start_time", 0.0) < record.start_time:
                yield _line(pool, number, work, record) | self.dump(record.value, True)


class ResumeLogRun:
    """Part of a resume log for one submission of a pool, from :meth:`ResumeLog.submission`."""

    def __init__(self, journal: ResumeLog, pool: str, number: int, resume: bool) -> None:
        self._journal = journal
        self._pool = pool
        self._number = number
        self._resume = resume
        self._complained = False

    def began(self, run: str, directory: str | os.PathLike[str] | None = None) -> None:
        """Record that the submission has begun as ``run``; one that fails earlier does not count.

        ``directory`` is that of the worker journals, None if there are none.
        """
        self._journal.begin(
            self._pool, run, os.fspath(directory) if directory else "", self._resume
        )

    def find(self, name: str, work: str, is_program: bool) -> TaskRecord | None:
        """Return the record of a task that an earlier run finished successfully, else None.

        It is None, too, if the fingerprint ``work`` differs, the value was not kept, or the pool is
        not resumed.
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
        except Exception as error:  # A user's class may raise anything.
            self._again(name, f"its result cannot be read: {describe(error)}")
            return None

    def ended(self, batch: Iterable[tuple[str, TaskRecord]]) -> None:
        """Record the successful tasks of a batch of fingerprints and records.

        Tasks without a fingerprint are left out.
        """
        self._journal.append(
            _line(self._pool, self._number, work, record)
            | self._journal.dump(record.value, self._resume)
            for work, record in batch
            if record.ok and work
        )

    def _again(self, name: str, why: str) -> None:
        if not self._complained:  # One warning: there may be a hundred thousand tasks.
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
    """Buffer that raises _TooLargeError for a value that is too large for a line."""

    def write(self, content: Any) -> int:
        if self.tell() + memoryview(content).nbytes > _INLINE_BYTES:
            raise _TooLargeError
        return super().write(content)
