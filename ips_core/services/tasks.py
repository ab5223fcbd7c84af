"""Launch single programs, wait for them and kill them."""

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
    """Single tasks."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._tasks = SingleTasks(self.link, lambda: self._task_launcher, self.logger)
        self.task_map: dict[int, LaunchedTask] = self._tasks.tasks

    def launch_task(
        self, nproc: int, working_dir: str, binary: str, *args: Any, **keywords: Any
    ) -> int:
        """Start a program by the platform's ``MPIRUN`` and return once it runs.

        Parameters
        ----------
        nproc : int
            Number of processes. With ``MPIRUN = eval``, one process that holds this many cores.
        working_dir : str
            Directory in which the program runs.
        binary : str
            Name or path of the program. A str with blanks that names no file is split as in a
            shell.
        *args
            Arguments of the program. Each is converted to one str and passed on unchanged.
        **keywords
            ``logfile``, ``errfile`` : path
                Files for stdout and stderr, relative to the current directory. Default: stdout goes
                to the output of the simulation, and stderr to where stdout goes.
            ``stdin`` : path or bytes
                File or bytes that the program reads. Default: nothing.
            ``timeout`` : float
                Seconds after which the task is ended with exit code -1. Default: infinity.
            ``task_env`` : dict
                Environment variables in addition to the component's.
            ``task_ppn`` : int
                Maximum number of processes on a node. Default: PROCS_PER_NODE of the component,
                else of the platform, else the cores of a node.
            ``task_cpp`` : int
                Maximum number of cores of a process. Default: CPUS_PER_PROC of the component, else
                all cores of whole nodes, spread over the processes, else the process's share of a
                node with PROCS_PER_NODE processes.
            ``task_gpp`` : int
                GPUs of each process; only srun assigns them. Default: 0.
            ``omp`` : bool
                Set the OpenMP variables so that a process has one bound thread for each of its
                cores. Default: False.
            ``whole_nodes``, ``whole_sockets`` : bool
                Share the nodes, or sockets, with no other task. Default: True if
                NODE_ALLOCATION_MODE is EXCLUSIVE.
            ``launch_cmd_extra_args`` : str or sequence of str
                Further options of the launcher. They come last and so take precedence.
            ``block`` : bool
                Wait for cores that are in use. Default: True.
            ``tag`` : str
                Word for the log. Default: ``"None"``.

            Any other keyword has no effect and logs a warning.

        Returns
        -------
        int
            Task id. Ids are numbered from 1 over all components.

        Raises
        ------
        ValueError
            `binary` is not a str or path.
        FileNotFoundError
            The directory `working_dir` does not exist.
        TaskLaunchError
            The program does not exist or cannot be started, or an argument is invalid.
        BadResourceRequest
            There are not enough cores, GPUs or nodes in total.
        ResourceRequestMismatch
            There are enough cores, but not with so few processes on a node.
        ResourceRequestUnequalPartitioning
            The task needs whole nodes, and not all would run the same number of processes.
        GPUResourceRequestMismatch
            The processes on a node need more GPUs than a node has.
        InsufficientResources
            The resources are in use, and ``block`` is False.
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
        """Wait for the end of a task and return its exit code; the task id is then unknown.

        Parameters
        ----------
        task_id : int
            Task id from :meth:`launch_task`.
        timeout : float
            Seconds from the task's start after which all its processes are ended, with exit code
            -9. Default: -1, no limit.
        delay : float
            Accepted for IPS-framework and without effect: the end of a task is noticed at once.
            Default: 1.

        Returns
        -------
        int
            Exit code; negative for the signal that ended the program, -1 after ``timeout`` of
            :meth:`launch_task`.

        Raises
        ------
        KeyError
            The task id is unknown, or the task was waited for already.
        """
        return self._tasks.wait(task_id, timeout if timeout >= 0 else None)

    def wait_task_nonblocking(self, task_id: int) -> int | None:
        """Return the exit code of a task that has ended, without waiting.

        Parameters
        ----------
        task_id : int
            Task id from :meth:`launch_task`.

        Returns
        -------
        int or None
            Exit code as of :meth:`wait_task`; None if the task still runs.

        Raises
        ------
        KeyError
            The task id is unknown, or the task was waited for already.
        """
        return self._tasks.poll(task_id)

    def wait_tasklist(self, task_id_list: Iterable[int], block: bool = True) -> dict[int, int]:
        """Wait for the end of several tasks.

        Parameters
        ----------
        task_id_list : iterable of int
            Task ids from :meth:`launch_task`.
        block : bool
            If False, return without waiting. Default: True.

        Returns
        -------
        dict
            Exit codes by task id. With ``block=False``, only of tasks that have ended.

        Raises
        ------
        KeyError
            A task id is unknown, or the task was waited for already. The other tasks can still be
            waited for.
        """
        return self._tasks.wait_for(list(task_id_list), block)

    def kill_task(self, task_id: int) -> bool:
        """End all processes of a task by SIGTERM and, 3 s later, SIGKILL; the id is then unknown.

        Parameters
        ----------
        task_id : int
            Task id from :meth:`launch_task`.

        Returns
        -------
        bool
            True if the task has ended.

        Raises
        ------
        KeyError
            The task id is unknown, or the task was waited for already.
        """
        return self._tasks.kill([task_id])

    def kill_all_tasks(self) -> bool:
        """End all tasks of this component as :meth:`kill_task` does.

        Returns
        -------
        bool
            True if all tasks have ended.
        """
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
    """Return a checked task."""
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
    # Relative to the component's current directory; in pools, to the task's working directory.
    files = {key: os.path.abspath(keywords[key]) for key in _FILES if keywords.get(key)}
    others = {key: value for key, value in keywords.items() if key not in _FILES}
    if others.get("timeout") == math.inf:
        del others["timeout"]
    try:
        task = Task(name, nproc, working_dir, binary, *args, **others, **files)
    except TaskPoolError as error:
        raise TaskLaunchError(str(error)) from None
    try:
        task.launcher_arguments  # noqa: B018  # An open quote raises ValueError.
    except ValueError:
        given = task.launcher["launch_cmd_extra_args"]
        text = f"task {name}: launch_cmd_extra_args = {given!r}: expected each quote to be closed"
        raise TaskLaunchError(text) from None
    if task.missing:
        raise TaskLaunchError(task.missing)
    return task


def _unknown(keywords: Iterable[str]) -> list[str]:
    """Return a warning for each keyword that ``launch_task`` does not know."""
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
