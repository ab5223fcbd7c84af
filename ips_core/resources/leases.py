"""Decide which request gets nodes or a Dask cluster, and which one waits.

A cluster is leased to runs of pools, a reservation is held by a launched task; both take from the
same nodes. Each method of ``ClusterScheduler`` reports one thing that happened and returns the
actions that follow from it, for ``service`` to carry out.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ips_core.errors import BadResourceRequest, DaskClusterError, InsufficientResources, IPSError
from ips_core.resources.clusters import ClusterRequest
from ips_core.resources.nodes import Demand, Reservation, ResourceManager

__all__ = [
    "Action",
    "CancelRun",
    "CloseCluster",
    "Granted",
    "ClusterScheduler",
    "Refused",
    "StartCluster",
    "ResourceRequest",
    "ClusterDemand",
]

_ENDING = "the simulation is ending"


@dataclass(frozen=True)
class ClusterDemand:
    """Cluster that a run of a pool requests."""

    request: ClusterRequest
    run: str  #: name of the run on the workers, by which it can be cancelled
    exclusive: bool = False  #: share the cluster with no other run meanwhile


@dataclass(frozen=True, eq=False)
class ResourceRequest:
    """Request of a component that is to be granted or refused."""

    owner: Hashable  #: the component; what it holds is released when it is gone
    demand: Demand
    wanted: ClusterDemand | None = None  #: cluster on these nodes; None: only a reservation
    block: bool = True  #: False: refuse instead of waiting for other owners
    reply: Any = None  #: data that the caller needs for its answer
    simulation: str = ""  #: clusters are shared within one simulation and end with it


@dataclass(frozen=True)
class Granted:
    """Grant a request with a :class:`Reservation`, or with a cluster's address and a lease."""

    request: ResourceRequest
    value: Any


@dataclass(frozen=True)
class Refused:
    """Refuse a request with an error."""

    request: ResourceRequest
    error: IPSError


@dataclass(frozen=True)
class StartCluster:
    """Start a cluster on these nodes; ``request`` is the first request that waits for it."""

    cluster: int
    nodes: tuple[str, ...]
    request: ResourceRequest


@dataclass(frozen=True)
class CloseCluster:
    """Close a cluster."""

    cluster: int


@dataclass(frozen=True)
class CancelRun:
    """End the tasks of a run whose owner is gone; ``reply`` is that of its request."""

    cluster: int
    lease: int
    run: str
    reply: Any = field(default=None, compare=False)


Action = Granted | Refused | StartCluster | CloseCluster | CancelRun


@dataclass(eq=False)
class _Cluster:
    number: int
    simulation: str
    request: ClusterRequest
    allocation: Reservation | None  # None: processes on this machine
    waiting: list[ResourceRequest]  # for the start of the cluster
    address: Any = None  # None until it has started
    leases: dict[int, ResourceRequest] = field(default_factory=dict)
    idle_since: float = 0.0
    lost: bool = False
    closing: bool = False

    @property
    def users(self) -> list[ResourceRequest]:
        return [*self.leases.values(), *self.waiting]

    @property
    def idle(self) -> bool:
        return self.address is not None and not self.closing and not self.leases

    def can_serve(self, wanted: ClusterDemand, simulation: str) -> bool:
        if self.lost or self.closing or self.request != wanted.request or wanted.request.fresh:
            return False
        if self.simulation != simulation:
            return False
        users = self.users
        return not users if wanted.exclusive else not any(_is_exclusive(user) for user in users)


def _is_exclusive(request: ResourceRequest) -> bool:
    return request.wanted is not None and request.wanted.exclusive


class ClusterScheduler:
    """Grant nodes and clusters to requests in the order of asking.

    A cluster without leases is kept until a request needs its nodes or `idle_seconds` have passed.
    With `local`, clusters are processes on this machine: they take none of its nodes and wait for
    no other request.
    """

    def __init__(
        self,
        manager: ResourceManager,
        local: bool,
        idle_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._manager = manager
        self._local = local
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._queue: list[ResourceRequest] = []
        self._clusters: dict[int, _Cluster] = {}
        self._allocations: dict[int, Hashable] = {}  # owners of reservations without a cluster
        self._cluster_numbers = itertools.count(1)
        self._lease_numbers = itertools.count(1)
        self._actions: list[Action] = []
        self._ended: set[str] = set()

    # -- requests of components --------------------------------------------------------------

    def ask(self, request: ResourceRequest) -> list[Action]:
        """Handle a request for a reservation or a cluster."""
        if request.simulation in self._ended:
            return [Refused(request, IPSError(_ENDING))]
        try:
            self._manager.check(request.demand)
        except BadResourceRequest as error:
            return [Refused(request, error)]
        self._manager.give_back()  # The other driver on withheld nodes may have left.
        self._queue.append(request)
        self._advance()
        if request in self._queue and not request.block and not self._is_next(request):
            self._queue.remove(request)
            text = f"{request.demand} cannot be had now: too much is in use"
            self._actions.append(Refused(request, InsufficientResources(text)))
        return self._taken()

    def release(self, allocation_id: int) -> list[Action]:
        """Take a reservation back."""
        if self._allocations.pop(allocation_id, None) is not None:
            self._manager.release(allocation_id)
            self._advance()
        return self._taken()

    def release_cluster(self, lease: int, spoiled: bool = False) -> list[Action]:
        """Take a lease back; ``spoiled`` if its tasks run on, so that the cluster is not reused."""
        for cluster in list(self._clusters.values()):
            if cluster.leases.pop(lease, None) is not None:
                cluster.lost = cluster.lost or spoiled
                if not cluster.leases:
                    self._rest(cluster)
        self._advance()
        return self._taken()

    def drop(self, owner: Hashable) -> list[Action]:
        """Forget the requests of a component that is gone and take back what it held."""
        self._queue = [request for request in self._queue if request.owner != owner]
        for number in [n for n, holder in self._allocations.items() if holder == owner]:
            del self._allocations[number]
            self._manager.release(number)
        for cluster in list(self._clusters.values()):
            cluster.waiting = [request for request in cluster.waiting if request.owner != owner]
            for lease, request in list(cluster.leases.items()):
                if request.owner == owner and request.wanted is not None:
                    # The workers still run its tasks, so the lease lasts until those have ended.
                    run = request.wanted.run
                    self._actions.append(CancelRun(cluster.number, lease, run, request.reply))
        self._advance()
        return self._taken()

    # -- events of clusters ------------------------------------------------------------------

    def started(self, number: int, address: Any) -> list[Action]:
        """Grant a cluster that has started; ``address`` is what its users need to connect."""
        cluster = self._clusters[number]
        cluster.address = address
        waiting, cluster.waiting = cluster.waiting, []
        for request in waiting:
            self._lease(cluster, request)
        if not waiting:  # The components that asked for the cluster are gone.
            self._rest(cluster)
        self._advance()
        return self._taken()

    def failed(self, number: int, reason: str, taken: Sequence[str] = ()) -> list[Action]:
        """Handle a cluster that could not start; ``taken`` are nodes that another driver uses.

        Requests then wait for other nodes, and are refused if too few are left.
        """
        cluster = self._clusters[number]
        waiting, cluster.waiting = cluster.waiting, []
        if taken:
            self._manager.withhold(taken)
            waiting, self._queue = waiting + self._queue, []
            self._queue = [each for each in waiting if self._manager.is_possible(each.demand)]
        self._refuse([each for each in waiting if each not in self._queue], reason)
        self._close(cluster)
        self._advance()
        return self._taken()

    def lost(self, number: int) -> list[Action]:
        """Handle the loss of a cluster, of which its users know already."""
        cluster = self._clusters[number]
        cluster.lost = True
        if cluster.idle:
            self._close(cluster)
        return self._taken()

    def cancelled(self, number: int, lease: int) -> list[Action]:
        """Take back the lease of a run whose owner is gone and whose tasks have ended."""
        cluster = self._clusters.get(number)
        request = cluster.leases.get(lease) if cluster is not None else None
        if cluster is not None and request is not None and _is_exclusive(request):
            cluster.lost = True  # The run's worker plugin stays: only its owner could remove it.
        return self.release_cluster(lease)

    def gone(self, number: int, reason: str) -> list[Action]:
        """Free the nodes of a cluster that is closed or whose keeper has died."""
        cluster = self._clusters.pop(number)
        self._refuse(cluster.waiting, reason)
        if cluster.allocation is not None:
            self._manager.release(cluster.allocation.id)
        self._advance()
        return self._taken()

    # -- time --------------------------------------------------------------------------------

    def deadline(self) -> float | None:
        """Return the time of the clock at which :meth:`tick` is due, None if it never is."""
        idle = [each.idle_since for each in self._living if each.idle]
        return min(idle) + self._idle_seconds if idle else None

    def tick(self) -> list[Action]:
        """Close clusters that were idle for too long."""
        deadline = self._clock() - self._idle_seconds
        for cluster in self._living:
            if cluster.idle and cluster.idle_since <= deadline:
                self._close(cluster)
        return self._taken()

    def end(self, simulation: str) -> None:
        """Drop the requests of a simulation that ends and refuse new ones.

        The simulation itself ends its clusters.
        """
        self._queue = [request for request in self._queue if request.simulation != simulation]
        for cluster in self._living:
            if cluster.simulation == simulation:
                cluster.waiting.clear()
        self._ended.add(simulation)

    @property
    def _living(self) -> list[_Cluster]:
        """Clusters of simulations that are not ending."""
        return [each for each in self._clusters.values() if each.simulation not in self._ended]

    # -- decisions ---------------------------------------------------------------------------

    def _taken(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions

    def _advance(self) -> None:
        """Serve the requests that can be served, in the order of asking."""
        asking, self._queue = self._queue, []
        for request in asking:
            if (self._queue and not self._may_overtake(request)) or not self._serve(request):
                self._queue.append(request)

    def _may_overtake(self, request: ResourceRequest) -> bool:
        """Tell whether a request may be served before earlier ones.

        An owner that uses a suitable cluster may: if it waited, it would keep the cluster for
        longer.
        """
        if request.wanted is None:
            return False
        cluster = self._suitable(request)
        return self._local or (
            cluster is not None and any(user.owner == request.owner for user in cluster.users)
        )

    def _serve(self, request: ResourceRequest) -> bool:
        if request.wanted is None:
            allocation = self._allocate(request.demand)
            if allocation is not None:
                self._allocations[allocation.id] = request.owner
                self._actions.append(Granted(request, allocation))
            return allocation is not None
        cluster = self._suitable(request)
        if cluster is None:
            return self._start(request, request.wanted)
        if cluster.address is None:
            cluster.waiting.append(request)
        else:
            self._lease(cluster, request)
        return True

    def _suitable(self, request: ResourceRequest) -> _Cluster | None:
        wanted = request.wanted
        assert wanted is not None
        able = [each for each in self._living if each.can_serve(wanted, request.simulation)]
        running = [cluster for cluster in able if cluster.address is not None]
        return next(iter(running + able), None)

    def _start(self, request: ResourceRequest, wanted: ClusterDemand) -> bool:
        allocation = None if self._local else self._allocate(request.demand)
        if allocation is None and not self._local:
            return False
        number = next(self._cluster_numbers)
        self._clusters[number] = _Cluster(
            number, request.simulation, wanted.request, allocation, [request]
        )
        self._actions.append(StartCluster(number, allocation.nodes if allocation else (), request))
        return True

    def _allocate(self, demand: Demand) -> Reservation | None:
        """Return a reservation, or None; close idle clusters if their nodes would be enough."""
        allocation = self._manager.allocate(demand)
        if allocation is None and not self._is_coming(demand):
            idle = [each for each in self._living if each.idle and each.allocation]
            idle.sort(key=lambda cluster: cluster.idle_since)
            for count in range(1, len(idle) + 1):
                if self._is_coming(demand, idle[:count]):
                    for cluster in idle[:count]:
                        self._close(cluster)
                    break
        return allocation

    def _is_coming(self, demand: Demand, besides: list[_Cluster] | None = None) -> bool:
        """Tell whether a demand fits once the closing clusters, and ``besides``, are gone."""
        living = [each for each in self._living if not each.closing]
        leaving = [each for each in self._clusters.values() if each not in living]
        leaving += besides or []
        return self._manager.fits(demand, [each.allocation for each in leaving if each.allocation])

    def _is_next(self, request: ResourceRequest) -> bool:
        """Tell whether a request waits only for clusters that are closing."""
        return self._queue[0] is request and self._is_coming(request.demand)

    def _lease(self, cluster: _Cluster, request: ResourceRequest) -> None:
        lease = next(self._lease_numbers)
        cluster.leases[lease] = request
        self._actions.append(Granted(request, (cluster.address, lease)))

    def _rest(self, cluster: _Cluster) -> None:
        """Mark a cluster without users as idle, or close it if it cannot be reused."""
        cluster.idle_since = self._clock()
        if cluster.lost or cluster.request.fresh:
            self._close(cluster)

    def _close(self, cluster: _Cluster) -> None:
        cluster.closing = True
        self._actions.append(CloseCluster(cluster.number))

    def _refuse(self, waiting: list[ResourceRequest], reason: str) -> None:
        self._actions += [Refused(request, DaskClusterError(reason)) for request in waiting]
