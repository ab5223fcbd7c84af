"""What a component's process has to do with clusters."""

from __future__ import annotations

import logging
from typing import Any

from ips_core.pools.dask.backend import DaskClusters


class Client:
    """Closing it takes so long that the news of another cluster's end comes in between."""

    def __init__(self, clusters: DaskClusters) -> None:
        self.clusters = clusters
        self.closed = 0

    def close(self, timeout: float) -> None:
        self.closed += 1
        self.clusters.leave_cluster("b")


def test_cluster_that_closes_while_all_are_left_is_no_error() -> None:
    unused: Any = None
    clusters = DaskClusters(unused, unused, logging.getLogger(__name__))
    clients = {name: Client(clusters) for name in "abc"}
    clusters._clients.update(clients)
    clusters.close()
    assert [client.closed for client in clients.values()] == [1, 1, 1]
