"""Keep a Dask cluster, as an internal component in a process of its own.

The keeper starts the cluster, cancels the tasks of a dead component on it, and closes the cluster
when it is told to leave; ``leases`` decides when. Each cluster has its own keeper, so that one that
hangs delays no other. The framework itself never imports distributed and never blocks.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ips_core.component import Component
from ips_core.errors import DaskClusterError
from ips_core.ipc.link import FrameworkLink
from ips_core.ipc.messages import pack
from ips_core.log.events import root_target, span_id, trace
from ips_core.pools.dask.cluster_adapter import (
    ClusterAddress,
    ClusterStarted,
    describe_cluster,
    start_cluster,
    taken_nodes,
)
from ips_core.resources.clusters import ClusterRequest, NodesTaken

__all__ = ["ClusterKeeper"]

_CANCEL_SECONDS = 10


@dataclass
class _Kept:
    cluster: Any
    client: Any
    reached: ClusterAddress
    task_id: int
    code: str
    target: str
    begin: float
    lost: str = ""


class ClusterKeeper(Component):
    """Starts, keeps and closes one Dask cluster."""

    def __init__(self, services: Any, config: Any) -> None:
        super().__init__(services, config)
        self._kept: _Kept | None = None

    def start(
        self, request: ClusterRequest, nodes: Sequence[str], task_id: int, code: str
    ) -> ClusterStarted | NodesTaken:
        """Start the cluster on exactly these nodes; return its address, or nodes that are taken.

        The events name the component ``code`` that asks, and ``task_id`` for the worker step.
        """
        from ips_core.pools.dask.on_cluster import plugins

        begin, lost = time.time(), ""

        def lose(reason: str) -> None:
            nonlocal lost
            lost = reason
            if self._kept is not None:
                self._kept.lost = reason
            self.services.link.broadcast("cluster-lost", (cluster.scheduler_address, reason))

        try:
            cluster = start_cluster(request, nodes, self.services.get_run_directory(), lose)
        except DaskClusterError:
            if request.launcher == "srun" and (taken := taken_nodes(nodes)):
                return NodesTaken(taken)
            raise
        try:
            client = cluster.get_client()
            for plugin in plugins(str(cluster.run_directory), cluster.steps.settings.processes):
                client.register_plugin(plugin)
            if cluster.failure is not None:
                raise DaskClusterError(str(cluster.failure))
            reached = describe_cluster(request, cluster)
        except BaseException:
            cluster.close()
            raise
        step = next(step for step in cluster.steps.all if step.role == "worker")
        # One argument is the text of the script, which is far too long for a log line.
        target = shlex.join("worker.sh" if "\n" in word else word for word in step.argv)
        self._kept = _Kept(cluster, client, reached, task_id, code, target, begin, lost)
        self.services.link.emit(
            "IPS_LAUNCH_TASK",
            f"task_id = {task_id} , Tag = None , nproc = {request.nodes} , Target = {target}",
            code=code,
            task_id=task_id,
            task_name="dask-worker",
            start_time=begin,
        )
        return ClusterStarted(reached.address, pack(reached))

    def cancel(self, run: str, code: str) -> None:
        """End the tasks of a run whose component is gone and log their ends as component ``code``.

        A worker that does not answer within 10 s is skipped.
        """
        from ips_core.pools.dask.on_cluster import ask_workers, runner_function

        assert self._kept is not None
        client = self._kept.client
        answers = ask_workers(client, runner_function("cancel"), run, _CANCEL_SECONDS)
        link = self.services.link
        link.emit_all(_cancelled(link, code, begun) for each in answers.values() for begun in each)

    def _close(self, kept: _Kept) -> None:
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
                parent=span_id(root_target(self.services.sim_name)),
                procs_requested=kept.reached.request.nodes,
                cores_allocated=kept.reached.slots,
            ),
            task_id=kept.task_id,
            task_name="dask-worker",
            exit_status=1 if kept.lost else 0,
            start_time=kept.begin,
            elapsed_time=elapsed,
        )

    def terminate(self, status: int) -> None:
        """Close the cluster."""
        if self._kept is not None:
            try:
                self._close(self._kept)
            except Exception:  # The keeper has to leave nevertheless.
                self.services.exception("the Dask cluster could not be closed in order")


def _cancelled(link: FrameworkLink, code: str, begun: dict[str, Any]) -> dict[str, Any]:
    """Return the event of a task's end that the task's component would have written."""
    elapsed = time.time() - begun["start_time"]
    return link.event(
        "IPS_TASK_END",
        f"task_name = {begun['name']}, elapsed time = {elapsed:.2f}s",
        code=code,
        ok=False,
        task_name=begun["name"],
        status="cancelled",
        exit_status=None,
        start_time=begun["start_time"],
        elapsed_time=elapsed,
        host=begun["host"],
        worker=begun["worker"],
        error="cancelled: its component is gone",
    )
