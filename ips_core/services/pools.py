"""Services by which a component fills task pools and runs them."""

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

_LOOK_SECONDS = 0.1  # between two looks of a progress bar


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
            Its name.
        resume : bool
            Tasks that a run before this one has finished with success, under the same name and
            with the same work, are not run again: their recorded results are returned. ``ips.py
            --resume`` sets it for every pool. Default: False.

        Raises
        ------
        TaskPoolError
            There is one of that name already.
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
        task_pool_name, task_name : str
            The pool, and a name that is new in it.
        nproc : int
            Cores of the task, which ``OMP_NUM_THREADS`` tells it; for ``mpi=True``, and for a
            program that asks for more cores than a worker has, processes of an MPI program.
        working_dir : str
            Where a program, or a callable in a process of its own, runs.
        binary : str or callable
            A program (a string with blanks that names no file is split as a shell would), a
            function, a coroutine function, or a bound method.
        *args
            Of a program: each one argument, as text, whatever blanks or quotes are in it. Of a
            callable: as they are.
        **keywords
            A callable gets what is not in this list, and what it has as a parameter.

            ``logfile``, ``errfile`` : path
                Where output goes, relative to ``working_dir``; a program's stderr joins its stdout
                unless ``errfile`` is given. Default: the worker's output.
            ``stdin`` : path or bytes
                What it reads. Default: nothing.
            ``timeout`` : float
                Seconds that it may take; then its processes are ended.
            ``task_env`` : dict
                Environment variables on top of the worker's.
            ``isolate`` : bool
                Run a callable in a process of its own, which can be ended, has ``working_dir`` as
                its current directory, and shares no lock with others. A callable with ``timeout``,
                ``task_env``, ``logfile``, ``errfile``, ``stdin`` or ``gpus`` always is.
            ``gpus`` : int
                Devices of its own (``CUDA_VISIBLE_DEVICES``, ``ROCR_VISIBLE_DEVICES``,
                ``ZE_AFFINITY_MASK``).
            ``pin`` : bool
                Bind it to cores of its own.
            ``mpi`` : bool
                True: ``nproc`` processes, started by srun; False: one process with ``nproc`` cores.
            ``time_request`` : float
                Seconds that have to be left of the allocation for the task to be started.
            ``priority`` : int
                Higher ones start first. Default: 0.
            ``retries``, ``retry_failed`` : int
                As for :meth:`submit_tasks`, for this task.

        Raises
        ------
        KeyError
            There is no such pool.
        TaskPoolError
            The name is taken, the program is not there, or an argument makes no sense.
        """
        self._pool(task_pool_name).add_task(
            task_name, nproc, working_dir, binary, *args, **keywords
        )

    def add_tasks(
        self, task_pool_name: str, tasks: Iterable[Task], keep_results: bool = True
    ) -> None:
        """Add tasks of an iterable, such as a generator, which is asked when there is room.

        Parameters
        ----------
        task_pool_name : str
            The pool.
        tasks : iterable of Task
            ``ips_core.Task`` has the parameters of :meth:`add_task`, without the pool. It is
            iterated in another thread, while the pool runs.
        keep_results : bool
            False: what becomes of a task is in the log, in the pool's summary and given to
            :meth:`iter_finished_tasks`; nothing of it stays in memory. Default: True.

        Raises
        ------
        KeyError
            There is no such pool.
        TaskPoolError
            ``tasks`` cannot be iterated.
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
            The pool.
        block : bool
            Wait until all tasks have ended; a pool on Dask never waits.
        use_dask : bool
            Run on Dask workers, which is faster and takes callables; else as ``launch_task`` does.
        dask_nodes : int
            Number of nodes, one Dask worker on each.
        dask_ppw : int, optional
            Tasks side by side on a worker. Default: PROCS_PER_NODE of the component or the
            platform, else every core of the node.
        use_shifter : bool
            Run the Dask workers, and so the tasks, in a Shifter container.
        shifter_args : str or sequence of str, optional
            Arguments for Shifter; a string is split as a shell would.
        dask_worker_plugin : WorkerPlugin, optional
            Set up on every worker before the first task, torn down before
            ``get_finished_tasks`` returns.
        dask_worker_per_gpu : bool
            One worker for each GPU.
        launch_interval : float
            Seconds between two starts. Default: 0.
        retries : int
            How often a task is run again that had not ended when its worker was lost.
        retry_failed : int
            How often a task is run again that failed: raised, or ended with a code other than 0.
        max_failures : int or float, optional
            After more failed tasks than this, or, below 1, than this share of the tasks, no more
            are started; their status is ``not_started``. Default: all are started.
        time_request : float, optional
            Seconds that have to be left of the allocation for a task to be started.
        **keywords
            ``oversubscribe`` and ``hwthreads`` of newer IPS are accepted when false.

        Returns
        -------
        int
            Number of tasks submitted; those that iterables will yield are not counted.

        Raises
        ------
        KeyError
            There is no such pool.
        TaskPoolError
            The pool is running already, or what is asked for is not there.
        DaskClusterError
            The cluster could not start; the message has the reason.
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
        """Take news for every component: a cluster is lost, or will be closed."""
        super().hear(news)
        if news.topic == "cluster-lost":
            self._dask.lose_cluster(*news.body)
        elif news.topic == "cluster-closing":
            self._dask.leave_cluster(news.body)

    def get_finished_tasks(self, task_pool_name: str, block: bool = True) -> dict[str, Any]:
        """Wait until the submitted tasks of a pool have ended.

        Parameters
        ----------
        task_pool_name : str
            The pool.
        block : bool
            False: do not wait, and return what has ended so far. Default: True.

        Returns
        -------
        dict
            By task name, in the order of adding: the exit code of a program (negative for a
            signal, -1 after its time-out), the return value of a callable, or a ``TaskError`` for
            a callable that raised. Without Dask: those that have ended since the last call, at
            least one, as they came.

        Raises
        ------
        KeyError
            There is no such pool.
        TaskPoolError
            Nothing was submitted since the last call.
        """
        pool = self._pool(task_pool_name)
        if block and not pool.in_parts:
            self._watch(pool)
        return pool.get_finished_tasks(block)

    def _watch(self, pool: TaskPool) -> None:
        """Wait until all tasks of a pool have ended, with a progress bar if anybody sees it."""
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
        """Yield the record of each submitted task of a pool as it ends.

        Raises
        ------
        KeyError
            There is no such pool.
        TaskPoolError
            Nothing was submitted since the last ``get_finished_tasks``.
        """
        return self._pool(task_pool_name).iter_finished_tasks()

    def get_task_records(self, task_pool_name: str) -> dict[str, TaskRecord]:
        """Return what is known of each task that was submitted last and has ended.

        Returns
        -------
        dict
            :class:`TaskRecord` by task name, in the order of adding: status, host, attempts,
            times, and of one that failed the reason and the end of its output.

        Raises
        ------
        KeyError
            There is no such pool.
        """
        return self._pool(task_pool_name).records()

    def remove_task_pool(self, task_pool_name: str) -> None:
        """Remove a pool; what still runs of it is ended.

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
        """End what still runs, and leave the clusters."""
        running = self._submitter.close()
        self._dask.close()
        if running and ok:  # nobody asked for it, nobody would know
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
    """Raise an error if a pool without Dask asks for what only Dask workers have."""
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
    """Return what a pool does about failures and time, checked."""
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
