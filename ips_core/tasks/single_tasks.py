"""The programs that a component has launched by itself: started, watched, waited for, ended.

Each has a thread, which holds the task's cores until the program has ended and then tells the log.
What a pool is, is not known here; what a task may ask for is ``task_demand``'s.
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

#: For the thread of a task whose process has been ended: it asks Slurm what is left of a step.
_TOLD_SECONDS = 15.0
_OPENMP = "OMP_NUM_THREADS"


@dataclass(eq=False)
class LaunchedTask:
    """A program that was launched.

    Attributes
    ----------
    task_id : int
        Its number.
    task : Task
        What was asked for.
    allocation : Allocation
        What it has of the nodes.
    target : str
        Its command line, as the log has it.
    tag, parent : str
        The user's word for it, and the id of the call that launched it, for the log.
    environment : dict of str to str
        Variables that were asked for, for the log.
    host : str
        Where it runs.
    begin, start_time : float
        When it has started, by ``time.monotonic`` and in seconds since the epoch.
    begun, overdue : bool
        Whether there has been a process; whether somebody has waited long enough.
    record : dict or None
        Of ``tasks.runner.Runner``, once it has ended.
    """

    task_id: int
    task: Task
    allocation: Reservation
    target: str
    tag: str
    parent: str
    environment: dict[str, str] = field(default_factory=dict)
    host: str = ""
    begin: float = field(default_factory=time.monotonic)
    start_time: float = 0.0
    begun: bool = False
    overdue: bool = False
    record: dict[str, Any] | None = None

    @property
    def exit_status(self) -> int:
        """The code of one that has ended; of one that would not end, that of a kill."""
        return -signal.SIGKILL if self.record is None else int(self.record["exit_status"])

    @property
    def key(self) -> str:
        """What the runner knows it by."""
        return f"task-{self.task_id}"


class SingleTasks:
    """The tasks that a component has launched.

    Parameters
    ----------
    link : FrameworkLink
        To the framework, which hands out cores and numbers, and takes the events.
    launcher : TaskLauncher
        Makes command lines.
    logger : logging.Logger
        Takes the reasons of failures.

    Attributes
    ----------
    tasks : dict of int to LaunchedTask
        Those that nobody has waited for, by number.
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
        """Start a task, and return its number as soon as there is a process.

        Parameters
        ----------
        task : Task
            A program.
        demand : Demand
            What it needs.
        block : bool
            Wait for that if it is in use.
        tag, parent : str
            For the log.

        Raises
        ------
        BadResourceRequest, InsufficientResources
            It can never be had, or not now.
        TaskLaunchError
            The program does not start.
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
        """Return a task with a number, and what the runner is given."""
        with self._changed:
            self._guard = self._guard or OrphanReaper()
        launcher = self._get_launcher()
        argv, variables = launcher.command(task, allocation)
        target = " ".join(launcher.line(task, allocation)[0])
        if not task.launcher.get("omp") and (launcher.mpirun == "eval" or _OPENMP in os.environ):
            variables.pop(_OPENMP, None)  # as whoever starts the simulation has it
        launched = LaunchedTask(
            self._link.ask("new_task_id"), task, allocation, target, tag, parent
        )
        launched.host = launcher.hosts(allocation)
        launched.environment = (variables if task.launcher.get("omp") else {}) | dict(task.task_env)
        payload = task.payload(launched.key)
        for key in ("slots", "gpus", "pin"):  # the launcher's business
            payload.pop(key, None)
        environment = variables | payload.get("env", {}) | self._guard.environment
        return launched, payload | {"argv": argv, "env": environment}

    def _run(self, launched: LaunchedTask, payload: dict[str, Any]) -> None:
        """Run a task to its end, and tell everybody; in its thread."""
        record: dict[str, Any] = {"status": "failed", "exit_status": 126, "error": "it did not run"}
        try:
            record = self._ran(launched, payload)
            self._release(launched.allocation)
            if launched.begun:
                self._log_end(launched, record)
        except Exception:
            self._logger.exception("task %s (%s)", launched.task_id, launched.target)
        finally:  # whatever happens: somebody waits for it
            with self._changed:  # told last: whoever hears of it may count on the cores
                launched.record = record
                self._changed.notify_all()

    def _ran(self, launched: LaunchedTask, payload: dict[str, Any]) -> dict[str, Any]:
        """Run a task and return how it ended."""

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
        with contextlib.suppress(IPSError):  # the framework is gone
            self._link.ask("release", allocation.id)

    # -- waiting and ending ------------------------------------------------------------------

    def poll(self, task_id: int) -> int | None:
        """Return the exit code of a task, which is forgotten then; None while it runs.

        Raises
        ------
        KeyError
            There is no such task, or somebody has waited for it.
        """
        return self._taken(task_id) if self._find(task_id).record is not None else None

    def wait(self, task_id: int, timeout: float | None = None) -> int:
        """Wait for a task and return its exit code; it is forgotten then.

        Parameters
        ----------
        task_id : int
            Its number.
        timeout : float, optional
            Seconds since its start at which it is ended: then the code is -9. Default: none.

        Raises
        ------
        KeyError
            There is no such task, or somebody has waited for it.
        """
        launched = self._find(task_id)
        left = None if timeout is None else launched.begin + timeout - time.monotonic()
        if not self._await([launched], left):
            launched.overdue = True
            self._end([launched])
        return self._taken(task_id)

    def wait_for(self, task_ids: Sequence[int], block: bool = True) -> dict[int, int]:
        """Return the exit codes of several tasks, which are forgotten; without waiting, of some.

        Raises
        ------
        KeyError
            One is not there; none is forgotten then.
        """
        wanted = [self._find(task_id) for task_id in dict.fromkeys(task_ids)]
        if block:
            self._await(wanted, None)
        return {
            each.task_id: self._taken(each.task_id) for each in wanted if each.record is not None
        }

    def kill(self, task_ids: Iterable[int]) -> bool:
        """End tasks by TERM and, after a grace of 3 s, KILL; they are forgotten.

        Returns
        -------
        bool
            Whether all of them have ended.

        Raises
        ------
        KeyError
            One is not there; none is ended then.
        """
        doomed = [self._find(task_id) for task_id in task_ids]
        ended = self._end(doomed)
        for launched in doomed:
            self.tasks.pop(launched.task_id, None)
        return ended

    def close(self) -> int:
        """End what still runs, and whatever it has left behind; return how many tasks ran."""
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
        # at once: what ignores SIGTERM takes its time
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
        if error:  # no more than a warning: the component gets the code, and may expect it
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
