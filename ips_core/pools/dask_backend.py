"""Runs a component's pools on the Dask clusters of the keeper.

It decides which cluster a pool asks for, holds the component's connections to clusters, and knows
which runs are under way. How the tasks of a run are worked off is in ``dask_run``.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ips_core.dask_cluster import ClusterRequest, shifter_arguments
from ips_core.errors import DaskClusterError, IPSError, TaskPoolError
from ips_core.link import FrameworkLink
from ips_core.messages import Start, unpack
from ips_core.pools.pool_events import PoolEvents
from ips_core.pools.task import Task

if TYPE_CHECKING:
    from ips_core.pools.dask_run import DaskRun

__all__ = ["DaskBackend"]


class DaskBackend:
    """What a component's process has to do with Dask.

    Parameters
    ----------
    start : Start
        Who the component is, and what the simulation may use.
    link : FrameworkLink
        To the framework, and through it to the keeper.
    logger : logging.Logger
        For what is worth a warning.
    events : PoolEvents
        Hears of starts and ends.
    """

    def __init__(
        self, start: Start, link: FrameworkLink, logger: logging.Logger, events: PoolEvents
    ) -> None:
        self._start = start
        self._link = link
        self._logger = logger
        self._events = events
        self._clients: dict[str, Any] = {}  # by the scheduler's address
        self._runs: dict[str, tuple[str, int, DaskRun]] = {}  # with address and lease
        self._lost: dict[str, str] = {}  # why, by the scheduler's address

    def request(
        self,
        pool: str,
        nodes: int,
        threads: int | None,
        use_shifter: bool,
        shifter_args: str | Sequence[str] | None,
        per_gpu: bool,
    ) -> ClusterRequest:
        """Return what a pool needs; parameters as for ``ServicesProxy.submit_tasks``.

        Raises
        ------
        TaskPoolError
            The simulation does not have it.
        """
        resources = self._start.resources
        if nodes > resources.nodes:
            if not resources.flexible:
                raise TaskPoolError(
                    f"pool {pool}: dask_nodes = {nodes}, but there are only {resources.nodes}"
                )
            message = f"pool {pool}: dask_nodes = {nodes} on a single machine: one worker is used"
            self._logger.warning(message)
            print(f"{message} (--nodes {nodes} makes {nodes} of it)")
            nodes = 1
        shifter = None
        if use_shifter:
            if shutil.which("shifter") is None:
                raise TaskPoolError(f"pool {pool}: use_shifter=True, but shifter is not on PATH")
            shifter = shifter_arguments(shifter_args)
        own = self._start.simulation.values.get(self._start.section, {}).get("PROCS_PER_NODE")
        cores = int(own or self._start.platform.get("PROCS_PER_NODE") or 0)
        return ClusterRequest(nodes, threads, cores or None, resources.launcher, shifter, per_gpu)

    def start(
        self,
        pool: str,
        tasks: list[Task],
        request: ClusterRequest,
        plugin: Any,
        retries: int,
        begin: float,
    ) -> DaskRun:
        """Start working off tasks, on a cluster that is started if there is none like it.

        Parameters
        ----------
        pool : str
            Name of the pool.
        tasks : list of Task
            What to run.
        request : ClusterRequest
            As :meth:`request` returned it.
        plugin : WorkerPlugin or None
            Lives on the workers as long as the run.
        retries : int
            How often a task is run again whose worker was lost.
        begin : float
            When the pool was submitted.

        Raises
        ------
        DaskClusterError
            The cluster could not start.
        """
        # On a shared cluster: not the pool of that name of another component, or an earlier one
        name = ascii(f"{self._start.name} {pool} {begin}")
        asked = self._link.post("acquire_cluster", request, name, plugin is not None)
        # While the cluster starts: what this process needs to use it
        import distributed  # noqa: F401

        from ips_core.pools.dask_run import DaskRun, PoolReport

        try:
            packed, lease = self._link.answer(asked)
        except IPSError as error:
            raise DaskClusterError(str(error)) from None
        try:
            reached = unpack(packed)
            report = PoolReport(
                self._events.task_started,
                self._events.task_ended,
                lambda trouble: self._finished(name, pool, begin, trouble),
            )
            client = self._client(reached)
            journal = Path(reached.run_directory)
            run = DaskRun(name, tasks, client, reached.slots, journal, report, retries, plugin)
            self._runs[name] = (reached.address, lease, run)
            run.start()
            if reached.address in self._lost:  # while this was on its way
                run.lose_cluster(self._lost[reached.address])
        except BaseException:
            self._runs.pop(name, None)
            self._release(lease)
            raise
        return run

    def _client(self, reached: Any) -> Any:
        """Return the client for a cluster; one serves all pools of the component."""
        from distributed import Client

        from ips_core.pools.on_cluster import START_TOPIC

        client = self._clients.get(reached.address)
        if client is not None:
            return client
        client = Client(
            reached.address, security=reached.security, set_as_default=False, timeout=60
        )
        client.subscribe_topic(START_TOPIC, self._hear_start)
        self._clients[reached.address] = client
        return client

    def _hear_start(self, event: tuple[float, dict[str, Any]]) -> None:
        record = unpack(event[1]["record"])
        for _, _, run in list(self._runs.values()):
            run.hear_start(event[1]["key"], record)

    def _finished(self, name: str, pool: str, begin: float, trouble: str) -> None:
        _, lease, _ = self._runs.pop(name)
        self._events.pool_ended(pool, begin, trouble)
        self._release(lease)

    def _release(self, lease: int) -> None:
        with contextlib.suppress(IPSError):  # the simulation is ending
            self._link.ask("release_cluster", lease)

    def leave_cluster(self, address: str) -> None:
        """Disconnect from a cluster that nobody uses any more and that is about to close."""
        client = self._clients.pop(address, None)
        if client is not None:
            client.close(timeout=2)

    def lose_cluster(self, address: str, reason: str) -> None:
        """Tell the runs on a cluster that it is lost, also one that is about to begin."""
        self._lost[address] = reason
        for used, _, run in list(self._runs.values()):
            if used == address:
                run.lose_cluster(reason)

    def close(self) -> int:
        """End the runs that are under way, leave the clusters and return how many they were."""
        running = list(self._runs.values())
        for _, _, run in running:
            run.cancel()
        for client in self._clients.values():
            client.close(timeout=2)
        return len(running)
