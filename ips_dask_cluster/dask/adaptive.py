"""Scale adaptively by whole nodes: give back idle nodes, and take nodes when there is work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distributed import Adaptive

__all__ = ["NodeAdaptive"]


class NodeAdaptive(Adaptive):  # type: ignore[misc]  # distributed is untyped
    """A ``distributed.Adaptive`` that drains nodes before it gives them back.

    The base class retires workers at once, while they execute tasks, and it may choose one worker
    of a node whose other workers are busy.
    """

    def __init__(self, cluster: Any, *args: Any, **keywords: Any) -> None:
        if cluster.workers_per_node > 1:
            keywords.setdefault("worker_key", _node_of_worker())
        super().__init__(cluster, *args, **keywords)

    async def scale_up(self, n: int) -> None:
        """Scale up to ``n`` workers, as far as other clusters leave nodes."""
        most = self.cluster.most_workers()
        if most > len(self.plan):
            self.cluster.scale(min(n, most))

    async def scale_down(self, workers: Sequence[str]) -> None:
        """Give nodes back, each as soon as it is drained."""
        if workers:
            await self.cluster.scale_down(workers)


def _node_of_worker() -> Any:
    # A nested function is pickled by value: the scheduler may lack this package
    def node_of_worker(worker: Any) -> str:
        return str(worker.name).rpartition("-")[0]

    return node_of_worker
