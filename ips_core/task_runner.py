"""Runs tasks where they are: one binary or one callable at a time, any number side by side.

Standard library only, and nothing of ours: on Dask workers, which need not have this package, it
arrives by value as part of a worker plugin. A task and its record are plain dicts for the same
reason. Nothing that a task does raises out of :meth:`Runner.run`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import IO, Any

__all__ = ["Journal", "Runner"]

_TERMINATION_GRACE = 3.0
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
        name = f"{worker}-{socket.gethostname()}-{os.getpid()}.journal"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            self._file = os.open(os.path.join(directory, name), flags, 0o600)
        except OSError:  # tasks can run without it; what it could have saved is told as lost
            self._file = -1

    def begun(self, key: str, record: bytes) -> None:
        """Note that a task begins."""
        self._note({"key": key, "begun": base64.b64encode(record).decode()})

    def ended(self, key: str, record: bytes) -> dict[str, Any]:
        """Note that a task has ended and return where its record is.

        Returns
        -------
        dict
            ``record``, the bytes themselves, or ``file``, a name in the directory.
        """
        if len(record) > _INLINE_BYTES:
            name = f"{key.rpartition('-')[2]}.result"  # the rest of a key may be no file name
            try:
                self._write(name, record)
            except OSError:
                self._note({"key": key, "unstored": True})
                return {"record": record}
            self._note({"key": key, "file": name})
            return {"file": name}
        self._note({"key": key, "ended": base64.b64encode(record).decode()})
        return {"record": record}

    def _note(self, entry: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # one write: lines of threads do not mix
            os.write(self._file, json.dumps(entry).encode() + b"\n")

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


class Runner:
    """Runs tasks and knows which processes of theirs are alive.

    Parameters
    ----------
    worker : str
        Name of the worker it runs on, for the records.
    """

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self.host = os.environ.get("IPS_DASK_NODE") or socket.gethostname()
        self._processes: dict[subprocess.Popen[bytes], str] = {}
        self._lock = threading.Lock()
        self._cancelled: set[str | None] = set()
        self._running: list[dict[str, Any]] = []

    def run(
        self, task: dict[str, Any], started: Callable[[dict[str, Any]], object]
    ) -> dict[str, Any]:
        """Run one task to its end and return its record.

        Parameters
        ----------
        task : dict
            ``pool``, ``name`` and either ``argv`` (list of str) or ``function`` with ``args`` and
            ``kwargs``; for a binary also ``cwd``, ``logfile``, ``errfile`` (paths or None),
            ``timeout`` (seconds or None) and ``env`` (dict, on top of the worker's environment).
        started : callable
            Called with the first part of the record before the task starts, which it does not do if
            the answer is False.

        Returns
        -------
        dict
            ``pool``, ``name``, ``host``, ``worker``, ``start_time`` (seconds since the epoch),
            ``elapsed_time`` (seconds), ``status`` (``finished``, ``failed``, ``timed-out`` or
            ``cancelled``), ``exit_status`` (of a binary: its code, negative for a signal, -1 after
            a time-out; of a callable: 0 or 1), ``value`` (what a callable returned), ``error`` and
            ``traceback`` (text).
        """
        record = {
            "pool": task["pool"],
            "name": task["name"],
            "host": self.host,
            "worker": self.worker,
            "start_time": time.time(),
        }
        begin = time.monotonic()
        self._running.append(record)
        try:
            if self._is_cancelled(task["pool"]):
                outcome = {"status": "cancelled", "exit_status": 1, "error": "cancelled"}
            else:
                outcome = {"status": "cancelled", "exit_status": 1, "error": "not started"}
                if started(dict(record)) is not False:
                    outcome = self._binary(task) if "argv" in task else _call(task)
        except (OSError, ValueError) as error:
            # not on this node: the binary, the directory or the log file; or no argument at all
            status = 127 if isinstance(error, FileNotFoundError) else 126
            outcome = {"status": "failed", "exit_status": status, "error": str(error)}
        finally:
            self._running.remove(record)
        record["elapsed_time"] = time.monotonic() - begin
        return record | {"value": None, "error": "", "traceback": ""} | outcome

    def cancel(self, pool: str | None = None) -> list[dict[str, Any]]:
        """End the processes of a pool's tasks, or of all, for good: TERM, a grace, then KILL.

        Their tasks get the status ``cancelled``, and so do tasks of the pool that are yet to come.

        Returns
        -------
        list of dict
            The first part of the records of the pool's tasks that were running, callables too.
        """
        running = [dict(record) for record in self._running if pool in (None, record["pool"])]
        with self._lock:
            self._cancelled.add(pool)
            doomed = [p for p, of in self._processes.items() if self._is_cancelled(of)]
        _terminate(doomed)
        return running

    def _is_cancelled(self, pool: str) -> bool:
        return pool in self._cancelled or None in self._cancelled

    def _binary(self, task: dict[str, Any]) -> dict[str, Any]:
        with _output_files(task) as (stdout, stderr):
            process = subprocess.Popen(
                task["argv"],
                cwd=task["cwd"],
                env=os.environ | task["env"],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                # its own group, so that all it starts can be ended; no preexec_fn: keeps vfork
                start_new_session=True,
            )
            with self._lock:
                self._processes[process] = task["pool"]
                late = self._is_cancelled(task["pool"])
            if late:  # cancelled while it was being started
                _terminate([process])
            try:
                code = process.wait(task["timeout"])
                status = "finished" if code == 0 else "failed"
            except subprocess.TimeoutExpired:
                code, status = -1, "timed-out"
                _signal_group(process, signal.SIGKILL)
                process.wait()
            finally:
                with self._lock:
                    del self._processes[process]
        if status == "failed" and self._is_cancelled(task["pool"]):
            status = "cancelled"
        error = "" if status == "finished" else _explain(status, code, task)
        return {"status": status, "exit_status": code, "error": error}


def _explain(status: str, code: int, task: dict[str, Any]) -> str:
    if status == "timed-out":
        return f"timed out after {task['timeout']:g} s"
    if status == "cancelled":
        return "cancelled"
    return f"ended by signal {-code}" if code < 0 else f"exit code {code}"


def _call(task: dict[str, Any]) -> dict[str, Any]:
    try:
        value = task["function"](*task["args"], **task["kwargs"])
    except BaseException as error:  # also SystemExit: a task never ends its worker
        return {
            "status": "failed",
            "exit_status": 1,
            "error": _say(error),
            "traceback": traceback.format_exc(),
        }
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
    return {"status": "finished", "exit_status": 0, "value": value}


def _say(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # not even that
        return type(error).__name__


def _terminate(processes: list[subprocess.Popen[bytes]]) -> None:
    """End processes and what they started: TERM, a grace, then KILL."""
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + _TERMINATION_GRACE
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        # the group may outlive its leader
        _signal_group(process, signal.SIGKILL)


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def _output_files(task: dict[str, Any]) -> Iterator[tuple[IO[bytes] | None, Any]]:
    """Give a binary's stdout and stderr: files where named, else merged into the worker's."""
    with contextlib.ExitStack() as stack:

        def opened(path: str | None) -> IO[bytes] | None:
            if path is None:
                return None
            path = os.path.join(task["cwd"], path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            return stack.enter_context(open(path, "wb"))

        yield opened(task["logfile"]), opened(task["errfile"]) or subprocess.STDOUT
