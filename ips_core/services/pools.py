"""Fill task pools and run them."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from ips_core.errors import TaskPoolError, did_you_mean
from ips_core.ipc.messages import Broadcast
from ips_core.pools.dask.backend import DaskBackend, DaskClusters
from ips_core.pools.local.backend import LocalBackend
from ips_core.pools.policy import Policy
from ips_core.pools.pool import TaskPool
from ips_core.pools.progress import is_watched, progress
from ips_core.pools.submitter import Submitter
from ips_core.services.base import ServicesBase
from ips_core.tasks.record import TaskRecord
from ips_core.tasks.task import Task

__all__ = ["PoolServices"]

_LOOK_SECONDS = 0.1  # between two updates of a progress bar


class PoolServices(ServicesBase):
    """Task pools."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.task_pools: dict[str, TaskPool] = {}
        self._dask = DaskClusters(self._start, self.link, self.logger)
        self._submitter = Submitter(self._start, self.link, self.logger)

    def create_task_pool(self, task_pool_name: str, resume: bool = False) -> None:
        """Create an empty pool.

        Parameters
        ----------
        task_pool_name : str
            Name of the pool.
        resume : bool
            If True, a task that an earlier run of the simulation finished successfully, with the
            same name and the same work, does not run again; its recorded result is returned.
            ``ips.py --resume`` sets it for every pool. Default: False.

        Raises
        ------
        TaskPoolError
            A pool of that name exists.
        """
        if task_pool_name in self.task_pools:
            raise TaskPoolError(f"Error: Duplicate task pool name {task_pool_name}")
        self.task_pools[task_pool_name] = TaskPool(task_pool_name, resume)

    def add_task(
        self,
        task_pool_name: str,
        task_name: str,
        nproc: int,
        working_dir: str,
        binary: str | Callable[..., Any],
        *args: Any,
        **keywords: Any,
    ) -> None:
        """Add a task to a pool.

        Parameters
        ----------
        task_pool_name : str
            Name of the pool.
        task_name : str
            Name of the task, new in the pool.
        nproc : int
            Number of cores, which the task finds in ``OMP_NUM_THREADS``; for an MPI program, number
            of processes.
        working_dir : str
            Directory in which a program, or a callable in a process of its own, runs.
        binary : str or callable
            A program, a function, a coroutine function or a bound method. A str with blanks that
            names no file is split as in a shell.
        *args
            Arguments. Those of a program are converted to one str each and passed on unchanged.
        **keywords
            Options of the task. A callable gets all keywords that are not listed here, and those
            that are among its own parameters.

            ``logfile``, ``errfile`` : path
                Files for stdout and stderr, relative to `working_dir`. Default: stdout goes to the
                output of the worker, and stderr to where stdout goes.
            ``stdin`` : path or bytes
                File, relative to `working_dir`, or bytes that the task reads. Default: nothing.
            ``timeout`` : float
                Seconds after which the task's processes are ended. Default: no limit.
            ``task_env`` : dict
                Environment variables in addition to the worker's.
            ``isolate`` : bool
                Run a callable in a process of its own, which can be ended, has `working_dir` as its
                current directory, and shares no lock with other tasks. Default: True for a callable
                with ``timeout``, ``task_env``, ``logfile``, ``errfile``, ``stdin`` or ``gpus``.
            ``gpus`` : int
                Number of GPUs that no other task uses, in ``CUDA_VISIBLE_DEVICES``,
                ``ROCR_VISIBLE_DEVICES`` and ``ZE_AFFINITY_MASK``; for an MPI program, GPUs of each
                process. Default: 0.
            ``pin`` : bool
                Bind the task to cores that no other pinned task uses. Default: False.
            ``mpi`` : bool
                True: `nproc` processes, started by srun on Dask, else by the platform's ``MPIRUN``.
                False: one process with `nproc` cores. Default: on Dask, True for a program that
                needs more cores than a worker has; without Dask, True for a program.
            ``time_request`` : float
                Seconds that the allocation must still last for the task to start. Default: as for
                :meth:`submit_tasks`.
            ``priority`` : int
                Tasks with a higher priority start first. Default: 0.
            ``retries``, ``retry_failed`` : int
                Limits for this task. Default: as for :meth:`submit_tasks`.
            ``task_ppn``, ``task_cpp``, ``launch_cmd_extra_args``
                As for :meth:`launch_task`, for a program with several processes.
            ``task_gpp``, ``omp``, ``whole_nodes``
                As for :meth:`launch_task`, for a program in a pool without Dask.

        Raises
        ------
        KeyError
            There is no such pool.
        TaskPoolError
            The name is taken, the program does not exist, or an argument is invalid.
        """
        self._pool(task_pool_name).add_task(
            task_name, nproc, working_dir, binary, *args, **keywords
        )

    def add_tasks(
        self, task_pool_name: str, tasks: Iterable[Task], keep_results: bool = True
    ) -> None:
        """Add the tasks of an iterable, such as a generator, which is read while the pool runs.

        Parameters
        ----------
        task_pool_name : str
            Name of the pool.
        tasks : iterable of Task
            Tasks; ``ips_core.Task`` has the parameters of :meth:`add_task` without the pool.
            Another thread reads the iterable, one task whenever the pool has room.
        keep_results : bool
            If False, a task's record goes to the log, the pool's summary and
            :meth:`iter_finished_tasks`, and is not kept in memory for :meth:`get_finished_tasks`
            and :meth:`get_task_records`. Default: True.

        Raises
        ------
        KeyError
            There is no such pool.
        TaskPoolError
            `tasks` is not iterable.
        """
        self._pool(task_pool_name).add_tasks(tasks, keep_results)

    def submit_tasks(
        self,
        task_pool_name: str,
        block: bool = True,
        use_dask: bool = False,
        dask_nodes: int | None = 1,
        dask_ppw: int | None = None,
        launch_interval: float = 0.0,
        use_shifter: bool = False,
        shifter_args: str | Sequence[str] | None = None,
        dask_worker_plugin: Any = None,
        dask_worker_per_gpu: bool = False,
        retries: int = 2,
        retry_failed: int = 0,
        max_failures: float | None = None,
        time_request: float | None = None,
        **keywords: Any,
    ) -> int:
        """Start the tasks of a pool, on a Dask cluster or without one.

        Parameters
        ----------
        task_pool_name : str
            Name of the pool.
        block : bool
            If True, a pool without Dask waits until all tasks have ended; a pool on Dask never
            waits. Default: True.
        use_dask : bool
            If True, run on Dask workers, which is faster. If False, start each task as
            :meth:`launch_task` does. Default: False.
        dask_nodes : int
            Number of nodes, with one Dask worker on each. Default: 1.
        dask_ppw : int, optional
            Number of tasks that a worker runs side by side. Default: PROCS_PER_NODE of the
            component, else of the platform, else the number of cores of a node.
        launch_interval : float
            Seconds between two starts. Default: 0.
        use_shifter : bool
            If True, run the Dask workers, and so the tasks, in a Shifter container. Default: False.
        shifter_args : str or sequence of str, optional
            Arguments of Shifter; a str is split as in a shell.
        dask_worker_plugin : WorkerPlugin, optional
            Plugin that is set up on every worker before the first task and torn down before
            :meth:`get_finished_tasks` returns.
        dask_worker_per_gpu : bool
            If True, start one worker for each GPU instead of one for each node. Default: False.
        retries : int
            How often a task runs again after its worker was lost. Default: 2.
        retry_failed : int
            How often a task runs again after it raised, ended with a nonzero exit code, or timed
            out. Default: 0.
        max_failures : int or float, optional
            Limit of failed tasks; below 1, as a share of all tasks. Once more tasks have failed, no
            more start, and their status is ``not_started``. Default: no limit.
        time_request : float, optional
            Seconds that the allocation must still last for a task to start. Default: no limit.
        **keywords
            ``oversubscribe`` and ``hwthreads`` of newer IPS are accepted if false.

        Returns
        -------
        int
            Number of submitted tasks, without those that iterables will yield.

        Raises
        ------
        KeyError
            There is no such pool.
        TaskPoolError
            The pool is empty or already submitted, a task can never run, an argument is invalid, or
            what the arguments ask for does not exist. Nothing was submitted.
        DaskClusterError
            The cluster could not start; the message has the reason.
        Exception
            ``setup`` of `dask_worker_plugin` raised on a worker.
        """
        pool = self._pool(task_pool_name)
        _check_keywords(pool.name, keywords)
        policy = _policy(
            pool.name, retries, retry_failed, max_failures, time_request, launch_interval
        )
        if not use_dask:
            _check_needs_no_dask(
                pool.name,
                use_shifter=use_shifter,
                dask_worker_plugin=dask_worker_plugin is not None,
                dask_worker_per_gpu=dask_worker_per_gpu,
            )
            count = self._submitter.submit(pool, self._local_backend(), policy, self.span)
            if block:
                self._watch(pool)
            return count
        for key, value in (("dask_nodes", dask_nodes), ("dask_ppw", dask_ppw)):
            if value is not None:
                _check_number(pool.name, key, value, 1, Integral)
        request = self._dask.request(
            pool.name, dask_nodes or 1, dask_ppw, use_shifter, shifter_args, dask_worker_per_gpu
        )
        backend = DaskBackend(self._dask, pool.name, request, dask_worker_plugin)
        return self._submitter.submit(pool, backend, policy, self.span)

    def hear(self, news: Broadcast) -> None:
        """Handle the loss or the end of a cluster; runs in the reader's thread."""
        super().hear(news)
        if news.topic == "cluster-lost":
            self._dask.lose_cluster(*news.body)
        elif news.topic == "cluster-closing":
            self._dask.leave_cluster(news.body)

    def get_finished_tasks(self, task_pool_name: str, block: bool = True) -> dict[str, Any]:
        """Wait for the submitted tasks of a pool and return their results.

        Once it has returned the results of all tasks, the pool can be filled and submitted again.

        Parameters
        ----------
        task_pool_name : str
            Name of the pool.
        block : bool
            If False, return the results so far without waiting. Default: True.

        Returns
        -------
        dict
            Results by task name: the exit code of a program (negative for a signal, -1 after its
            timeout), the return value of a callable, or a ``TaskError`` for a callable that raised
            and for any task without an exit code. On Dask, results of all tasks in the order of
            adding. Without Dask, results that are new since the last call, at least one unless
            `block` is False, in the order in which the tasks ended.

        Raises
        ------
        KeyError
            There is no such pool.
        TaskPoolError
            Nothing was submitted since the last results, or an iterable of :meth:`add_tasks`
            raised.
        """
        pool = self._pool(task_pool_name)
        if block and not pool.in_parts:
            self._watch(pool)
        return pool.get_finished_tasks(block)

    def _watch(self, pool: TaskPool) -> None:
        """Wait until all tasks of a pool have ended; show a progress bar if a user watches."""
        if not is_watched(self._start.interactive):
            pool.wait()
            return
        with progress(pool.name, pool.total, self._start.interactive) as bar:
            while not pool.wait(_LOOK_SECONDS):
                bar.update(*pool.progress)
            bar.update(*pool.progress)

    def _local_backend(self) -> LocalBackend:
        resources = self._start.resources
        return LocalBackend(
            self.link,
            self._task_launcher,
            sum(node.cores for node in resources.held),
            self._task_defaults.exclusive,
            resources.end,
        )

    def iter_finished_tasks(self, task_pool_name: str) -> Iterator[TaskRecord]:
        """Return an iterator of the record of each submitted task of a pool, as the tasks end.

        Records from before the call are included; of those with ``keep_results=False``, the last
        thousand.

        Parameters
        ----------
        task_pool_name : str
            Name of the pool.

        Returns
        -------
        iterator of TaskRecord
            Records in the order in which the tasks end.

        Raises
        ------
        KeyError
            There is no such pool.
        TaskPoolError
            Nothing was submitted since the last :meth:`get_finished_tasks`.
        """
        return self._pool(task_pool_name).iter_finished_tasks()

    def get_task_records(self, task_pool_name: str) -> dict[str, TaskRecord]:
        """Return the records of the tasks that were submitted last and have ended.

        Parameters
        ----------
        task_pool_name : str
            Name of the pool.

        Returns
        -------
        dict
            :class:`TaskRecord` by task name, in the order of adding: status, host, attempts and
            times, and for a failed task the reason and the end of its output.

        Raises
        ------
        KeyError
            There is no such pool.
        """
        return self._pool(task_pool_name).records()

    def remove_task_pool(self, task_pool_name: str) -> None:
        """Remove a pool and end its running tasks.

        Parameters
        ----------
        task_pool_name : str
            Name of the pool.

        Raises
        ------
        KeyError
            There is no such pool.
        """
        pool = self._pool(task_pool_name)
        del self.task_pools[task_pool_name]
        pool.terminate_tasks()

    def _pool(self, name: str) -> TaskPool:
        if name not in self.task_pools:
            raise KeyError(f"no task pool {name}")
        return self.task_pools[name]

    def cleanup(self, ok: bool) -> None:
        """End the running pools and disconnect from the clusters."""
        running = self._submitter.close()
        self._dask.close()
        if running and ok:  # The user did not ask for the cancellation: report it on stderr, too.
            message = (
                f"{self.full_comp_id}: the simulation ended while {running} task pool(s) were "
                "running; their tasks were cancelled (get_finished_tasks waits for them)"
            )
            self.logger.warning(message)
            print(f"ips.py: {message}", file=sys.stderr)
        super().cleanup(ok)


def _check_keywords(pool: str, keywords: Mapping[str, Any]) -> None:
    for key, value in keywords.items():
        if key in ("oversubscribe", "hwthreads"):
            if value:
                raise TaskPoolError(f"pool {pool}: {key}={value!r} is not supported")
            continue
        known = list(inspect.signature(PoolServices.submit_tasks).parameters)[2:-1]
        raise TaskPoolError(f"pool {pool}: unknown keyword {key}{did_you_mean(key, known)}")


def _check_needs_no_dask(pool: str, **asked: bool) -> None:
    """Raise a TaskPoolError if a pool without Dask asks for features of Dask workers."""
    for key, value in asked.items():
        if value:
            raise TaskPoolError(
                f"pool {pool}: {key}= needs use_dask=True; add that, or leave it out"
            )


def _policy(
    pool: str,
    retries: int,
    retry_failed: int,
    max_failures: float | None,
    time_request: float | None,
    launch_interval: float,
) -> Policy:
    """Return a checked policy."""
    _check_number(pool, "retries", retries, 0, Integral)
    _check_number(pool, "retry_failed", retry_failed, 0, Integral)
    for key, value in {
        "max_failures": max_failures,
        "time_request": time_request,
        "launch_interval": launch_interval,
    }.items():
        if value is not None:
            _check_number(pool, key, value, 0)
    return Policy(retries, retry_failed, max_failures, time_request, launch_interval or 0.0)


def _check_number(pool: str, key: str, value: Any, least: int, kind: type = Real) -> None:
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and value >= least):
        what = "number" if kind is Real else "whole number"
        raise TaskPoolError(f"pool {pool}: {key} = {value!r}: expected a {what} of {least} or more")
