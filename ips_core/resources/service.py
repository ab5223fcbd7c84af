"""Does what ``leases`` decides: answers components, starts and ends the keepers of Dask clusters.

It runs in the framework's loop, so nothing in it waits.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ips_core.errors import ConfigError
from ips_core.ipc.calls import Call, CallTable
from ips_core.ipc.messages import Broadcast, ComponentID, Failure, Reply, Request, Returned, unpack
from ips_core.pools.dask.cluster_adapter import ClusterRequest, NodesTaken
from ips_core.resources.leases import (
    Action,
    CancelRun,
    Close,
    Grant,
    Lender,
    Refuse,
    Start,
    Ticket,
    Wanted,
)
from ips_core.resources.nodes import Demand, ResourceManager, Resources

__all__ = ["Keepers", "ResourceService", "idle_seconds"]

_IDLE_SECONDS = 600.0
#: For a keeper to close its cluster; Dask and the steps have deadlines of their own below that.
_CLOSE_SECONDS = 60.0


def idle_seconds(file: str, values: Mapping[str, Any]) -> float:
    """Return how long a Dask cluster is kept that nobody uses: ``DASK_IDLE_TIMEOUT``, or 600 s.

    Parameters
    ----------
    file : str
        The simulation file, for the error.
    values : mapping
        Its top level.

    Raises
    ------
    ConfigError
        It is no number of seconds.
    """
    text = values.get("DASK_IDLE_TIMEOUT") or _IDLE_SECONDS
    try:
        seconds = float(text)
    except (TypeError, ValueError):
        seconds = -1.0
    if not seconds >= 0:  # nor NaN
        raise ConfigError(file, [f"DASK_IDLE_TIMEOUT = {text}: expected a number of seconds"])
    return seconds


class _Asker(Protocol):
    """Who asks, as far as it matters here."""

    component_id: ComponentID
    name: str

    def send(self, message: object) -> None:
        """Send a message; nothing happens if the component is gone."""
        ...


@dataclass(frozen=True)
class Keepers:
    """How the framework runs the keepers of clusters; each function returns at once.

    Parameters
    ----------
    start : callable
        ``start(simulation)`` starts the process of a keeper, and returns who it is.
    invoke : callable
        ``invoke(keeper, method, *arguments)`` calls a method of it.
    dismiss : callable
        ``dismiss(keeper, kill)`` tells it to leave, or ends it by force.
    broadcast : callable
        Tells every component something.
    """

    start: Callable[[str], ComponentID]
    invoke: Callable[..., Call]
    dismiss: Callable[[ComponentID, bool], None]
    broadcast: Callable[[Broadcast], None]


@dataclass
class _Keeper:
    cluster: int
    address: str = ""
    leaves_until: float | None = None


class ResourceService:
    """The services by which components get nodes, cores and Dask clusters.

    Parameters
    ----------
    resources : Resources
        What there is.
    idle : float
        Seconds that a cluster is kept which nobody uses.
    calls : CallTable
        Where the calls of keepers end.
    control : Keepers
        Runs the keepers.
    """

    def __init__(
        self, resources: Resources, idle: float, calls: CallTable, control: Keepers
    ) -> None:
        manager = ResourceManager(resources.held, resources.cores_per_node)
        self._lender = Lender(manager, resources.launcher == "local", idle)
        self._calls = calls
        self._control = control
        self._keepers: dict[ComponentID, _Keeper] = {}
        self._task_ids = itertools.count(1)
        self.services: dict[str, Callable[[Any, Request], None]] = {
            "acquire_cluster": self._acquire_cluster,
            "release_cluster": self._release_cluster,
            "allocate": self._allocate,
            "release": self._release,
            "new_task_id": self._new_task_id,
        }

    # -- what components ask -----------------------------------------------------------------

    def _acquire_cluster(self, sender: _Asker, request: Request) -> None:
        """``acquire_cluster(request, run, exclusive)``: a packed ``ClusterAddress``, and a lease.

        It is parked until there is one.
        """
        wanted: ClusterRequest = request.arguments[0]
        ticket = Ticket(
            sender.component_id,
            Demand.of_nodes(wanted.nodes),
            Wanted(*request.arguments),
            reply=(sender, request.request_id),
            simulation=sender.component_id.root,
        )
        self._do(self._lender.ask(ticket))

    def _release_cluster(self, sender: _Asker, request: Request) -> None:
        """``release_cluster(lease, spoiled)``."""
        sender.send(Reply(request.request_id))
        self._do(self._lender.release_cluster(*request.arguments))

    def _allocate(self, sender: _Asker, request: Request) -> None:
        """``allocate(nproc, ppn, cores, gpus, whole_nodes, ..., block)``: an ``Allocation``.

        All but the last are those of ``resources.Demand``. It is parked until there is one, unless
        ``block`` is False.
        """
        *demand, block = request.arguments
        reply = (sender, request.request_id)
        component_id = sender.component_id
        ticket = Ticket(
            component_id, Demand(*demand), block=block, reply=reply, simulation=component_id.root
        )
        self._do(self._lender.ask(ticket))

    def _release(self, sender: _Asker, request: Request) -> None:
        """``release(allocation_id)``."""
        sender.send(Reply(request.request_id))
        self._do(self._lender.release(*request.arguments))

    def _new_task_id(self, sender: _Asker, request: Request) -> None:
        """``new_task_id()``: the next of the numbers that tasks of all components share."""
        sender.send(Reply(request.request_id, next(self._task_ids)))

    # -- what the framework's loop sees ------------------------------------------------------

    def gone(self, component_id: ComponentID, reason: str) -> None:
        """A process has ended: a component's, or a keeper's."""
        keeper = self._keepers.pop(component_id, None)
        if keeper is None:
            self._do(self._lender.drop(component_id))
            return
        reason = f"the keeper of the cluster: {reason}"
        if keeper.address and keeper.leaves_until is None:
            self._control.broadcast(Broadcast("cluster-lost", (keeper.address, reason)))
        self._do(self._lender.gone(keeper.cluster, reason))

    def hear(self, sender: ComponentID, news: Broadcast) -> None:
        """A keeper may have told that its cluster is lost."""
        keeper = self._keepers.get(sender)
        if keeper is not None and news.topic == "cluster-lost":
            self._do(self._lender.lost(keeper.cluster))

    def timeout(self) -> float | None:
        """Return the seconds until :meth:`tick` has to be called; None: not at all."""
        times = [keeper.leaves_until for keeper in self._keepers.values()]
        moments = [moment for moment in [self._lender.deadline(), *times] if moment is not None]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def tick(self) -> None:
        """Time has passed."""
        self._do(self._lender.tick())
        for component_id, keeper in list(self._keepers.items()):
            if keeper.leaves_until is not None and time.monotonic() >= keeper.leaves_until:
                keeper.leaves_until = time.monotonic() + _CLOSE_SECONDS
                self._control.dismiss(component_id, True)

    def end(self, simulation: str) -> list[ComponentID]:
        """A simulation ends: nobody of it gets anything any more. Return its keepers to see out."""
        self._lender.end(simulation)
        return [keeper for keeper in self._keepers if keeper.simulation == simulation]

    # -- doing -------------------------------------------------------------------------------

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Grant(ticket, value):
                    sender, request_id = ticket.reply
                    sender.send(Reply(request_id, value))
                case Refuse(ticket, error):
                    sender, request_id = ticket.reply
                    sender.send(Reply(request_id, failure=Failure(str(error), error=error)))
                case Start():
                    self._start(action)
                case Close(cluster):
                    self._close(self._keeper_of(cluster))
                case CancelRun():
                    self._cancel(action)

    def _keeper_of(self, cluster: int) -> ComponentID:
        return next(name for name, each in self._keepers.items() if each.cluster == cluster)

    def _start(self, start: Start) -> None:
        name = self._control.start(start.ticket.simulation)
        keeper = self._keepers[name] = _Keeper(start.cluster)
        wanted, (sender, _) = start.ticket.wanted, start.ticket.reply
        assert wanted is not None
        call = self._control.invoke(
            name, "start", wanted.request, start.nodes, next(self._task_ids), sender.name
        )

        def ended(outcome: Returned) -> None:
            if outcome.failure is not None:
                self._do(self._lender.failed(start.cluster, outcome.failure.text))
                return
            found = unpack(outcome.value)
            if isinstance(found, NodesTaken):
                self._do(self._lender.failed(start.cluster, str(found), found.nodes))
                return
            keeper.address = found.address
            self._do(self._lender.started(start.cluster, found.packed))

        self._calls.when_ended(call, ended)

    def _close(self, name: ComponentID) -> None:
        keeper = self._keepers[name]
        keeper.leaves_until = time.monotonic() + _CLOSE_SECONDS
        if keeper.address:  # who is still connected leaves first; Dask would complain loudly
            self._control.broadcast(Broadcast("cluster-closing", keeper.address))
        self._control.dismiss(name, False)

    def _cancel(self, cancel: CancelRun) -> None:
        sender, _ = cancel.reply
        keeper = self._keeper_of(cancel.cluster)
        call = self._control.invoke(keeper, "cancel", cancel.run, sender.name)
        self._calls.when_ended(
            call, lambda _: self._do(self._lender.cancelled(cancel.cluster, cancel.lease))
        )
