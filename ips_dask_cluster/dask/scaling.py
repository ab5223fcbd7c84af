"""Scaling a cluster by whole nodes, each of them drained before it is given back.

These methods take the place of ``SpecCluster``'s, which drain nothing (``retire_workers`` gets
names where it wants addresses) and pick any worker when a node has several.
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
    """A cluster whose spec has an entry for each node."""

    steps: Steps
    workers_per_node: int
    _reports: Reports
    _closing: Any  # the future of its end, once that has begun
    status: Any  # distributed's Status; its base classes set it

    def _connected(self) -> set[str]:
        """Return the names of the workers that are there."""
        return {info["name"] for info in self.scheduler_info["workers"].values()}

    def _is_on(self, worker: str, nodes: Collection[str]) -> bool:
        return worker in self.steps.placed and self.steps.placed[worker].name in nodes

    def most_workers(self) -> int:
        """Return how many workers the cluster can have, other clusters and lost nodes aside."""
        return self.steps.most_nodes() * self.workers_per_node

    def scale(
        self, n: int | None = None, jobs: int = 0, memory: Any = None, cores: int | None = None
    ) -> Any:
        """Bring the cluster to a number of nodes of the allocation; does not wait for them.

        Nodes that are given back are drained first: what runs on them ends where it is.

        Parameters
        ----------
        n, jobs : int
            Number of workers, and number of nodes.
        memory : str
            Total memory, such as ``"1 TB"``.
        cores : int
            Total number of threads.

        Raises
        ------
        NotEnoughNodesError
            The allocation has fewer free nodes.
        ValueError
            A number is no whole number of 0 or more, or memory is asked for where that of a node
            is not known.
        ClusterError
            The cluster is closed, or its scheduler is lost: ``failure`` is raised then.
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
            self._reports.failure = None  # the last node was lost, but there are others
        there = self._connected()
        # Those that have not come yet go first, then the latest
        leaving = sorted(self.worker_spec, key=lambda w: there.isdisjoint(self.steps.members(w)))
        for worker in leaving[::-1][: max(0, len(self.worker_spec) - nodes)]:
            del self.worker_spec[worker]
        while len(self.worker_spec) < nodes and self.status != Status.closing:
            self.worker_spec.update(self.new_worker_spec())
        if self.status != Status.closing:  # SpecCluster waits for it there, and hears of errors
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
        """Return name and spec of the next node; a name is not used twice."""
        spec = super().new_worker_spec()
        self._i += 1  # one of that name may still be draining
        return dict(spec)

    async def _scale_down(self, names: Collection[str]) -> None:
        names = {names} if isinstance(names, str) else names
        for worker in list(self.worker_spec):
            if self._is_on(worker, names) or {*self.steps.members(worker)} <= {*names}:
                del self.worker_spec[worker]
        await self._correct_state()

    def scale_down(self, workers: Collection[str]) -> Any:
        """Give chosen nodes back, each as soon as what runs on it has ended.

        Parameters
        ----------
        workers : collection of str
            Names of nodes, or of workers; a node goes when all its workers are named.
        """
        return self.sync(self._scale_down, workers)

    def adapt(self, *args: Any, **keywords: Any) -> Any:
        """Give idle nodes back, and take them again when there is work; see dask-jobqueue's.

        Parameters
        ----------
        minimum, maximum : int, optional
            Number of workers. Default: 0, and as many as the allocation has nodes for.
        minimum_jobs, maximum_jobs : int, optional
            Number of nodes.
        **keywords
            For ``distributed.Adaptive``, such as ``interval``, ``wait_count``.
        """
        keywords.setdefault("Adaptive", NodeAdaptive)
        return super().adapt(*args, **keywords)

    async def _correct_state_internal(self) -> None:
        try:
            try:
                await super()._correct_state_internal()
            except OSError:  # its connection to the scheduler broke; the next call makes a new one
                await super()._correct_state_internal()
        except OSError as error:
            if self.status != Status.running:
                raise
            logger.error("cluster %s could not be scaled, call scale() again: %s", self.name, error)
        except ClusterError as error:
            if self.status != Status.running:
                raise
            # SpecCluster would keep what could not start, and never try again
            level = logging.ERROR if self._closing is None else logging.DEBUG
            logger.log(level, "cluster %s could not grow: %s", self.name, error)
            for name in [n for n, node in self.workers.items() if node.status == Status.created]:
                self.worker_spec.pop(name, None)
                del self.workers[name]

    async def drain(self, names: Collection[str], deadline: float | None = None) -> None:
        """Let workers finish the tasks they are executing, take no more, and leave.

        Parameters
        ----------
        names : collection of str
            Names of workers.
        deadline : float, optional
            Seconds to wait for running tasks. Default: as long as they take.
        """
        await draining.drain(self.scheduler_comm, names, self._before_leaving, deadline)

    async def _before_leaving(self, workers: list[str]) -> None:
        """Do what is to be done on idle workers, by address, before they leave."""
