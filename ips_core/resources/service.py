"""Carry out what ``leases`` decides: answer components, start and stop Dask clusters' keepers.

It runs in the framework's loop and never blocks.
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
from ips_core.resources.clusters import ClusterRequest, NodesTaken
from ips_core.resources.leases import (
    Action,
    CancelRun,
    CloseCluster,
    ClusterDemand,
    ClusterScheduler,
    Granted,
    Refused,
    ResourceRequest,
    StartCluster,
)
from ips_core.resources.nodes import Demand, ResourceManager, Resources

__all__ = ["KeeperControl", "ResourceService", "idle_seconds"]

_IDLE_SECONDS = 600.0
#: Seconds for a keeper to close its cluster; the deadlines of Dask and the job steps are shorter.
_CLOSE_SECONDS = 60.0


def idle_seconds(file: str, values: Mapping[str, Any]) -> float:
    """Return the seconds that an idle Dask cluster is kept: ``DASK_IDLE_TIMEOUT``, or 600.

    ``file`` is named in the ConfigError that an invalid number raises.
    """
    text = values.get("DASK_IDLE_TIMEOUT") or _IDLE_SECONDS
    try:
        seconds = float(text)
    except (TypeError, ValueError):
        seconds = -1.0
    if not seconds >= 0:  # This rejects NaN, too.
        raise ConfigError(file, [f"DASK_IDLE_TIMEOUT = {text}: expected a number of seconds"])
    return seconds


class _Asker(Protocol):
    """The component that asks, as far as this module uses it."""

    component_id: ComponentID
    name: str

    def send(self, message: object) -> None:
        """Send a message, or do nothing if the component is gone."""
        ...


@dataclass(frozen=True)
class KeeperControl:
    """Functions by which the framework runs the keepers of clusters; each returns at once."""

    #: ``start(simulation)`` starts the process of a keeper and returns the keeper's id.
    start: Callable[[str], ComponentID]
    #: ``invoke(keeper, method, *arguments)`` calls a method of a keeper.
    invoke: Callable[..., Call]
    #: ``dismiss(keeper, kill)`` tells a keeper to leave, or kills it.
    dismiss: Callable[[ComponentID, bool], None]
    #: ``broadcast(message)`` sends a message to every component.
    broadcast: Callable[[Broadcast], None]


@dataclass
class _Keeper:
    cluster: int
    address: str = ""
    leaves_until: float | None = None


class ResourceService:
    """Services by which components get nodes, cores and Dask clusters.

    `idle` is the number of seconds that a cluster without leases is kept.
    """

    def __init__(
        self, resources: Resources, idle: float, calls: CallTable, control: KeeperControl
    ) -> None:
        manager = ResourceManager(resources.held, resources.cores_per_node)
        self._lender = ClusterScheduler(manager, resources.launcher == "local", idle)
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

    # -- requests of components --------------------------------------------------------------

    def _acquire_cluster(self, sender: _Asker, request: Request) -> None:
        """Answer ``acquire_cluster(request, run, exclusive)`` with a packed address and a lease.

        The address is a ``ClusterAddress``. The answer comes when the cluster has started.
        """
        wanted: ClusterRequest = request.arguments[0]
        asked = ResourceRequest(
            sender.component_id,
            Demand.of_nodes(wanted.nodes),
            ClusterDemand(*request.arguments),
            reply=(sender, request.request_id),
            simulation=sender.component_id.root,
        )
        self._do(self._lender.ask(asked))

    def _release_cluster(self, sender: _Asker, request: Request) -> None:
        """Answer ``release_cluster(lease, spoiled)``."""
        sender.send(Reply(request.request_id))
        self._do(self._lender.release_cluster(*request.arguments))

    def _allocate(self, sender: _Asker, request: Request) -> None:
        """Answer ``allocate(nproc, ppn, cores, gpus, whole_nodes, ..., block)`` with a Reservation.

        All arguments but the last are those of ``resources.nodes.Demand``. Unless ``block`` is
        False, the answer comes when the resources are free.
        """
        *demand, block = request.arguments
        reply = (sender, request.request_id)
        component_id = sender.component_id
        asked = ResourceRequest(
            component_id, Demand(*demand), block=block, reply=reply, simulation=component_id.root
        )
        self._do(self._lender.ask(asked))

    def _release(self, sender: _Asker, request: Request) -> None:
        """Answer ``release(allocation_id)``."""
        sender.send(Reply(request.request_id))
        self._do(self._lender.release(*request.arguments))

    def _new_task_id(self, sender: _Asker, request: Request) -> None:
        """Answer ``new_task_id()`` with the next task id; ids are shared by all components."""
        sender.send(Reply(request.request_id, next(self._task_ids)))

    # -- events of the framework's loop ------------------------------------------------------

    def gone(self, component_id: ComponentID, reason: str) -> None:
        """Handle the end of a process, of a component or a keeper."""
        keeper = self._keepers.pop(component_id, None)
        if keeper is None:
            self._do(self._lender.drop(component_id))
            return
        reason = f"the keeper of the cluster: {reason}"
        if keeper.address and keeper.leaves_until is None:
            self._control.broadcast(Broadcast("cluster-lost", (keeper.address, reason)))
        self._do(self._lender.gone(keeper.cluster, reason))

    def hear(self, sender: ComponentID, news: Broadcast) -> None:
        """Handle a broadcast of a keeper: its cluster is lost."""
        keeper = self._keepers.get(sender)
        if keeper is not None and news.topic == "cluster-lost":
            self._do(self._lender.lost(keeper.cluster))

    def timeout(self) -> float | None:
        """Return the seconds until :meth:`tick` is due, None if it never is."""
        times = [keeper.leaves_until for keeper in self._keepers.values()]
        moments = [moment for moment in [self._lender.deadline(), *times] if moment is not None]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def tick(self) -> None:
        """Close clusters that were idle for too long; kill keepers that did not leave in time."""
        self._do(self._lender.tick())
        for component_id, keeper in list(self._keepers.items()):
            if keeper.leaves_until is not None and time.monotonic() >= keeper.leaves_until:
                keeper.leaves_until = time.monotonic() + _CLOSE_SECONDS
                self._control.dismiss(component_id, True)

    def end(self, simulation: str) -> list[ComponentID]:
        """Drop the requests of a simulation that ends and return its keepers for the shutdown."""
        self._lender.end(simulation)
        return [keeper for keeper in self._keepers if keeper.simulation == simulation]

    # -- actions -----------------------------------------------------------------------------

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Granted(asked, value):
                    sender, request_id = asked.reply
                    sender.send(Reply(request_id, value))
                case Refused(asked, error):
                    sender, request_id = asked.reply
                    sender.send(Reply(request_id, failure=Failure(str(error), error=error)))
                case StartCluster():
                    self._start(action)
                case CloseCluster(cluster):
                    self._close(self._keeper_of(cluster))
                case CancelRun():
                    self._cancel(action)

    def _keeper_of(self, cluster: int) -> ComponentID:
        return next(name for name, each in self._keepers.items() if each.cluster == cluster)

    def _start(self, start: StartCluster) -> None:
        name = self._control.start(start.request.simulation)
        keeper = self._keepers[name] = _Keeper(start.cluster)
        wanted, (sender, _) = start.request.wanted, start.request.reply
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
        if keeper.address:  # Clients leave first: Dask logs errors if the scheduler closes first.
            self._control.broadcast(Broadcast("cluster-closing", keeper.address))
        self._control.dismiss(name, False)

    def _cancel(self, cancel: CancelRun) -> None:
        sender, _ = cancel.reply
        keeper = self._keeper_of(cancel.cluster)
        call = self._control.invoke(keeper, "cancel", cancel.run, sender.name)
        self._calls.when_ended(
            call, lambda _: self._do(self._lender.cancelled(cancel.cluster, cancel.lease))
        )
