"""Start, watch, wait for and end the programs that a component launches outside of pools.

Each program has a thread, which holds the reservation until the program has ended and then writes
the event. ``tasks.demand`` checks what a task may request.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

from ips_core.errors import IPSError, TaskLaunchError, describe
from ips_core.ipc.link import FrameworkLink
from ips_core.log.events import span_id, trace
from ips_core.resources.nodes import Demand, Reservation
from ips_core.tasks.launcher import TaskLauncher
from ips_core.tasks.orphan_reaper import OrphanReaper
from ips_core.tasks.runner import Runner
from ips_core.tasks.task import Task

__all__ = ["LaunchedTask", "SingleTasks"]

#: Seconds for the thread of a task whose process was ended; the thread asks Slurm for remaining
#: steps.
_TOLD_SECONDS = 15.0
_OPENMP = "OMP_NUM_THREADS"


@dataclass(eq=False)
class LaunchedTask:
    """Describe a program that was launched."""

    task_id: int
    task: Task
    allocation: Reservation
    target: str  #: The command line, for the log.
    tag: str  #: Label that the user gave to the task, for the log.
    parent: str  #: Id of the call that launched the task, for the log.
    #: Variables that the user asked for, for the log.
    environment: dict[str, str] = field(default_factory=dict)
    host: str = ""  #: Nodes of the task, for the log.
    begin: float = field(default_factory=time.monotonic)  #: Start by ``time.monotonic``.
    start_time: float = 0.0  #: Start in seconds since the epoch.
    begun: bool = False  #: True once the process exists.
    overdue: bool = False  #: True once `SingleTasks.wait` has reached its timeout.
    #: Result of ``tasks.runner.Runner.run``, once the task has ended.
    record: dict[str, Any] | None = None

    @property
    def exit_status(self) -> int:
        """Exit code of a task that has ended; -9 for one that did not end."""
        return -signal.SIGKILL if self.record is None else int(self.record["exit_status"])

    @property
    def key(self) -> str:
        """Name of the task for the runner."""
        return f"task-{self.task_id}"


class SingleTasks:
    """Hold the tasks that a component has launched.

    ``link`` reserves cores, gives out task numbers and takes the events; ``launcher`` returns the
    `TaskLauncher`; ``logger`` gets the reasons of failures. ``tasks`` holds by number the tasks
    whose exit code was not fetched yet.
    """

    def __init__(
        self, link: FrameworkLink, launcher: Callable[[], TaskLauncher], logger: logging.Logger
    ) -> None:
        self.tasks: dict[int, LaunchedTask] = {}
        self._link = link
        self._get_launcher = launcher
        self._logger = logger
        self._runner = Runner("local")
        self._changed = threading.Condition()
        self._guard: OrphanReaper | None = None

    def launch(
        self, task: Task, demand: Demand, block: bool = True, tag: str = "None", parent: str = ""
    ) -> int:
        """Start a program and return its number as soon as its process exists.

        With ``block``, wait until the demand can be reserved. Raises BadResourceRequest if that is
        never possible, InsufficientResources without ``block`` if it is not possible now, and
        TaskLaunchError if the program does not start.
        """
        allocation: Reservation = self._link.ask("allocate", *astuple(demand), block)
        try:
            launched, payload = self._prepared(task, allocation, tag, parent)
            self.tasks[launched.task_id] = launched
            thread = threading.Thread(
                target=self._run, args=(launched, payload), name=launched.key, daemon=True
            )
            thread.start()
        except BaseException:
            self._release(allocation)
            raise
        with self._changed:
            self._changed.wait_for(lambda: launched.begun or launched.record is not None)
        if not launched.begun:
            del self.tasks[launched.task_id]
            assert launched.record is not None
            raise TaskLaunchError(f"task {task.name}: {launched.record['error']}")
        return launched.task_id

    def _prepared(
        self, task: Task, allocation: Reservation, tag: str, parent: str
    ) -> tuple[LaunchedTask, dict[str, Any]]:
        """Return a task with a number, and its payload for the runner."""
        with self._changed:
            self._guard = self._guard or OrphanReaper()
        launcher = self._get_launcher()
        argv, variables = launcher.command(task, allocation)
        target = " ".join(launcher.line(task, allocation)[0])
        if not task.launcher.get("omp") and (launcher.mpirun == "eval" or _OPENMP in os.environ):
            # Keep the variable as it is in the component's environment, or unset.
            variables.pop(_OPENMP, None)
        launched = LaunchedTask(
            self._link.ask("new_task_id"), task, allocation, target, tag, parent
        )
        launched.host = launcher.hosts(allocation)
        launched.environment = (variables if task.launcher.get("omp") else {}) | dict(task.task_env)
        payload = task.payload(launched.key)
        for key in ("slots", "gpus", "pin"):  # The launcher handles these.
            payload.pop(key, None)
        environment = variables | payload.get("env", {}) | self._guard.environment
        return launched, payload | {"argv": argv, "env": environment}

    def _run(self, launched: LaunchedTask, payload: dict[str, Any]) -> None:
        """Run a task to its end, release its reservation, write its event and set its record."""
        record: dict[str, Any] = {"status": "failed", "exit_status": 126, "error": "it did not run"}
        try:
            record = self._ran(launched, payload)
            self._release(launched.allocation)
            if launched.begun:
                self._log_end(launched, record)
        except Exception:
            self._logger.exception("task %s (%s)", launched.task_id, launched.target)
        finally:  # Always, because a caller may wait for the record.
            with self._changed:  # Set last, so that a waiting caller finds the cores released.
                launched.record = record
                self._changed.notify_all()

    def _ran(self, launched: LaunchedTask, payload: dict[str, Any]) -> dict[str, Any]:
        """Run a task and return its record."""

        def started(first: dict[str, Any]) -> None:
            launched.start_time = first["start_time"]
            launched.host = launched.host or first["host"]

        def spawned() -> None:
            launched.begin = time.monotonic()
            self._log_begin(launched)
            with self._changed:
                launched.begun = True
                self._changed.notify_all()

        try:
            record = self._runner.run(payload | {"spawned": spawned}, started)
            record = self._get_launcher().finish(record, launched.allocation)
        except Exception as error:
            record = {"status": "failed", "exit_status": 126, "error": describe(error)}
        if launched.overdue and record["status"] == "cancelled":
            how = {"status": "timed_out", "exit_status": -signal.SIGKILL}
            record = record | how | {"error": "wait_task did not wait any longer"}
        return record

    def _release(self, allocation: Reservation) -> None:
        with contextlib.suppress(IPSError):  # The framework is gone.
            self._link.ask("release", allocation.id)

    # -- waiting and ending ------------------------------------------------------------------

    def poll(self, task_id: int) -> int | None:
        """Return the exit code of a task and forget the task, or return None while it runs.

        Raises KeyError if the number is unknown or its task was waited for already.
        """
        return self._taken(task_id) if self._find(task_id).record is not None else None

    def wait(self, task_id: int, timeout: float | None = None) -> int:
        """Wait for a task, forget it and return its exit code.

        The task is ended ``timeout`` seconds after its start; its code is then -9. Raises KeyError
        if the number is unknown or its task was waited for already.
        """
        launched = self._find(task_id)
        left = None if timeout is None else launched.begin + timeout - time.monotonic()
        if not self._await([launched], left):
            launched.overdue = True
            self._end([launched])
        return self._taken(task_id)

    def wait_for(self, task_ids: Sequence[int], block: bool = True) -> dict[int, int]:
        """Return exit codes of tasks and forget these tasks; without ``block``, skip running ones.

        Raises KeyError, and forgets none, if a number is unknown.
        """
        wanted = [self._find(task_id) for task_id in dict.fromkeys(task_ids)]
        if block:
            self._await(wanted, None)
        return {
            each.task_id: self._taken(each.task_id) for each in wanted if each.record is not None
        }

    def kill(self, task_ids: Iterable[int]) -> bool:
        """End tasks by SIGTERM and, after 3 s, SIGKILL, forget them, and return whether all ended.

        Raises KeyError, and ends none, if a number is unknown.
        """
        doomed = [self._find(task_id) for task_id in task_ids]
        ended = self._end(doomed)
        for launched in doomed:
            self.tasks.pop(launched.task_id, None)
        return ended

    def close(self) -> int:
        """End all running tasks and their remaining processes; return how many tasks ran."""
        running = [each for each in self.tasks.values() if each.record is None]
        self._end(running)
        if self._guard is not None:
            self._guard.close()
        return len(running)

    def _find(self, task_id: int) -> LaunchedTask:
        if task_id not in self.tasks:
            self._logger.error("no task %s to wait for, or to end", task_id)
            raise KeyError(f"no task {task_id}, or it was waited for already")
        return self.tasks[task_id]

    def _taken(self, task_id: int) -> int:
        return self.tasks.pop(task_id).exit_status

    def _await(self, tasks: Sequence[LaunchedTask], seconds: float | None) -> bool:
        limit = None if seconds is None else min(seconds, threading.TIMEOUT_MAX)
        with self._changed:
            return self._changed.wait_for(
                lambda: all(each.record is not None for each in tasks), limit
            )

    def _end(self, tasks: Sequence[LaunchedTask]) -> bool:
        # In parallel, because a task that ignores SIGTERM takes seconds to end.
        threads = [
            threading.Thread(target=self._runner.cancel, args=(each.key,))
            for each in tasks
            if each.record is None
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ended = self._await(tasks, _TOLD_SECONDS)
        if not ended:
            left = ", ".join(str(each.task_id) for each in tasks if each.record is None)
            self._logger.error("task(s) %s do not end", left)
        return ended

    # -- the log -----------------------------------------------------------------------------

    def _log_begin(self, launched: LaunchedTask) -> None:
        task = launched.task
        changed = f", env = {launched.environment}" if launched.environment else ""
        self._link.emit(
            "IPS_LAUNCH_TASK",
            f"task_id = {launched.task_id} , Tag = {launched.tag} , nproc = {task.nproc} , "
            f"Target = {launched.target}{changed}",
            at=launched.start_time,
            **_about(launched),
        )

    def _log_end(self, launched: LaunchedTask, record: dict[str, Any]) -> None:
        task, status = launched.task, record["status"]
        begin, elapsed = launched.start_time, record.get("elapsed_time", 0.0)
        error = record.get("error", "")
        if error:  # A warning and no error: the component gets the code, and may expect it.
            level = logging.INFO if status == "cancelled" else logging.WARNING
            self._logger.log(level, "task %s (%s): %s", launched.task_id, launched.target, error)
        timed_out = " TIMEOUT" if status == "timed_out" else ""
        self._link.emit(
            "IPS_TASK_END",
            f"task_id = {launched.task_id} {timed_out} elapsed time = {elapsed:.2f} S",
            ok=status == "finished",
            trace=trace(
                launched.target,
                task.name,
                span=span_id(launched.target, task.name, launched.task_id),
                begin=begin,
                end=begin + elapsed,
                parent=launched.parent,
                procs_requested=task.nproc,
                cores_allocated=sum(share.cores for share in launched.allocation.shares),
            ),
            **_about(launched),
            status=status,
            exit_status=record["exit_status"],
            elapsed_time=elapsed,
            **{key: record[key] for key in ("error", "output") if record.get(key)},
        )


def _about(launched: LaunchedTask) -> dict[str, Any]:
    return {
        "task_id": launched.task_id,
        "task_name": launched.task.name,
        "start_time": launched.start_time,
        "host": launched.host,
    }
