"""The keeper of the Dask clusters: an internal component in a process of its own.

It owns every cluster that pools run on, keyed by what was asked for, so that the next pool finds
it running. The framework itself never imports distributed and never blocks.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from dataclasses import dataclass
from typing import Any

from ips_core.component import Component
from ips_core.dask_cluster import ClusterRequest, start_cluster
from ips_core.errors import DaskClusterError
from ips_core.events import span_id, trace

__all__ = ["ClusterAddress", "ClusterKeeper"]


@dataclass(frozen=True)
class ClusterAddress:
    """How a component reaches a cluster.

    Parameters
    ----------
    request : ClusterRequest
        What was asked for.
    address : str
        The scheduler's.
    security : distributed.Security
        Its credentials.
    slots : int
        Threads of all workers.
    run_directory : str
        Where the workers keep their journals.
    """

    request: ClusterRequest
    address: str
    security: Any
    slots: int
    run_directory: str


@dataclass
class _Kept:
    cluster: Any
    reached: ClusterAddress
    task_id: int
    code: str
    target: str
    begin: float
    users: int = 0
    lost: str = ""


class ClusterKeeper(Component):
    """Starts, keeps and closes Dask clusters."""

    def __init__(self, services: Any, config: Any) -> None:
        super().__init__(services, config)
        self._kept: dict[ClusterRequest, _Kept] = {}
        self._task_count = 0

    def acquire(self, request: ClusterRequest, code: str) -> ClusterAddress:
        """Return a cluster, started if there is none like it.

        Parameters
        ----------
        request : ClusterRequest
            What is asked for.
        code : str
            The component that asks, for the event.
        """
        kept = self._kept.get(request)
        if kept is not None and kept.lost:
            self._close(request)
            kept = None
        if kept is None:
            self._make_room(request)
            kept = self._kept[request] = self._start(request, code)
        kept.users += 1
        return kept.reached

    def release(self, request: ClusterRequest) -> None:
        """Take note that a pool no longer uses a cluster."""
        if request in self._kept:
            self._kept[request].users -= 1

    def _make_room(self, request: ClusterRequest) -> None:
        """Close idle clusters of another kind: an allocation's node has one worker."""
        for other, kept in list(self._kept.items()):
            if other.launcher == "srun" and request.launcher == "srun":
                if kept.users:
                    raise DaskClusterError(
                        "another pool is using the nodes with other settings (nodes, threads or "
                        "container); wait for it with get_finished_tasks first"
                    )
                self._close(other)

    def _start(self, request: ClusterRequest, code: str) -> _Kept:
        from ips_core.pools.on_cluster import plugins

        begin = time.time()

        def lose(reason: str) -> None:
            if request in self._kept:
                self._kept[request].lost = reason
            self.services.link.broadcast("cluster-lost", (cluster.scheduler_address, reason))

        cluster = start_cluster(request, self.services.get_run_directory(), lose)
        try:
            client = cluster.get_client()
            for plugin in plugins(str(cluster.run_directory)):
                client.register_plugin(plugin)
        except BaseException:
            cluster.close()
            raise
        slots = sum(worker["nthreads"] for worker in cluster.scheduler_info["workers"].values())
        directory = str(cluster.run_directory)
        reached = ClusterAddress(
            request, cluster.scheduler_address, cluster.security, slots, directory
        )
        self._task_count += 1
        step = next(step for step in cluster.steps.all if step.role == "worker")
        # the script itself is an argument, and far too long for a log line
        target = shlex.join("worker.sh" if "\n" in word else word for word in step.argv)
        kept = _Kept(cluster, reached, self._task_count, code, target, begin)
        kept.lost = str(cluster.failure or "")  # since it was started
        self.services.link.emit(
            "IPS_LAUNCH_TASK",
            f"task_id = {kept.task_id} , Tag = None , nproc = {request.nodes} , Target = {target}",
            code=code,
            task_name="dask-worker",
            start_time=begin,
        )
        return kept

    def _close(self, request: ClusterRequest) -> None:
        kept = self._kept.pop(request)
        kept.cluster.close()
        now = time.time()
        elapsed = now - kept.begin
        self.services.link.emit(
            "IPS_TASK_END",
            f"task_id = {kept.task_id}  elapsed time = {elapsed:.2f} S",
            code=kept.code,
            ok=not kept.lost,
            trace=trace(
                kept.target,
                "dask-worker",
                span=span_id(kept.target, "dask-worker", kept.task_id),
                begin=kept.begin,
                end=now,
                procs_requested=request.nodes,
                cores_allocated=kept.reached.slots,
            ),
            task_name="dask-worker",
            exit_status=1 if kept.lost else 0,
            start_time=kept.begin,
            elapsed_time=elapsed,
        )

    def terminate(self, status: int) -> None:
        """Close every cluster."""
        for request in list(self._kept):
            with contextlib.suppress(Exception):
                self._close(request)
