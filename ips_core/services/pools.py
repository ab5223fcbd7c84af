"""Services by which a component fills task pools and runs them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from ips_core.errors import TaskPoolError, describe
from ips_core.messages import Broadcast
from ips_core.pools.dask_backend import DaskBackend
from ips_core.pools.pool import TaskPool
from ips_core.pools.pool_events import PoolEvents
from ips_core.services.base import ServicesBase

__all__ = ["PoolServices"]


class _NoTasks:
    """The run of an empty pool: no cluster is started for it."""

    def ended(self) -> bool:
        return True

    def results(self) -> dict[str, Any]:
        return {}

    def cancel(self) -> None:
        pass


class PoolServices(ServicesBase):
    """Task pools."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.task_pools: dict[str, TaskPool] = {}
        self._events = PoolEvents(self.link, self.logger, lambda: self.span)
        self._dask = DaskBackend(self._start, self.link, self.logger, self._events)

    def create_task_pool(self, task_pool_name: str) -> None:
        """Create an empty pool.

        Raises
        ------
        TaskPoolError
            There is one of that name already.
        """
        if task_pool_name in self.task_pools:
            raise TaskPoolError(f"Error: Duplicate task pool name {task_pool_name}")
        self.task_pools[task_pool_name] = TaskPool(task_pool_name)

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
            Processes of the task; 1 for tasks on Dask.
        working_dir : str
            Where a binary runs.
        binary : str or callable
            A program (a string with blanks that names no file is split as a shell would), a
            function, or a bound method.
        *args
            Of a program: each one argument, as text, whatever blanks or quotes are in it. Of a
            callable: as they are.
        **keywords
            ``logfile``, ``errfile`` (paths; a program's stderr joins its stdout unless given),
            ``timeout`` (seconds), ``task_env`` (dict). Others go to a callable, and so do those
            that it has as parameters.

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
    ) -> int:
        """Start the tasks of a pool on a Dask cluster and go on.

        Parameters
        ----------
        task_pool_name : str
            The pool.
        block, launch_interval
            Of pools without Dask; here the tasks start at once and the call returns.
        use_dask : bool
            Run on Dask workers.
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
        retries : int
            How often a task is run again that had not ended when its worker was lost.

        Returns
        -------
        int
            Number of tasks submitted.

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
        if not use_dask:
            raise TaskPoolError(
                f"pool {pool.name}: this release runs pools with use_dask=True only"
            )
        if pool.run is not None:
            raise TaskPoolError(
                f"pool {pool.name} is running: call get_finished_tasks before the next submit_tasks"
            )
        request = self._dask.request(
            pool.name, dask_nodes or 1, dask_ppw, use_shifter, shifter_args, dask_worker_per_gpu
        )
        tasks = pool.take_tasks(in_container=use_shifter)
        begin = time.time()
        self._events.pool_began(pool.name, begin)
        if not tasks:
            pool.run = _NoTasks()
            self._events.pool_ended(pool.name, begin)
            return 0
        try:
            pool.run = self._dask.start(
                pool.name, tasks, request, dask_worker_plugin, retries, begin
            )
        except BaseException as error:
            pool.queued_tasks = {task.name: task for task in tasks} | pool.queued_tasks
            self._events.pool_ended(pool.name, begin, trouble=describe(error))
            raise
        return len(tasks)

    def hear(self, news: Broadcast) -> None:
        """Take news for every component: a cluster is lost, or will be closed."""
        super().hear(news)
        if news.topic == "cluster-lost":
            self._dask.lose_cluster(*news.body)
        elif news.topic == "cluster-closing":
            self._dask.leave_cluster(news.body)

    def get_finished_tasks(self, task_pool_name: str) -> dict[str, Any]:
        """Wait until the submitted tasks of a pool have ended.

        Returns
        -------
        dict
            By task name, in the order of adding: the exit code of a program (negative for a
            signal, -1 after its time-out), the return value of a callable, or a ``TaskError`` for
            a callable that raised.

        Raises
        ------
        KeyError
            There is no such pool.
        TaskPoolError
            Nothing was submitted since the last call.
        """
        return self._pool(task_pool_name).get_finished_tasks()

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
        running = self._dask.close()
        if running and ok:  # nobody asked for it, nobody would know
            message = (
                f"{self.full_comp_id}: the simulation ended while {running} task pool(s) were "
                "running; their tasks were cancelled (get_finished_tasks waits for them)"
            )
            self.logger.warning(message)
            print(f"ips.py: {message}", file=sys.stderr)
        super().cleanup(ok)
