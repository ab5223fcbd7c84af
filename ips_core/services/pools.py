"""Services by which a component fills task pools and runs them."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ips_core.dask_cluster import ClusterRequest, shifter_arguments
from ips_core.errors import DaskClusterError, IPSError, TaskPoolError
from ips_core.events import span_id, trace
from ips_core.messages import Broadcast, pack, unpack
from ips_core.pools import Task, TaskPool
from ips_core.services.base import ServicesBase

__all__ = ["PoolServices"]


class _NoTasks:
    """The run of an empty pool: no cluster is started for it."""

    def results(self) -> dict[str, Any]:
        return {}

    def cancel(self) -> None:
        pass


@dataclass(frozen=True)
class _Active:
    """A run that has not ended yet.

    One waits for ``ended``, not for the run's thread: after a join that a signal has interrupted,
    Python takes the thread for ended (bpo-45274).
    """

    request: ClusterRequest
    run: Any
    ended: threading.Event = field(default_factory=threading.Event)


class PoolServices(ServicesBase):
    """Task pools."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.task_pools: dict[str, TaskPool] = {}
        self._clients: dict[ClusterRequest, Any] = {}
        self._runs: dict[str, _Active] = {}

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
        request = self._request(
            pool, dask_nodes or 1, dask_ppw, use_shifter, shifter_args, dask_worker_per_gpu
        )
        tasks = pool.take_tasks(in_container=use_shifter)
        begin = time.time()
        self._emit("IPS_TASK_POOL_BEGIN", f"task_pool = {pool.name} ", at=begin)
        if not tasks:
            pool.run = _NoTasks()
            self._end_pool(pool.name, begin)
            return 0
        try:
            self._start_run(pool, request, tasks, dask_worker_plugin, begin)
        except BaseException as error:
            pool.queued_tasks = {task.name: task for task in tasks} | pool.queued_tasks
            self._end_pool(pool.name, begin, ok=False)
            if isinstance(error, IPSError):
                raise DaskClusterError(str(error)) from None
            raise
        return len(tasks)

    def _request(
        self,
        pool: TaskPool,
        nodes: int,
        threads: int | None,
        use_shifter: bool,
        shifter_args: str | Sequence[str] | None,
        per_gpu: bool,
    ) -> ClusterRequest:
        resources = self._start.resources
        if nodes > resources.nodes:
            if not resources.flexible:
                raise TaskPoolError(
                    f"pool {pool.name}: dask_nodes = {nodes}, but there are only {resources.nodes}"
                )
            self.logger.warning(
                "pool %s: dask_nodes = %s on a single machine: one worker is used", pool.name, nodes
            )
            nodes = 1
        shifter = None
        if use_shifter:
            if shutil.which("shifter") is None:
                raise TaskPoolError(
                    f"pool {pool.name}: use_shifter=True, but shifter is not on PATH"
                )
            shifter = shifter_arguments(shifter_args)
        own = self.sim_conf.get(self._start.section, {}).get("PROCS_PER_NODE")
        default = int(own or self._start.platform.get("PROCS_PER_NODE") or 0)
        return ClusterRequest(nodes, threads, default or None, resources.launcher, shifter, per_gpu)

    def _start_run(
        self, pool: TaskPool, request: ClusterRequest, tasks: list[Task], plugin: Any, begin: float
    ) -> None:
        asked = self._post("keeper", "acquire", pack(((request, self.full_comp_id), {})))
        # While the cluster starts: what this process needs to use it
        import distributed  # noqa: F401

        from ips_core.pools.dask_run import DaskRun, PoolReport

        reached = unpack(self._answer(asked))
        try:
            client = self._client(reached)
            report = PoolReport(
                self._task_started,
                self._task_ended,
                lambda: self._run_finished(pool.name, request, begin),
            )
            # On a shared cluster: not the pool of that name of another component, or an earlier one
            name = f"{self.full_comp_id} {pool.name} {begin}"
            run = DaskRun(name, tasks, client, reached.slots, report, plugin)
            self._runs[pool.name] = _Active(request, run)
            run.start()
        except BaseException:
            self._runs.pop(pool.name, None)
            self._ask("keeper", "release", pack(((request,), {})))
            raise
        pool.run = run

    def _client(self, reached: Any) -> Any:
        """Return the client for a cluster; one serves all pools of the component."""
        from distributed import Client

        from ips_core.pools.dask_run import START_TOPIC

        client = self._clients.get(reached.request)
        if client is not None and client.scheduler.address == reached.address:
            return client
        if client is not None:
            client.close()
        client = Client(
            reached.address, security=reached.security, set_as_default=False, timeout=60
        )
        client.subscribe_topic(START_TOPIC, self._hear_start)
        self._clients[reached.request] = client
        return client

    def _hear_start(self, event: tuple[float, dict[str, Any]]) -> None:
        for active in list(self._runs.values()):
            active.run.hear_start(event[1]["record"])

    def hear(self, news: Broadcast) -> None:
        """Take news for every component: a cluster is lost."""
        super().hear(news)
        if news.topic == "cluster-lost":
            request, reason = news.body
            for active in list(self._runs.values()):
                if active.request == request:
                    active.run.lose_cluster(reason)

    # -- what a run reports, in its thread ---------------------------------------------------

    def _task_started(self, task: Task, record: dict[str, Any]) -> None:
        self._emit(
            "IPS_LAUNCH_DASK_TASK",
            f"task_name = {task.name}, Target = {task.target}",
            at=record["start_time"],
            task_name=task.name,
            start_time=record["start_time"],
            host=record["host"],
            worker=record["worker"],
        )

    def _task_ended(self, task: Task, record: dict[str, Any]) -> None:
        begin, elapsed = record["start_time"], record["elapsed_time"]
        how = "timed-out after" if record["status"] == "timed-out" else "elapsed time ="
        if record["error"]:
            why = record["traceback"].rstrip() or record["error"]
            self.logger.error("task %s: %s", task.name, why)
        self._emit(
            "IPS_TASK_END",
            f"task_name = {task.name}, {how} {elapsed:.2f}s",
            at=begin + elapsed,
            ok=record["status"] == "finished",
            trace=trace(
                record["worker"],
                task.target,
                span=span_id(task.target, task.name, begin),
                begin=begin,
                end=begin + elapsed,
                parent=self.span,
            ),
            task_name=task.name,
            exit_status=record["exit_status"],
            start_time=begin,
            elapsed_time=elapsed,
            host=record["host"],
            worker=record["worker"],
            **({"error": record["error"]} if record["error"] else {}),
        )

    def _run_finished(self, pool_name: str, request: ClusterRequest, begin: float) -> None:
        active = self._runs.pop(pool_name)
        self._end_pool(pool_name, begin)
        with contextlib.suppress(IPSError):  # the simulation is ending
            self._ask("keeper", "release", pack(((request,), {})))
        active.ended.set()

    def _end_pool(self, pool_name: str, begin: float, ok: bool = True) -> None:
        elapsed = time.time() - begin
        comment = f"task_pool = {pool_name}  elapsed time = {elapsed:.2f} S"
        self._emit("IPS_TASK_POOL_END", comment, ok=ok, elapsed_time=elapsed)

    # -- afterwards --------------------------------------------------------------------------

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
        pool = self._pool(task_pool_name)
        active = self._runs.get(task_pool_name)
        if active is not None:
            active.ended.wait()
        return pool.get_finished_tasks()

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

    def cleanup(self) -> None:
        """End what still runs, and leave the clusters."""
        for active in list(self._runs.values()):
            active.run.cancel()
            active.ended.wait()
        for client in self._clients.values():
            client.close(timeout=2)
        super().cleanup()
