"""Services by which a component runs single programs: launch, wait, kill."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from ips_core.errors import TaskLaunchError, TaskPoolError, did_you_mean
from ips_core.services.base import ServicesBase
from ips_core.tasks.demand import fit
from ips_core.tasks.single_tasks import LaunchedTask, SingleTasks
from ips_core.tasks.task import Task

__all__ = ["TaskServices"]

_FILES = ("logfile", "errfile")
_NUMBERS = ("task_ppn", "task_cpp", "task_gpp")
_KEYWORDS = (
    *_FILES,
    *_NUMBERS,
    "block",
    "launch_cmd_extra_args",
    "omp",
    "stdin",
    "tag",
    "task_env",
    "timeout",
    "whole_nodes",
    "whole_sockets",
)


class TaskServices(ServicesBase):
    """Single tasks.

    Attributes
    ----------
    task_map : dict
        The tasks that nobody has waited for, by their numbers.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._tasks = SingleTasks(self.link, lambda: self._task_launcher, self.logger)
        self.task_map: dict[int, LaunchedTask] = self._tasks.tasks

    def launch_task(
        self, nproc: int, working_dir: str, binary: str, *args: Any, **keywords: Any
    ) -> int:
        """Start a program by the platform's ``MPIRUN`` and go on once it runs.

        Parameters
        ----------
        nproc : int
            Its processes; with ``MPIRUN = eval`` it is one process that holds so many cores.
        working_dir : str
            Where it runs.
        binary : str
            The program; a string with blanks that names no file is split as a shell would.
        *args
            Its arguments, each one argument, as text, whatever blanks or quotes are in it.
        **keywords
            ``logfile``, ``errfile`` : path
                Where output goes, relative to the current directory; stderr joins stdout unless
                ``errfile`` is given. Default: the simulation's output.
            ``stdin`` : path or bytes
                What it reads. Default: nothing.
            ``timeout`` : float
                Seconds that it may take; then it is ended, and its code is -1. Default: no limit,
                as for infinity.
            ``task_env`` : dict
                Environment variables on top of the component's.
            ``task_ppn`` : int
                Processes on a node at most. Default: PROCS_PER_NODE of the component, else of the
                platform, else the cores of a node.
            ``task_cpp`` : int
                Cores of a process at most. Default: CPUS_PER_PROC of the component; on whole nodes,
                else, all cores are spread over the processes.
            ``task_gpp`` : int
                GPUs of a process, which srun hands out. Default: 0.
            ``omp`` : bool
                Tell the program how many OpenMP threads a process has cores for, and bind them.
            ``whole_nodes``, ``whole_sockets`` : bool
                Whether its nodes, or sockets, are nobody else's meanwhile. Default: if
                NODE_ALLOCATION_MODE is EXCLUSIVE.
            ``launch_cmd_extra_args`` : str or sequence of str
                More options of the launcher; they come last and so win.
            ``block`` : bool
                Wait for cores that are in use. Default: True.
            ``tag`` : str
                A word for the log. Default: ``"None"``.

            Others have no effect but a warning in the log file, as simulations may have some.

        Returns
        -------
        int
            The task's number; tasks of all components count 1, 2 and so on.

        Raises
        ------
        ValueError
            ``binary`` is no text.
        FileNotFoundError
            There is no directory ``working_dir``.
        TaskLaunchError
            The program is not there or cannot be started, or an argument makes no sense.
        BadResourceRequest, ResourceRequestMismatch, ResourceRequestUnequalPartitioning, \
GPUResourceRequestMismatch
            What it needs can never be had.
        InsufficientResources
            It is in use, and ``block`` is False.
        """
        known = {key: value for key, value in keywords.items() if key in _KEYWORDS}
        task = _task(nproc, working_dir, binary, args, known)
        demand, said = fit(task, self._task_defaults, self._start.resources)
        said += _unknown(keywords)
        if demand.gpus and self._task_launcher.mpirun in ("mpirun", "mpiexec"):
            said.append(f"task_gpp = {demand.gpus}: only srun hands out GPUs, so it has no effect")
        for sentence in said:
            self.logger.warning("task %s: %s", task.name, sentence)
        block, tag = keywords.get("block", True), keywords.get("tag", "None")
        return self._tasks.launch(task, demand, bool(block), str(tag), self.span)

    def wait_task(self, task_id: int, timeout: float = -1, delay: float = 1) -> int:
        """Wait for a task.

        Parameters
        ----------
        task_id : int
            As :meth:`launch_task` returned it.
        timeout : float
            Seconds from the task's start after which all its processes are ended; the code is -9
            then. Default: no limit.
        delay : float
            Has no effect: an end is noticed when it happens.

        Returns
        -------
        int
            The exit code; negative for a signal, -1 for ``timeout`` of :meth:`launch_task`.

        Raises
        ------
        KeyError
            There is no such task, or it was waited for already.
        """
        return self._tasks.wait(task_id, timeout if timeout >= 0 else None)

    def wait_task_nonblocking(self, task_id: int) -> int | None:
        """Return the exit code of a task, as :meth:`wait_task`; None while it runs.

        Raises
        ------
        KeyError
            There is no such task, or it was waited for already.
        """
        return self._tasks.poll(task_id)

    def wait_tasklist(self, task_id_list: Iterable[int], block: bool = True) -> dict[int, int]:
        """Wait for several tasks.

        Parameters
        ----------
        task_id_list : iterable of int
            As :meth:`launch_task` returned them.
        block : bool
            False: do not wait. Default: True.

        Returns
        -------
        dict
            The exit codes by task; with ``block=False``, of those that have ended.

        Raises
        ------
        KeyError
            One of them is not there, or was waited for already.
        """
        return self._tasks.wait_for(list(task_id_list), block)

    def kill_task(self, task_id: int) -> bool:
        """End all processes of a task, by SIGTERM and, 3 s later, SIGKILL; it is forgotten.

        Returns
        -------
        bool
            Whether it has ended.

        Raises
        ------
        KeyError
            There is no such task, or it was waited for already.
        """
        return self._tasks.kill([task_id])

    def kill_all_tasks(self) -> bool:
        """End all tasks of this component, as :meth:`kill_task`; return whether they have ended."""
        return self._tasks.kill(list(self.task_map))

    def cleanup(self, ok: bool) -> None:
        """End the tasks that still run."""
        running = self._tasks.close()
        if running and ok:
            self.logger.warning(
                "the simulation ended while %s task(s) were running, which were killed "
                "(wait_task waits for one)",
                running,
            )
        super().cleanup(ok)


def _task(
    nproc: int, working_dir: str, binary: str, args: Iterable[Any], keywords: Mapping[str, Any]
) -> Task:
    """Return a task as a checked value."""
    if not isinstance(binary, (str, os.PathLike)):
        found = type(binary).__name__
        raise ValueError(f"task binary of wrong type, expected str but found {found}")
    words = os.fspath(binary).split() or [""]
    name = os.path.basename(words[0])
    for key, value in keywords.items():
        if key in _NUMBERS:
            _check_count(name, key, value)
    if not os.path.isdir(working_dir):
        text = f"task {name}: there is no working directory"
        raise FileNotFoundError(errno.ENOENT, text, os.fspath(working_dir))
    # relative to where the component is, and not to the task's directory as in pools
    files = {key: os.path.abspath(keywords[key]) for key in _FILES if keywords.get(key)}
    others = {key: value for key, value in keywords.items() if key not in _FILES}
    if others.get("timeout") == math.inf:
        del others["timeout"]
    try:
        task = Task(name, nproc, working_dir, binary, *args, **others, **files)
    except TaskPoolError as error:
        raise TaskLaunchError(str(error)) from None
    try:
        task.launcher_arguments  # noqa: B018  # is there an open quote?
    except ValueError:
        given = task.launcher["launch_cmd_extra_args"]
        text = f"task {name}: launch_cmd_extra_args = {given!r}: expected each quote to be closed"
        raise TaskLaunchError(text) from None
    if task.missing:
        raise TaskLaunchError(task.missing)
    return task


def _unknown(keywords: Iterable[str]) -> list[str]:
    """Return a sentence for each keyword that is none of launch_task's."""
    found = []
    for key in keywords:
        if key not in _KEYWORDS:
            hint = did_you_mean(key, _KEYWORDS)
            found.append(f"unknown keyword {key}, which has no effect{hint}")
    return found


def _check_count(name: str, key: str, value: Any) -> None:
    try:
        good = value is None or int(value) >= 0
    except (TypeError, ValueError):
        good = False
    if not good:
        raise TaskLaunchError(f"task {name}: {key} = {value!r}: expected a whole number, 0 or more")
