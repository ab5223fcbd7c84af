"""Run tasks: one program or callable per call, any number side by side.

A task and its record are plain dicts, and this module imports only the standard library and the
modules of ``BY_VALUE``: Dask workers may lack this package and get these modules by value, as part
of a worker plugin. No error of a task leaves :meth:`Runner.run`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ips_core.tasks.call import BOOT, call, describe, request, result
from ips_core.tasks.journal import Journal
from ips_core.tasks.output import Lines, Sink, as_text, install_output
from ips_core.tasks.process import Child, Pipes, describe_exit
from ips_core.tasks.process_tag import ProcessTag, end_tagged, signal_tagged, tagged_processes
from ips_core.tasks.std_streams import CannotStart, StdStreams
from ips_dask_cluster import by_value

__all__ = ["BY_VALUE", "Journal", "Runner", "install_output"]

#: Modules to register with ``cloudpickle.register_pickle_by_value``.
BY_VALUE = (
    by_value,
    *(
        sys.modules[f"ips_core.tasks.{name}"]
        for name in (
            "call",
            "journal",
            "output",
            "process",
            "process_tag",
            "runner",
            "std_streams",
        )
    ),
)

_CANCEL_GRACE = 3.0
_TIMEOUT_GRACE = 0.5
_DEATH_SECONDS = 3.0  # Seconds after SIGKILL.
_LOOK_SECONDS = 0.1  # Seconds between two looks for remaining processes of cancelled tasks.
_DEVICES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
_AMD_DRIVER = "/dev/kfd"


class Runner:
    """Run tasks, and know which of their processes are alive.

    ``worker`` is the worker's name in the records. ``threads`` is the number of slots for tasks.
    ``cores`` are the numbers of the processors for tasks, by default all of this process; ``gpus``
    are the devices that tasks may reserve.
    """

    def __init__(
        self,
        worker: str,
        threads: int = 1,
        cores: Sequence[int] = (),
        gpus: Sequence[str] = (),
    ) -> None:
        self.worker = worker
        self.host = os.environ.get("IPS_DASK_NODE") or socket.gethostname()
        cores = sorted(cores or os.sched_getaffinity(0))
        self._cores_per_slot = max(1, len(cores) // max(1, threads))
        self._cores = _Stock("cores", cores)
        self._gpus = _Stock("GPUs", gpus)
        self._sink = Sink(1)
        self._marks = ProcessTag()
        # Taken when the first task of a pool starts.
        self._environ: tuple[str | None, dict[bytes, bytes]] = None, {}
        self._changed = threading.Condition()  # Guards the attributes below.
        self._children: dict[Child, tuple[str, str]] = {}  # Pool and mark.
        self._cancelled: set[str | None] = set()
        self._held: set[str] = set()
        self._running: dict[int, dict[str, Any]] = {}

    def run(
        self, task: dict[str, Any], started: Callable[[dict[str, Any]], object]
    ) -> dict[str, Any]:
        """Run one task to its end and return its record.

        ``task`` has these items:

        - ``pool``, ``name``, and either ``argv`` (list of str) or ``function``, ``args`` and
          ``kwargs``, with ``isolate`` (bool) for a separate process.
        - Optional: ``work`` (str, copied to the record), ``slots`` (cores that the task holds, 1),
          ``gpus`` (devices, 0), ``pin`` (bool: no other pinned task uses these cores),
          ``latest_start`` (seconds since the epoch, after which the task does not start).
        - Optional, for a process: ``cwd``, ``env`` (dict, added to the worker's environment),
          ``logfile``, ``errfile`` and ``stdin`` (paths, relative to ``cwd``; stdin may be bytes),
          ``timeout`` (seconds), ``spawned`` (callable, called as soon as the process exists).

        ``started`` gets the first part of the record before the task starts; if it returns False,
        the task does not start.

        The record has ``pool``, ``name``, ``host``, ``worker``, ``start_time`` (seconds since the
        epoch), ``elapsed_time`` (seconds), ``status``, ``exit_status``, ``value``, ``error``,
        ``traceback``, ``output`` and ``slots`` as in ``TaskRecord``, and ``work`` if it was given.
        If the task was cancelled or held before its start, or came after ``latest_start``, host and
        worker are empty and the start is 0.
        """
        # Measured first: another thread may run between the two lines, and start plus duration must
        # not lie before the task's end.
        begin = time.monotonic()
        first = {
            "pool": task.get("pool", ""),
            "name": task.get("name", ""),
            "host": self.host,
            "worker": self.worker,
            "start_time": time.time(),
        }
        try:
            outcome = self._unless_told_not_to(task)
            if outcome:
                first |= {"host": "", "worker": "", "start_time": 0.0}
                begin = time.monotonic()
            else:
                outcome = self._begin(task, first, started)
        except BaseException as error:  # An error of the worker, or invalid values in the task.
            outcome = _failed(126 if "argv" in task else 1, describe(error))
        more = {"work": task["work"]} if "work" in task else {}
        return {
            **first,
            "elapsed_time": time.monotonic() - begin,
            "value": None,
            **dict.fromkeys(("error", "traceback", "output"), ""),
            "slots": task.get("slots", 1),
            **more,
            **outcome,
        }

    def cancel(self, pool: str | None = None) -> list[dict[str, Any]]:
        """End the processes of a pool's tasks, or of all, and start no more of them.

        Processes get SIGTERM and, after 3 s, SIGKILL; this takes at most 6 s for any number of
        processes. Ended tasks and later tasks of the pool get the status ``cancelled``. Return the
        first part of the records of the tasks that were running, including callables, which run on.
        """
        with self._changed:
            self._cancelled.add(pool)
            records = list(self._running.values())

        marks: set[str] = set()

        def doomed() -> list[Child]:
            found = {child: of for child, of in self._children.items() if self.is_cancelled(of[0])}
            marks.update(mark for _, mark in found.values())
            return list(found)

        for number, seconds in ((signal.SIGTERM, _CANCEL_GRACE), (signal.SIGKILL, _DEATH_SECONDS)):
            deadline = time.monotonic() + seconds
            with self._changed:
                children = doomed()
            for child in children:
                child.signal(number)
            signal_tagged(marks, number, [child.pid for child in children])
            with self._changed:
                while (doomed() or tagged_processes(marks)) and time.monotonic() < deadline:
                    if number == signal.SIGKILL:  # Processes may have forked since.
                        signal_tagged(marks, number)
                    self._changed.wait(_LOOK_SECONDS)
        return [dict(record) for record in records if pool in (None, record["pool"])]

    def hold(self, pool: str) -> None:
        """Start no more tasks of a pool; later ones get the status ``not_started``."""
        with self._changed:
            self._held.add(pool)

    def is_cancelled(self, pool: str) -> bool:
        """Return whether the tasks of a pool, or all tasks, are cancelled."""
        return pool in self._cancelled or None in self._cancelled

    def _unless_told_not_to(self, task: dict[str, Any]) -> dict[str, Any] | None:
        if self.is_cancelled(task["pool"]):
            return {"status": "cancelled", "exit_status": 1, "error": "cancelled"}
        if task["pool"] in self._held:
            error = "its pool stopped before its turn came"
        elif time.time() > task.get("latest_start", float("inf")):
            error = "it cannot end before the allocation does"
        else:
            return None
        return {"status": "not_started", "exit_status": None, "error": error}

    def _begin(
        self,
        task: dict[str, Any],
        first: dict[str, Any],
        started: Callable[[dict[str, Any]], object],
    ) -> dict[str, Any]:
        with self._changed:
            self._running[id(first)] = first
        try:
            outcome = {"status": "cancelled", "exit_status": 1, "error": "not started"}
            if started(dict(first)) is not False:
                with self._reserved(task) as (gpus, cores):
                    if "argv" in task:
                        outcome = self._program(task, gpus, cores)
                    elif task.get("isolate"):
                        outcome = self._isolated(task, gpus, cores)
                    else:
                        outcome = self._callable(task, gpus, cores)
        except CannotStart as refused:
            outcome = _failed(refused.exit_status if "argv" in task else 1, str(refused))
        finally:
            with self._changed:
                del self._running[id(first)]
        return outcome

    @contextlib.contextmanager
    def _reserved(self, task: dict[str, Any]) -> Iterator[tuple[list[str], list[int]]]:
        """Reserve the devices and processors of a task while the context is open."""
        if not (task.get("pin") or task.get("gpus")):
            yield [], []
            return
        wanted = self._width(task) if task.get("pin") else 0
        with self._gpus.taken(task.get("gpus", 0)) as gpus, self._cores.taken(wanted) as cores:
            yield gpus, cores

    def _width(self, task: dict[str, Any]) -> int:
        return task.get("slots", 1) * self._cores_per_slot

    def _environment(
        self, task: dict[str, Any], gpus: Sequence[str], mark: dict[str, str]
    ) -> dict[bytes, bytes]:
        """Return the environment of a process, with its mark."""
        pool, environment = self._environ
        if task["pool"] != pool:
            # Read once per pool, because plugins of a pool may have changed it. Kept as bytes,
            # because decoding and encoding all of it each time would take half as long as starting
            # the process.
            environment = dict(os.environb)
            self._environ = task["pool"], environment
        environment = environment.copy()
        changes = {}
        if task.get("slots", 1) > 1 or b"OMP_NUM_THREADS" not in environment:
            changes["OMP_NUM_THREADS"] = str(self._width(task))
        if gpus:
            variables: Sequence[str] = _DEVICES
            if os.path.exists(_AMD_DRIVER):
                # CUDA_VISIBLE_DEVICES would count among the devices that ROCR_VISIBLE_DEVICES
                # leaves, and find none: https://github.com/Parsl/parsl/issues/3858
                variables = _DEVICES[1:2]
                for name in (b"CUDA_VISIBLE_DEVICES", b"HIP_VISIBLE_DEVICES"):
                    environment.pop(name, None)
            changes |= dict.fromkeys(variables, ",".join(gpus))
        changes |= task.get("env", {}) | mark
        environment.update((os.fsencode(key), os.fsencode(text)) for key, text in changes.items())
        return environment

    def _callable(
        self, task: dict[str, Any], gpus: Sequence[str], cores: Sequence[int]
    ) -> dict[str, Any]:
        if gpus:
            raise CannotStart("GPUs are for a process of its own: add the task with isolate=True")
        with contextlib.ExitStack() as stack:
            stack.enter_context(_pinned(cores))
            lines = None
            if hasattr(sys.stdout, "captured"):
                lines = stack.enter_context(sys.stdout.captured())
            if self.is_cancelled(task["pool"]):
                return {"status": "cancelled", "exit_status": 1, "error": "cancelled"}
            outcome = call(task["function"], task["args"], task["kwargs"])
        if outcome["status"] != "finished" and lines is not None:
            outcome["output"] = as_text(lines.tail)
        return outcome

    def _program(
        self, task: dict[str, Any], gpus: Sequence[str], cores: Sequence[int]
    ) -> dict[str, Any]:
        pipes = Pipes()
        with contextlib.closing(pipes):
            return self._process(task, task["argv"], gpus, cores, pipes)

    def _isolated(
        self, task: dict[str, Any], gpus: Sequence[str], cores: Sequence[int]
    ) -> dict[str, Any]:
        chunks: list[bytes] = []
        pipes = Pipes()
        with contextlib.closing(pipes):
            try:
                sent = request(task["function"], task["args"], task["kwargs"])
            except Exception as error:
                return _failed(1, f"it cannot be sent to its process: {describe(error)}")
            others = [pipes.writer(sent), pipes.reader(chunks.append)]
            argv = [sys.executable, "-c", BOOT, *map(str, others)]
            outcome = self._process(task, argv, gpus, cores, pipes, others)
        return result(outcome, b"".join(chunks))

    def _process(
        self,
        task: dict[str, Any],
        argv: Sequence[str],
        gpus: Sequence[str],
        cores: Sequence[int],
        pipes: Pipes,
        others: Sequence[int] = (),
    ) -> dict[str, Any]:
        lines = Lines(getattr(sys.stdout, "sink", self._sink))
        with contextlib.closing(StdStreams(task, pipes, lines, self.host)) as files:
            mark, variables = self._marks.next()
            environment = self._environment(task, gpus, variables)
            try:
                with _pinned(cores):
                    child = Child(
                        argv, task.get("cwd"), environment, files.streams, others, pipes, lines
                    )
            except (OSError, ValueError) as error:
                raise files.why_not(argv[0], error) from None
            outcome = self._watch(child, mark, task)
            lines.flush()
            # An isolated callable may have failed although its process exited with 0.
            if others or outcome["status"] != "finished":
                outcome["output"] = as_text(files.tail())
        return outcome

    def _watch(self, child: Child, mark: str, task: dict[str, Any]) -> dict[str, Any]:
        kill = alone = True  # alone: no `cancel` ends the descendants of the process.
        try:
            with self._changed:
                self._children[child] = task["pool"], mark
                late = self.is_cancelled(task["pool"])
            if "spawned" in task:
                task["spawned"]()
            limit = task.get("timeout")
            if late:  # `cancel` came while the process was being started.
                child.signal(signal.SIGTERM)
                limit = _CANCEL_GRACE
            in_time = child.follow(limit)
            timed_out = not (in_time or late)
            if timed_out:
                child.signal(signal.SIGTERM)
                signal_tagged([mark], signal.SIGTERM, [child.pid])
                child.follow(_TIMEOUT_GRACE)
            alone = timed_out or late
            kill = alone or self.is_cancelled(task["pool"])
        finally:
            code = child.close(kill)
            if alone:
                end_tagged([mark], _DEATH_SECONDS)
            with self._changed:
                self._children.pop(child, None)
                self._changed.notify_all()
        if timed_out:
            return {
                "status": "timed_out",
                "exit_status": -1,
                "error": f"timed out after {limit:g} s",
            }
        if code == 0:
            return {"status": "finished", "exit_status": 0}
        if self.is_cancelled(task["pool"]):
            return {"status": "cancelled", "exit_status": code, "error": "cancelled"}
        return _failed(code, describe_exit(code))


class _Stock:
    """Reserve items, each for one task at a time."""

    def __init__(self, what: str, items: Sequence[Any]) -> None:
        self._what = what
        self._order = {item: number for number, item in enumerate(items)}
        self._free = list(self._order)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def taken(self, wanted: int) -> Iterator[list[Any]]:
        """Reserve ``wanted`` items; raises :class:`CannotStart` if fewer are free."""
        with self._lock:
            if wanted > len(self._free):
                raise CannotStart(
                    f"{wanted} {self._what} wanted, but {len(self._free)} of the worker's "
                    f"{len(self._order)} are free"
                )
            items = self._free[:wanted]
            del self._free[:wanted]
        try:
            yield items
        finally:
            with self._lock:
                self._free = sorted(self._free + items, key=self._order.__getitem__)


@contextlib.contextmanager
def _pinned(cores: Sequence[int]) -> Iterator[None]:
    """Bind this thread and the processes it starts to some processors; none: change nothing."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)  # Process id 0 means the calling thread.
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _failed(exit_status: int, error: str) -> dict[str, Any]:
    return {"status": "failed", "exit_status": exit_status, "error": error}
