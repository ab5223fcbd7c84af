"""A component's part in Dask clusters: what its pools ask for, its connections, who uses which.

Which cluster a pool gets is the framework's decision; how tasks are worked off the dispatcher's.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ips_core.errors import DaskClusterError, IPSError, TaskPoolError
from ips_core.ipc.link import FrameworkLink
from ips_core.ipc.messages import Start, unpack
from ips_core.pools.dask.cluster_adapter import (
    ClusterRequest,
    isolate_tls_errors,
    shifter_arguments,
)

if TYPE_CHECKING:
    from ips_core.pools.dask.executor import DaskExecutor

__all__ = ["DaskBackend", "DaskClusters"]


class DaskClusters:
    """What a component's process has to do with Dask.

    Parameters
    ----------
    start : Start
        Who the component is, and what the simulation may use.
    link : FrameworkLink
        To the framework, and through it to the keepers of the clusters.
    logger : logging.Logger
        For what is worth a warning.
    """

    def __init__(self, start: Start, link: FrameworkLink, logger: logging.Logger) -> None:
        self._start = start
        self._link = link
        self._logger = logger
        self._clients: dict[str, Any] = {}  # by the scheduler's address
        self._runs: dict[str, tuple[str, int, DaskExecutor]] = {}  # with address and lease
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
        dashboard = self._start.simulation.values.get("DASK_DASHBOARD", "False")
        if str(dashboard).lower() not in ("true", "false"):
            raise TaskPoolError(
                f"pool {pool}: DASK_DASHBOARD = {dashboard}: expected True or False"
            )
        return ClusterRequest(
            *(nodes, threads, cores or None, resources.launcher, shifter, per_gpu),
            dashboard=str(dashboard).lower() == "true",
        )

    def executor(self, run: str, pool: str, request: ClusterRequest, plugin: Any) -> DaskExecutor:
        """Return what runs a submission on a cluster, which is started if there is none like it.

        Parameters
        ----------
        run : str
            Name of the submission; :meth:`release` gives the cluster back.
        pool : str
            Name of the pool.
        request : ClusterRequest
            As :meth:`request` returned it.
        plugin : WorkerPlugin or None
            Lives on the workers as long as the run.

        Raises
        ------
        DaskClusterError
            The cluster could not start.
        """
        asked = self._link.post("acquire_cluster", request, run, plugin is not None)
        # While the cluster starts: what this process needs to use it
        import distributed  # noqa: F401

        from ips_core.pools.dask.executor import DaskExecutor

        try:
            packed, lease = self._link.answer(asked)
        except IPSError as error:
            raise DaskClusterError(str(error)) from None
        try:
            reached = unpack(packed)
            client = self._client(reached)
            executor = DaskExecutor(run, pool, client, _topic(client), reached, plugin)
        except BaseException:
            self._release(lease)
            raise
        self._runs[run] = reached.address, lease, executor
        if reached.address in self._lost:  # while this was on its way
            executor.lose(self._lost[reached.address])
        return executor

    def _client(self, reached: Any) -> Any:
        """Return the client for a cluster; one serves all pools of the component."""
        from distributed import Client

        client = self._clients.get(reached.address)
        if client is not None:
            return client
        # Dask logs a traceback when the cluster has gone, which the pool reports in one sentence.
        logging.getLogger("distributed.batched").setLevel(logging.WARNING)
        isolate_tls_errors()
        client = Client(
            reached.address, security=reached.security, set_as_default=False, timeout=60
        )
        client.subscribe_topic(_topic(client), self._hear)
        self._clients[reached.address] = client
        if reached.request.dashboard:
            missing = "there is no dashboard: pip install 'ips-dask-cluster[report]' brings bokeh"
            print(f"Dask's dashboard: {reached.dashboard}" if reached.dashboard else missing)
        return client

    def _hear(self, event: tuple[float, dict[str, Any]]) -> None:
        found = self._runs.get(event[1]["run"])
        if found is not None:
            found[2].hear_event(event[1])

    def release(self, run: str) -> None:
        """Give back what a submission used, if it had come so far."""
        if run in self._runs:
            _, lease, executor = self._runs.pop(run)
            self._release(lease, executor.spoiled)

    def _release(self, lease: int, spoiled: bool = False) -> None:
        with contextlib.suppress(IPSError):  # the simulation is ending
            self._link.ask("release_cluster", lease, spoiled)

    def leave_cluster(self, address: str) -> None:
        """Disconnect from a cluster that nobody uses any more and that is about to close."""
        client = self._clients.pop(address, None)
        if client is not None:
            _disconnect(client)

    def lose_cluster(self, address: str, reason: str) -> None:
        """Tell the runs on a cluster that it is lost, also one that is about to begin."""
        self._lost[address] = reason
        for used, _, executor in list(self._runs.values()):
            if used == address:
                executor.lose(reason)

    def close(self) -> None:
        """Leave the clusters."""
        for address in list(self._clients):  # the reader's thread may leave one meanwhile
            self.leave_cluster(address)


class DaskBackend:
    """Where a pool runs that was submitted with ``use_dask=True``.

    Parameters
    ----------
    clusters : DaskClusters
        Of the component.
    pool : str
        Name of the pool.
    request : ClusterRequest
        As :meth:`DaskClusters.request` returned it.
    plugin : WorkerPlugin or None
        Lives on the workers as long as the run.
    """

    launch_event = "IPS_LAUNCH_DASK_TASK"
    in_parts = False

    def __init__(
        self, clusters: DaskClusters, pool: str, request: ClusterRequest, plugin: Any
    ) -> None:
        self._clusters = clusters
        self._pool = pool
        self._request = request
        self._plugin = plugin
        self.in_container = request.shifter is not None

    def executor(self, run: str) -> DaskExecutor:
        """Return what runs a submission of that name; raises as :class:`DaskClusters` does."""
        return self._clusters.executor(run, self._pool, self._request, self._plugin)

    def release(self, run: str) -> None:
        """Give the cluster back, if there is one."""
        self._clusters.release(run)


def _disconnect(client: Any) -> None:
    # it may just be connecting again to a scheduler that is gone, and raises then (ValueError
    # "IOStream is not idle" seen); it is given up anyway
    with contextlib.suppress(Exception):
        client.close(timeout=2)


def _topic(client: Any) -> str:
    """Return under which topic workers tell their news to a client."""
    return f"ips-{client.id}"
