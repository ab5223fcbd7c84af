"""Who gets which nodes and which Dask cluster, and who waits for them: decisions only.

A cluster is leased to runs of pools, an allocation is held by whoever launches a task; both come
out of the same nodes. Every method takes note of something that happened and returns what is to
be done about it, for ``service`` to do.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ips_core.errors import BadResourceRequest, DaskClusterError, InsufficientResources, IPSError
from ips_core.pools.dask.cluster_adapter import ClusterRequest
from ips_core.resources.nodes import Allocation, Demand, ResourceManager

__all__ = ["Action", "CancelRun", "Close", "Grant", "Lender", "Refuse", "Start", "Ticket", "Wanted"]

_ENDING = "the simulation is ending"


@dataclass(frozen=True)
class Wanted:
    """The cluster that a run of a pool asks for.

    Parameters
    ----------
    request : ClusterRequest
        Which kind.
    run : str
        The run's name on the workers, by which it can be cancelled.
    exclusive : bool
        True: no other run on it meanwhile.
    """

    request: ClusterRequest
    run: str
    exclusive: bool = False


@dataclass(frozen=True, eq=False)
class Ticket:
    """A request, until it is granted or refused.

    Parameters
    ----------
    owner : hashable
        Who asks; what it holds is given back when it is gone.
    demand : Demand
        What of the nodes it takes.
    wanted : Wanted or None
        The cluster that is to be on them; None: just an allocation.
    block : bool
        False: refuse rather than wait for others.
    reply : object
        Whatever the caller needs for its answer.
    simulation : str
        Whose simulation: clusters are shared within one, and end with it.
    """

    owner: Hashable
    demand: Demand
    wanted: Wanted | None = None
    block: bool = True
    reply: Any = None
    simulation: str = ""


@dataclass(frozen=True)
class Grant:
    """Answer a ticket: with an :class:`Allocation`, or with a cluster's address and a lease."""

    ticket: Ticket
    value: Any


@dataclass(frozen=True)
class Refuse:
    """Answer a ticket with an error."""

    ticket: Ticket
    error: IPSError


@dataclass(frozen=True)
class Start:
    """Start a cluster on these nodes; ``ticket`` is the first that waits for it."""

    cluster: int
    nodes: tuple[str, ...]
    ticket: Ticket


@dataclass(frozen=True)
class Close:
    """Close a cluster."""

    cluster: int


@dataclass(frozen=True)
class CancelRun:
    """End what a run, whose owner is gone, executes on a cluster; ``reply`` is its ticket's."""

    cluster: int
    lease: int
    run: str
    reply: Any = field(default=None, compare=False)


Action = Grant | Refuse | Start | Close | CancelRun


@dataclass(eq=False)
class _Cluster:
    number: int
    simulation: str
    request: ClusterRequest
    allocation: Allocation | None  # None: processes on this machine beside those of others
    waiting: list[Ticket]  # for its start
    address: Any = None  # None until it has started
    leases: dict[int, Ticket] = field(default_factory=dict)
    idle_since: float = 0.0
    lost: bool = False
    closing: bool = False

    @property
    def users(self) -> list[Ticket]:
        return [*self.leases.values(), *self.waiting]

    @property
    def idle(self) -> bool:
        return self.address is not None and not self.closing and not self.leases

    def can_serve(self, wanted: Wanted, simulation: str) -> bool:
        if self.lost or self.closing or self.request != wanted.request or wanted.request.fresh:
            return False
        if self.simulation != simulation:
            return False
        users = self.users
        return not users if wanted.exclusive else not any(_is_exclusive(user) for user in users)


def _is_exclusive(ticket: Ticket) -> bool:
    return ticket.wanted is not None and ticket.wanted.exclusive


class Lender:
    """Lends nodes and clusters to components.

    Who waits is served in the order of asking. Clusters that nobody uses are kept until their
    nodes are wanted, or nobody has used them for long.

    Parameters
    ----------
    manager : ResourceManager
        Knows the nodes.
    local : bool
        True: clusters are processes on this machine beside everything else there: they take
        nothing of its pretended nodes, and wait for nobody.
    idle_seconds : float
        How long a cluster is kept that nobody uses.
    clock : callable
        Returns seconds.
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
        self._queue: list[Ticket] = []
        self._clusters: dict[int, _Cluster] = {}
        self._allocations: dict[int, Hashable] = {}  # owners of those without a cluster
        self._cluster_numbers = itertools.count(1)
        self._lease_numbers = itertools.count(1)
        self._actions: list[Action] = []
        self._ended: set[str] = set()

    # -- what components do ------------------------------------------------------------------

    def ask(self, ticket: Ticket) -> list[Action]:
        """Somebody asks for an allocation or a cluster."""
        if ticket.simulation in self._ended:
            return [Refuse(ticket, IPSError(_ENDING))]
        try:
            self._manager.check(ticket.demand)
        except BadResourceRequest as error:
            return [Refuse(ticket, error)]
        self._manager.give_back()  # whoever had nodes of ours may be gone
        self._queue.append(ticket)
        self._advance()
        if ticket in self._queue and not ticket.block and not self._is_next(ticket):
            self._queue.remove(ticket)
            text = f"{ticket.demand} cannot be had now: too much is in use"
            self._actions.append(Refuse(ticket, InsufficientResources(text)))
        return self._taken()

    def release(self, allocation_id: int) -> list[Action]:
        """An allocation is given back."""
        if self._allocations.pop(allocation_id, None) is not None:
            self._manager.release(allocation_id)
            self._advance()
        return self._taken()

    def release_cluster(self, lease: int, spoiled: bool = False) -> list[Action]:
        """A lease of a cluster is given back.

        If that is ``spoiled``, by functions that run on and cannot be ended, nobody else gets it.
        """
        for cluster in list(self._clusters.values()):
            if cluster.leases.pop(lease, None) is not None:
                cluster.lost = cluster.lost or spoiled
                if not cluster.leases:
                    self._rest(cluster)
        self._advance()
        return self._taken()

    def drop(self, owner: Hashable) -> list[Action]:
        """A component is gone: nobody waits for it, and what it held is given back."""
        self._queue = [ticket for ticket in self._queue if ticket.owner != owner]
        for number in [n for n, holder in self._allocations.items() if holder == owner]:
            del self._allocations[number]
            self._manager.release(number)
        for cluster in list(self._clusters.values()):
            cluster.waiting = [ticket for ticket in cluster.waiting if ticket.owner != owner]
            for lease, ticket in list(cluster.leases.items()):
                if ticket.owner == owner and ticket.wanted is not None:
                    # The workers still do what it asked for: its lease lasts until they do not
                    run = ticket.wanted.run
                    self._actions.append(CancelRun(cluster.number, lease, run, ticket.reply))
        self._advance()
        return self._taken()

    # -- what becomes of clusters ------------------------------------------------------------

    def started(self, number: int, address: Any) -> list[Action]:
        """A cluster has started; ``address`` is what its users get to know."""
        cluster = self._clusters[number]
        cluster.address = address
        waiting, cluster.waiting = cluster.waiting, []
        for ticket in waiting:
            self._lease(cluster, ticket)
        if not waiting:  # they are gone
            self._rest(cluster)
        self._advance()
        return self._taken()

    def failed(self, number: int, reason: str, taken: Sequence[str] = ()) -> list[Action]:
        """A cluster could not start; ``taken`` are nodes that somebody else turned out to have.

        Then who waits for it is given others, unless too few are left.
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
        """A cluster is lost; its users know."""
        cluster = self._clusters[number]
        cluster.lost = True
        if cluster.idle:
            self._close(cluster)
        return self._taken()

    def cancelled(self, number: int, lease: int) -> list[Action]:
        """What a run, whose owner is gone, executed on a cluster has ended."""
        cluster = self._clusters.get(number)
        ticket = cluster.leases.get(lease) if cluster is not None else None
        if cluster is not None and ticket is not None and _is_exclusive(ticket):
            cluster.lost = True  # its worker plugin lives on, which nobody would end
        return self.release_cluster(lease)

    def gone(self, number: int, reason: str) -> list[Action]:
        """A cluster is closed, or its keeper has died: its nodes are free."""
        cluster = self._clusters.pop(number)
        self._refuse(cluster.waiting, reason)
        if cluster.allocation is not None:
            self._manager.release(cluster.allocation.id)
        self._advance()
        return self._taken()

    # -- time --------------------------------------------------------------------------------

    def deadline(self) -> float | None:
        """Return when :meth:`tick` has to be called, by the clock; None: not at all."""
        idle = [each.idle_since for each in self._living if each.idle]
        return min(idle) + self._idle_seconds if idle else None

    def tick(self) -> list[Action]:
        """Time has passed: clusters that were idle too long are closed."""
        deadline = self._clock() - self._idle_seconds
        for cluster in self._living:
            if cluster.idle and cluster.idle_since <= deadline:
                self._close(cluster)
        return self._taken()

    def end(self, simulation: str) -> None:
        """A simulation ends: nobody of it gets anything any more; its clusters are ended by it."""
        self._queue = [ticket for ticket in self._queue if ticket.simulation != simulation]
        for cluster in self._living:
            if cluster.simulation == simulation:
                cluster.waiting.clear()
        self._ended.add(simulation)

    @property
    def _living(self) -> list[_Cluster]:
        """The clusters of simulations that go on."""
        return [each for each in self._clusters.values() if each.simulation not in self._ended]

    # -- deciding ----------------------------------------------------------------------------

    def _taken(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions

    def _advance(self) -> None:
        """Serve who can be served, in the order of asking."""
        asking, self._queue = self._queue, []
        for ticket in asking:
            if (self._queue and not self._may_overtake(ticket)) or not self._serve(ticket):
                self._queue.append(ticket)

    def _may_overtake(self, ticket: Ticket) -> bool:
        """Who uses a cluster already would keep it for longer by waiting for itself."""
        if ticket.wanted is None:
            return False
        cluster = self._suitable(ticket)
        return self._local or (
            cluster is not None and any(user.owner == ticket.owner for user in cluster.users)
        )

    def _serve(self, ticket: Ticket) -> bool:
        if ticket.wanted is None:
            allocation = self._allocate(ticket.demand)
            if allocation is not None:
                self._allocations[allocation.id] = ticket.owner
                self._actions.append(Grant(ticket, allocation))
            return allocation is not None
        cluster = self._suitable(ticket)
        if cluster is None:
            return self._start(ticket, ticket.wanted)
        if cluster.address is None:
            cluster.waiting.append(ticket)
        else:
            self._lease(cluster, ticket)
        return True

    def _suitable(self, ticket: Ticket) -> _Cluster | None:
        wanted = ticket.wanted
        assert wanted is not None
        able = [each for each in self._living if each.can_serve(wanted, ticket.simulation)]
        running = [cluster for cluster in able if cluster.address is not None]
        return next(iter(running + able), None)

    def _start(self, ticket: Ticket, wanted: Wanted) -> bool:
        allocation = None if self._local else self._allocate(ticket.demand)
        if allocation is None and not self._local:
            return False
        number = next(self._cluster_numbers)
        self._clusters[number] = _Cluster(
            number, ticket.simulation, wanted.request, allocation, [ticket]
        )
        self._actions.append(Start(number, allocation.nodes if allocation else (), ticket))
        return True

    def _allocate(self, demand: Demand) -> Allocation | None:
        """Return an allocation; without one, see to it that idle clusters give their nodes."""
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
        """Tell whether a demand can be met as soon as closing clusters, and others, are closed."""
        living = [each for each in self._living if not each.closing]
        leaving = [each for each in self._clusters.values() if each not in living]
        leaving += besides or []
        return self._manager.fits(demand, [each.allocation for each in leaving if each.allocation])

    def _is_next(self, ticket: Ticket) -> bool:
        """Tell whether a ticket waits for nothing but clusters that are closing."""
        return self._queue[0] is ticket and self._is_coming(ticket.demand)

    def _lease(self, cluster: _Cluster, ticket: Ticket) -> None:
        lease = next(self._lease_numbers)
        cluster.leases[lease] = ticket
        self._actions.append(Grant(ticket, (cluster.address, lease)))

    def _rest(self, cluster: _Cluster) -> None:
        """Nobody uses a cluster any more: keep it, if it is of use to others."""
        cluster.idle_since = self._clock()
        if cluster.lost or cluster.request.fresh:
            self._close(cluster)

    def _close(self, cluster: _Cluster) -> None:
        cluster.closing = True
        self._actions.append(Close(cluster.number))

    def _refuse(self, waiting: list[Ticket], reason: str) -> None:
        self._actions += [Refuse(ticket, DaskClusterError(reason)) for ticket in waiting]
