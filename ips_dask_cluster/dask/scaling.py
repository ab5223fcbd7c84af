"""Scale a cluster by whole nodes, each of which is drained before it is given back.

These methods replace ``SpecCluster``'s, which drain nothing (they pass names to ``retire_workers``,
which expects addresses) and choose any worker when a node has several.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from typing import Any

from dask.utils import parse_bytes
from distributed.core import Status
from distributed.utils import NoOpAwaitable

from ips_dask_cluster.dask import draining
from ips_dask_cluster.dask.adaptive import NodeAdaptive
from ips_dask_cluster.errors import ClusterError
from ips_dask_cluster.jobqueue import JobQueueCluster
from ips_dask_cluster.reports import Reports
from ips_dask_cluster.steps.launcher import Steps

__all__ = ["ScaledByNode"]

logger = logging.getLogger("ips_dask_cluster")


class ScaledByNode(JobQueueCluster):  # type: ignore[misc]  # dask-jobqueue is untyped
    """A cluster whose spec has one entry for each node."""

    steps: Steps
    workers_per_node: int
    _reports: Reports
    _closing: Any  # the future of closing, None before that
    status: Any  # distributed's Status, set by the base classes

    def _connected(self) -> set[str]:
        """Return the names of the connected workers."""
        return {info["name"] for info in self.scheduler_info["workers"].values()}

    def _is_on(self, worker: str, nodes: Collection[str]) -> bool:
        return worker in self.steps.placed and self.steps.placed[worker].name in nodes

    def most_workers(self) -> int:
        """Return how many workers the cluster can have without lost nodes and those of others."""
        return self.steps.most_nodes() * self.workers_per_node

    def scale(
        self, n: int | None = None, jobs: int = 0, memory: Any = None, cores: int | None = None
    ) -> Any:
        """Scale the cluster to a number of nodes of the allocation, without waiting for them.

        The largest of the requests below counts. Nodes that are given back are drained first: the
        tasks that they are executing finish there.

        Parameters
        ----------
        n : int, optional
            Number of workers; whole nodes are filled.
        jobs : int, optional
            Number of nodes. Default: 0.
        memory : str or int, optional
            Total memory of all workers, such as ``"1 TB"`` or a number of bytes.
        cores : int, optional
            Total number of threads of all workers.

        Raises
        ------
        NotEnoughNodesError
            The allocation has fewer free nodes.
        ValueError
            A number is negative or not an integer, or ``memory`` is given but the memory of a node
            is unknown.
        ClusterError
            The cluster is closed. If its scheduler is lost, ``failure`` is raised.
        """
        for number in (n or 0, jobs, cores or 0):
            if not isinstance(number, int) or number < 0:
                raise ValueError(f"scale: a whole number of 0 or more is needed, not {number!r}")
        if self.status == Status.closed:
            raise ClusterError(f"cluster {self.name} is closed; start another one")
        nodes = max(
            jobs,
            math.ceil((n or 0) / self.workers_per_node),
            math.ceil((cores or 0) / self.new_spec["options"]["cores"]),
            self._nodes_with(memory),
        )
        lost = self.scheduler.status == Status.failed and self._reports.failure
        if lost and nodes > len(self.worker_spec):
            raise lost
        most = self.steps.most_nodes()
        if nodes > max(most, len(self.worker_spec)):
            raise self.steps.not_enough(nodes, most)
        if nodes > len(self.worker_spec):
            self._reports.failure = None  # the last used node was lost, but others are free
        there = self._connected()
        # Remove entries that are not connected yet first, then the latest
        leaving = sorted(self.worker_spec, key=lambda w: there.isdisjoint(self.steps.members(w)))
        for worker in leaving[::-1][: max(0, len(self.worker_spec) - nodes)]:
            del self.worker_spec[worker]
        while len(self.worker_spec) < nodes and self.status != Status.closing:
            self.worker_spec.update(self.new_worker_spec())
        # While closing, SpecCluster awaits _correct_state itself and so gets its errors
        if self.status != Status.closing:
            self.loop.add_callback(self._correct_state)
        return NoOpAwaitable() if self.asynchronous else None

    def _nodes_with(self, memory: Any) -> int:
        wanted, each = parse_bytes(memory or 0), parse_bytes(self.new_spec["options"]["memory"])
        if wanted < 0:
            raise ValueError(f"scale: memory={memory!r} is less than none")
        if wanted and not each:
            raise ValueError("scale: the memory of a node is not known; pass jobs= instead")
        return math.ceil(wanted / each) if wanted else 0

    def new_worker_spec(self) -> dict[str, Any]:
        """Return the name and the spec of the next node; no name is used twice."""
        spec = super().new_worker_spec()
        self._i += 1  # a worker of the old name may still be draining
        return dict(spec)

    async def _scale_down(self, names: Collection[str]) -> None:
        names = {names} if isinstance(names, str) else names
        for worker in list(self.worker_spec):
            if self._is_on(worker, names) or {*self.steps.members(worker)} <= {*names}:
                del self.worker_spec[worker]
        await self._correct_state()

    def scale_down(self, workers: Collection[str]) -> Any:
        """Give back chosen nodes, each as soon as the tasks that it is executing have ended.

        Parameters
        ----------
        workers : str or collection of str
            Names of nodes or of workers. A node is given back if it is named, or if all of its
            workers are.
        """
        return self.sync(self._scale_down, workers)

    def adapt(self, *args: Any, **keywords: Any) -> Any:
        """Give back idle nodes, and take nodes again when there is work.

        Parameters
        ----------
        minimum, maximum : int, optional
            Least and largest number of workers. Default: 0, and as many as the allocation has nodes
            for.
        minimum_jobs, maximum_jobs : int, optional
            Least and largest number of nodes, instead of workers.
        **keywords
            Further options of ``distributed.Adaptive``, such as ``interval`` and ``wait_count``.

        Returns
        -------
        distributed.Adaptive
            The object that scales the cluster from now on.
        """
        keywords.setdefault("Adaptive", NodeAdaptive)
        return super().adapt(*args, **keywords)

    async def _correct_state_internal(self) -> None:
        try:
            try:
                await super()._correct_state_internal()
            except OSError:  # the connection to the scheduler broke; the next call makes a new one
                await super()._correct_state_internal()
        except OSError as error:
            if self.status != Status.running:
                raise
            logger.error("cluster %s could not be scaled, call scale() again: %s", self.name, error)
        except ClusterError as error:
            if self.status != Status.running:
                raise
            # SpecCluster would keep the entries that could not start, and never try again
            level = logging.ERROR if self._closing is None else logging.DEBUG
            logger.log(level, "cluster %s could not grow: %s", self.name, error)
            for name in [n for n, node in self.workers.items() if node.status == Status.created]:
                self.worker_spec.pop(name, None)
                del self.workers[name]

    async def drain(self, names: Collection[str], deadline: float | None = None) -> None:
        """Let workers finish the tasks that they are executing, take no new ones, and leave.

        This is a coroutine of the cluster's event loop.

        Parameters
        ----------
        names : collection of str
            Names of workers.
        deadline : float, optional
            Seconds to wait for running tasks. Default: as long as they take.
        """
        await draining.drain(self.scheduler_comm, names, self._before_leaving, deadline)

    async def _before_leaving(self, workers: list[str]) -> None:
        """Prepare idle workers, by address, for their end; subclasses override it."""
