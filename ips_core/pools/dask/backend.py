"""Connect a component to Dask clusters: request them, hold their leases and clients.

The framework decides which cluster a run gets, the dispatcher which task starts.
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
    isolate_tls_errors,
    shifter_arguments,
)
from ips_core.resources.clusters import ClusterRequest

if TYPE_CHECKING:
    from ips_core.pools.dask.dask_executor import DaskExecutor

__all__ = ["DaskBackend", "DaskClusters"]


class DaskClusters:
    """Leases and clients of a component."""

    def __init__(self, start: Start, link: FrameworkLink, logger: logging.Logger) -> None:
        self._start = start
        self._link = link
        self._logger = logger
        self._clients: dict[str, Any] = {}  # by the scheduler's address
        self._runs: dict[str, tuple[str, int, DaskExecutor]] = {}  # scheduler's address and lease
        self._lost: dict[str, str] = {}  # reasons by the scheduler's address

    def request(
        self,
        pool: str,
        nodes: int,
        threads: int | None,
        use_shifter: bool,
        shifter_args: str | Sequence[str] | None,
        per_gpu: bool,
    ) -> ClusterRequest:
        """Return the cluster that a pool needs; the parameters are those of ``submit_tasks``.

        A TaskPoolError says that the simulation does not have it.
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
            nodes,
            threads,
            cores or None,
            resources.launcher,
            shifter,
            per_gpu,
            dashboard=str(dashboard).lower() == "true",
        )

    def executor(self, run: str, pool: str, request: ClusterRequest, plugin: Any) -> DaskExecutor:
        """Return the executor of a run on a cluster, which is started unless an equal one is free.

        ``plugin`` is on the workers for as long as the run; :meth:`release` returns the lease. A
        DaskClusterError says that the cluster could not start.
        """
        asked = self._link.post("acquire_cluster", request, run, plugin is not None)
        # Imported while the cluster starts, since the import takes time, too.
        import distributed  # noqa: F401

        from ips_core.pools.dask.dask_executor import DaskExecutor

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
        if reached.address in self._lost:  # The cluster was lost before the run was registered.
            executor.lose(self._lost[reached.address])
        return executor

    def _client(self, reached: Any) -> Any:
        """Return the client of a cluster, which all pools of the component share."""
        from distributed import Client

        client = self._clients.get(reached.address)
        if client is not None:
            return client
        # Dask logs a traceback when the cluster is lost; the pool reports it in one sentence.
        logging.getLogger("distributed.batched").setLevel(logging.WARNING)
        isolate_tls_errors()
        client = Client(
            reached.address, security=reached.security, set_as_default=False, timeout=60
        )
        client.subscribe_topic(_topic(client), self._take_event)
        self._clients[reached.address] = client
        if reached.request.dashboard:
            missing = "there is no dashboard: pip install 'ips-dask-cluster[report]' brings bokeh"
            print(f"Dask's dashboard: {reached.dashboard}" if reached.dashboard else missing)
        return client

    def _take_event(self, event: tuple[float, dict[str, Any]]) -> None:
        found = self._runs.get(event[1]["run"])
        if found is not None:
            found[2].take_event(event[1])

    def release(self, run: str) -> None:
        """Return the lease of a run, if it has one."""
        if run in self._runs:
            _, lease, executor = self._runs.pop(run)
            self._release(lease, executor.spoiled)

    def _release(self, lease: int, spoiled: bool = False) -> None:
        with contextlib.suppress(IPSError):  # The simulation is ending.
            self._link.ask("release_cluster", lease, spoiled)

    def leave_cluster(self, address: str) -> None:
        """Disconnect from an unused cluster that is about to close."""
        client = self._clients.pop(address, None)
        if client is not None:
            _disconnect(client)

    def lose_cluster(self, address: str, reason: str) -> None:
        """Report the loss of a cluster to its runs, also to those that are about to start."""
        self._lost[address] = reason
        for used, _, executor in list(self._runs.values()):
            if used == address:
                executor.lose(reason)

    def close(self) -> None:
        """Disconnect from all clusters."""
        for address in list(self._clients):  # A copy: the reader's thread may remove one.
            self.leave_cluster(address)


class DaskBackend:
    """Backend of a pool that was submitted with ``use_dask=True``.

    ``plugin`` is on the workers for as long as the run.
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
        """Return the executor of the run of this name; raise as :class:`DaskClusters` does."""
        return self._clusters.executor(run, self._pool, self._request, self._plugin)

    def release(self, run: str) -> None:
        """Return the run's lease, if it has one."""
        self._clusters.release(run)


def _disconnect(client: Any) -> None:
    # A client that is just reconnecting to a lost scheduler raises ("ValueError: IOStream is not
    # idle" was seen). The client is discarded anyway.
    with contextlib.suppress(Exception):
        client.close(timeout=2)


def _topic(client: Any) -> str:
    """Return the topic on which workers send events to a client."""
    return f"ips-{client.id}"
