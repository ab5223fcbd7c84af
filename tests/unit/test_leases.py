"""Who gets which nodes and clusters, who waits, and what is closed for it: no process involved."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ips_core.errors import BadResourceRequest, DaskClusterError, InsufficientResources, IPSError
from ips_core.resources.clusters import ClusterRequest
from ips_core.resources.leases import (
    CancelRun,
    CloseCluster,
    ClusterDemand,
    ClusterScheduler,
    Granted,
    Refused,
    ResourceRequest,
    StartCluster,
)
from ips_core.resources.nodes import Demand, NodeCapacity, Reservation, ResourceManager

IDLE = 600.0


class World:
    """A lender of four nodes of two cores each, and a clock; clusters are started by hand."""

    def __init__(self, local: bool = False, nodes: int = 4) -> None:
        self.now = 1000.0
        held = [NodeCapacity(f"n{number}", 2) for number in range(1, nodes + 1)]
        self.manager = ResourceManager(held, 2)
        self.local = local
        self.latest = 0
        self.lender = ClusterScheduler(self.manager, local, IDLE, lambda: self.now)

    def cluster(
        self, owner: str, nodes: int, exclusive: bool = False, **kind: Any
    ) -> tuple[ResourceRequest, list[Any]]:
        launcher = "local" if self.local else "srun"
        request = ClusterRequest(nodes, kind.pop("threads", None), None, launcher, **kind)
        wanted = ClusterDemand(request, f"run of {owner}", exclusive)
        request = ResourceRequest(owner, Demand.of_nodes(nodes), wanted)
        return request, self.lender.ask(request)

    def leased(self, owner: str, nodes: int, **keywords: Any) -> int:
        """A lease of a cluster that is started for it."""
        request, (start,) = self.cluster(owner, nodes, **keywords)
        assert isinstance(start, StartCluster)
        self.latest = start.cluster
        return lease_of(self.lender.started(start.cluster, f"address {start.cluster}"), request)

    def idle(self, nodes: int, **keywords: Any) -> int:
        """The number of a cluster that was used, and is not any more."""
        lease = self.leased("nobody", nodes, **keywords)
        assert self.lender.release_cluster(lease) == []
        return self.latest

    def tasks(self, owner: str, nproc: int, block: bool = True, **shape: Any) -> Any:
        request = ResourceRequest(owner, Demand(nproc, **shape), block=block)
        return request, self.lender.ask(request)


def lease_of(actions: list[Any], request: ResourceRequest) -> int:
    (grant,) = [each for each in actions if isinstance(each, Granted) and each.request is request]
    _, lease = grant.value
    return int(lease)


def refused(actions: list[Any]) -> list[tuple[ResourceRequest, type[IPSError], str]]:
    return [(each.request, type(each.error), str(each.error)) for each in actions]


@pytest.fixture
def world() -> World:
    return World()


# Sharing.


def test_a_running_cluster_is_shared(world: World) -> None:
    world.leased("a", 2)
    request, actions = world.cluster("b", 2)
    assert actions == [Granted(request, ("address 1", 2))]


def test_a_cluster_that_starts_is_waited_for(world: World) -> None:
    first, (start,) = world.cluster("a", 2)
    assert start == StartCluster(1, ("n1", "n2"), first)
    second, actions = world.cluster("b", 2)
    assert actions == []
    granted = world.lender.started(1, "address")
    assert granted == [Granted(first, ("address", 1)), Granted(second, ("address", 2))]


def test_those_who_waited_for_a_cluster_that_failed_are_all_told(world: World) -> None:
    first, second = world.cluster("a", 2)[0], world.cluster("b", 2)[0]
    actions = world.lender.failed(1, "no srun")
    assert actions[-1] == CloseCluster(1)
    told = [(request, DaskClusterError, "no srun") for request in (first, second)]
    assert refused(actions[:-1]) == told
    waiting = world.cluster("c", 4)[0]
    assert world.lender.gone(1, "it left") == [StartCluster(2, ("n1", "n2", "n3", "n4"), waiting)]


@pytest.mark.parametrize("other", [{"threads": 1}, {"per_gpu": True}, {"shifter": ("--image=x",)}])
def test_another_layout_runs_on_the_other_nodes(world: World, other: dict[str, Any]) -> None:
    world.leased("a", 2)
    request, actions = world.cluster("b", 2, **other)
    assert actions == [StartCluster(2, ("n3", "n4"), request)]


def test_an_exclusive_cluster_is_not_shared(world: World) -> None:
    lease = world.leased("a", 4, exclusive=True)
    request, actions = world.cluster("b", 4)
    assert actions == []
    assert world.lender.release_cluster(lease) == [Granted(request, ("address 1", 2))]


def test_nobody_joins_who_wants_a_cluster_to_itself(world: World) -> None:
    lease = world.leased("a", 4)
    request, actions = world.cluster("b", 4, exclusive=True)
    assert actions == []
    assert world.lender.release_cluster(lease) == [Granted(request, ("address 1", 2))]
    assert world.cluster("c", 4)[1] == []


def test_a_starting_cluster_is_exclusive_too(world: World) -> None:
    world.cluster("a", 2, exclusive=True)
    request, actions = world.cluster("b", 2)
    assert actions == [StartCluster(2, ("n3", "n4"), request)]


def test_a_running_cluster_is_better_than_one_that_starts(world: World) -> None:
    world.cluster("a", 2, exclusive=True)
    world.leased("b", 2)
    world.lender.drop("a")
    request, actions = world.cluster("c", 2)
    assert actions == [Granted(request, ("address 2", 2))]


def test_a_cluster_with_a_cache_is_new_and_closed_after_its_only_use(world: World) -> None:
    fresh = {"shifter": ("--image=x", "--volume=/a:/b:perNodeCache=size=1G")}
    lease = world.leased("a", 2, **fresh)
    request, actions = world.cluster("b", 2, **fresh)
    assert actions == [StartCluster(2, ("n3", "n4"), request)]
    assert world.lender.release_cluster(lease) == [CloseCluster(1)]


def test_nodes_that_another_driver_has_are_left_to_it(world: World) -> None:
    request, (start,) = world.cluster("a", 2)
    assert start.nodes == ("n1", "n2")
    assert world.lender.failed(1, "taken", ["n1"]) == [
        CloseCluster(1),
        StartCluster(2, ("n3", "n4"), request),
    ]
    assert world.lender.gone(1, "") == []
    assert world.tasks("b", 4)[1][0].value.nodes == ("n1", "n2")  # it may be gone by now


def test_when_others_have_too_many_nodes_that_is_an_error(world: World) -> None:
    world.cluster("a", 1)
    request, (start,) = world.cluster("b", 3)
    assert start.nodes == ("n2", "n3", "n4")
    *told, closed = world.lender.failed(2, "taken", ["n2", "n3"])
    assert refused(told) == [(request, DaskClusterError, "taken")]
    assert closed == CloseCluster(2)


def test_nodes_that_others_have_are_made_up_for_by_waiting(world: World) -> None:
    lease = world.leased("a", 2)
    request, _ = world.cluster("b", 2, threads=1)
    assert world.lender.failed(2, "taken", ["n3", "n4"]) == [CloseCluster(2)]
    assert world.lender.gone(2, "") == []
    assert world.lender.release_cluster(lease) == [CloseCluster(1)]
    assert world.lender.gone(1, "") == [StartCluster(3, ("n1", "n2"), request)]


# Waiting.


def test_who_waits_is_served_in_the_order_of_asking(world: World) -> None:
    lease = world.leased("a", 3)
    large, nothing = world.cluster("b", 4)
    small, nothing_either = world.tasks("c", 1)
    assert nothing == nothing_either == []
    assert world.lender.release_cluster(lease) == [CloseCluster(1)]
    assert world.lender.gone(1, "") == [StartCluster(2, ("n1", "n2", "n3", "n4"), large)]
    actions = world.lender.gone(2, "killed")
    assert [action.request for action in actions] == [large, small]
    assert [type(action) for action in actions] == [Refused, Granted]


def test_who_uses_a_cluster_gets_it_again_before_others(world: World) -> None:
    """Else a component would wait for others who wait for it."""
    world.leased("a", 3)
    assert world.cluster("b", 4)[1] == []
    assert world.cluster("c", 3)[1] == []
    request, actions = world.cluster("a", 3)
    assert lease_of(actions, request) == 2


def test_who_does_not_want_to_wait_is_told(world: World) -> None:
    lease = world.leased("a", 4)
    request, actions = world.tasks("b", 1, block=False)
    assert refused(actions) == [
        (request, InsufficientResources, "1 process(es) cannot be had now: too much is in use")
    ]
    world.lender.release_cluster(lease)
    request, actions = world.tasks("b", 1, block=False)
    assert actions == [CloseCluster(1)]  # that is soon
    (granted,) = world.lender.gone(1, "")
    assert granted.request is request


def test_what_can_never_be_had_is_an_error_at_once(world: World) -> None:
    for request, actions in (world.cluster("a", 5), world.tasks("b", 9)):
        ((refused_ticket, kind, text),) = refused(actions)
        assert (refused_ticket, kind) == (request, BadResourceRequest)
        assert text.endswith("can never be had: there are 4 node(s) for 2 process(es) each, with 2 "
                             "core(s) and 0 GPU(s)")  # fmt: skip


# Idle clusters.


def test_an_idle_cluster_is_closed_when_its_time_is_over(world: World) -> None:
    assert world.lender.deadline() is None
    lease = world.leased("a", 2)
    assert world.lender.deadline() is None
    world.now += 100
    world.lender.release_cluster(lease)
    assert world.lender.deadline() == 1100 + IDLE
    world.now += IDLE - 1
    assert world.lender.tick() == []
    world.now += 1
    assert world.lender.tick() == [CloseCluster(1)]
    assert world.lender.tick() == []
    assert world.lender.deadline() is None


def test_the_time_begins_again_with_each_use(world: World) -> None:
    world.idle(2)
    world.now += IDLE - 1
    request, actions = world.cluster("a", 2)
    world.now += 10
    assert world.lender.tick() == []
    world.lender.release_cluster(lease_of(actions, request))
    assert world.lender.deadline() == world.now + IDLE


def test_idle_clusters_give_their_nodes_oldest_first_and_no_more_than_needed(world: World) -> None:
    leases = [world.leased("a", 1, threads=number) for number in (1, 2, 3)]
    for lease in (leases[1], leases[0], leases[2]):
        world.lender.release_cluster(lease)
        world.now += 1
    request, actions = world.cluster("b", 3)
    assert actions == [CloseCluster(2), CloseCluster(1)]
    assert world.lender.gone(2, "") == []
    assert world.lender.gone(1, "") == [StartCluster(4, ("n1", "n2", "n4"), request)]


def test_an_idle_cluster_is_not_closed_in_vain(world: World) -> None:
    world.idle(2)
    world.leased("a", 1)
    assert world.cluster("b", 4)[1] == []


def test_a_task_takes_the_nodes_of_an_idle_cluster(world: World) -> None:
    number = world.idle(4)
    request, actions = world.tasks("a", 3)
    assert actions == [CloseCluster(number)]
    (granted,) = world.lender.gone(number, "")
    assert granted.request is request
    assert granted.value.nodes == ("n1", "n2")


# What is lost.


def test_a_lost_cluster_is_closed_when_nobody_uses_it(world: World) -> None:
    lease = world.leased("a", 2)
    assert world.lender.lost(1) == []
    request, actions = world.cluster("b", 2)
    assert actions == [StartCluster(2, ("n3", "n4"), request)]
    assert world.lender.release_cluster(lease) == [CloseCluster(1)]


def test_a_cluster_on_which_something_runs_on_is_nobody_else_s(world: World) -> None:
    lease = world.leased("a", 2)
    assert world.lender.release_cluster(lease, spoiled=True) == [CloseCluster(1)]


def test_an_idle_cluster_that_is_lost_is_closed_at_once(world: World) -> None:
    number = world.idle(2)
    assert world.lender.lost(number) == [CloseCluster(number)]
    assert world.lender.lost(number) == []


def test_when_its_keeper_dies_the_nodes_are_free(world: World) -> None:
    lease = world.leased("a", 4)
    request, _ = world.cluster("b", 2)
    (start,) = world.lender.gone(1, "killed")
    assert (start.request, start.nodes) == (request, ("n1", "n2"))
    assert world.lender.release_cluster(lease) == []


def test_when_its_keeper_dies_while_it_starts_those_who_wait_are_told(world: World) -> None:
    request, _ = world.cluster("a", 4)
    assert refused(world.lender.gone(1, "killed")) == [(request, DaskClusterError, "killed")]


# Components that are gone.


def test_what_a_dead_component_left_on_a_cluster_is_ended_before_others_get_it(
    world: World,
) -> None:
    lease = world.leased("a", 4)
    request, _ = world.cluster("b", 4, exclusive=True)
    assert world.lender.drop("a") == [CancelRun(1, lease, "run of a")]
    assert world.lender.cancelled(1, lease) == [Granted(request, ("address 1", 2))]


def test_a_cluster_with_the_plugin_of_a_dead_component_is_not_used_again(world: World) -> None:
    lease = world.leased("a", 4, exclusive=True)
    world.lender.drop("a")
    assert world.lender.cancelled(1, lease) == [CloseCluster(1)]
    assert world.lender.gone(1, "") == []
    assert world.lender.cancelled(1, lease) == []


def test_a_dead_component_waits_for_nothing_and_holds_nothing(world: World) -> None:
    _, (granted,) = world.tasks("a", 8)
    assert isinstance(granted.value, Reservation)
    assert world.tasks("a", 1)[1] == world.cluster("a", 4)[1] == []
    request, _ = world.cluster("b", 4)
    assert world.lender.drop("a") == [StartCluster(1, ("n1", "n2", "n3", "n4"), request)]
    assert world.lender.release(granted.value.id) == []


def test_a_cluster_whose_components_died_while_it_started_is_idle(world: World) -> None:
    world.cluster("a", 4)
    assert world.lender.drop("a") == []
    assert world.lender.started(1, "address") == []
    assert world.lender.deadline() == world.now + IDLE


def test_at_the_end_nobody_gets_anything(world: World) -> None:
    lease = world.leased("a", 4)
    world.cluster("b", 2)
    world.lender.end("")
    assert world.lender.release_cluster(lease) == []
    assert world.lender.gone(1, "") == []
    request, actions = world.cluster("c", 2)
    assert refused(actions) == [(request, IPSError, "the simulation is ending")]


# On one machine.


def test_local_clusters_take_nothing_and_wait_for_nobody() -> None:
    world = World(local=True, nodes=1)
    world.leased("a", 1, threads=1)
    task, (granted,) = world.tasks("a", 2)
    assert granted.request is task
    waits, nothing = world.tasks("b", 1)
    assert nothing == []
    request, (start,) = world.cluster("c", 1, threads=2)
    assert start == StartCluster(2, (), request)
    assert world.lender.release_cluster(1) == []
    (freed,) = world.lender.release(granted.value.id)
    assert freed.request is waits


# In any order.

steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("cluster"),
            st.sampled_from("abc"),
            st.integers(1, 4),
            st.booleans(),
            st.integers(1, 2),
        ),
        st.tuples(st.just("tasks"), st.sampled_from("abc"), st.integers(1, 8), st.booleans()),
        st.tuples(
            st.sampled_from(
                ["started", "failed", "closed", "died", "lost", "release", "cancelled"]
            ),
            st.integers(0, 9),
        ),
        st.tuples(st.just("drop"), st.sampled_from("abc")),
        st.tuples(st.just("later"), st.integers(1, 700)),
    ),
    max_size=40,
)


class Model(World):
    """Does what the lender says, and checks that it makes sense."""

    def __init__(self) -> None:
        super().__init__()
        self.starting: set[int] = set()
        self.running: set[int] = set()
        self.closing: set[int] = set()
        self.held: dict[int, ResourceRequest] = {}
        self.leases: dict[int, tuple[int, ResourceRequest]] = {}
        self.cancelling: list[tuple[int, int]] = []
        self.on: dict[int, tuple[str, ...]] = {}
        self.open: set[ResourceRequest] = set()

    def do(self, actions: list[Any]) -> None:
        for action in actions:
            match action:
                case StartCluster(cluster, nodes, request):
                    assert not set(nodes) & set(itertools.chain(*self.on.values()))
                    assert len(nodes) == request.wanted.request.nodes
                    self.starting.add(cluster)
                    self.on[cluster] = nodes
                case CloseCluster(cluster):
                    assert cluster in self.starting | self.running
                    self.starting.discard(cluster)
                    self.running.discard(cluster)
                    self.closing.add(cluster)
                case Granted(request, (cluster, lease)):
                    self.open.remove(request)
                    users = [t for c, t in self.leases.values() if c == cluster]
                    assert cluster in self.running
                    assert not any(t.wanted.exclusive for t in [*users, request]) or not users
                    self.leases[lease] = cluster, request
                case Granted(request, allocation):
                    self.open.remove(request)
                    self.held[allocation.id] = request
                case Refused(request, _):
                    self.open.remove(request)
                case CancelRun(cluster, lease):
                    self.cancelling.append((cluster, lease))
        used = sum(t.demand.nproc for t in self.held.values()) + 2 * sum(map(len, self.on.values()))
        assert used <= 8

    def step(self, kind: str, *what: Any) -> None:
        if kind in ("cluster", "tasks"):
            owner, number, flag, *threads = what
            if kind == "tasks":
                request = ResourceRequest(owner, Demand(number), block=flag)
            else:
                request = ClusterRequest(number, threads[0], None, "srun")
                request = ResourceRequest(
                    owner, Demand.of_nodes(number), ClusterDemand(request, "run", flag)
                )
            self.open.add(request)
            self.do(self.lender.ask(request))
        elif kind == "drop":
            self.open = {request for request in self.open if request.owner != what[0]}
            self.held = {n: t for n, t in self.held.items() if t.owner != what[0]}
            self.do(self.lender.drop(what[0]))
        elif kind == "later":
            self.now += what[0]
            self.do(self.lender.tick())
        else:
            self.happen(kind, what[0])

    def happen(self, kind: str, which: int) -> None:
        among: dict[str, Any] = {
            "started": self.starting,
            "failed": self.starting,
            "closed": self.closing,
            "died": self.starting | self.running,
            "lost": self.running,
            "release": set(self.held) | set(self.leases),
            "cancelled": self.cancelling,
        }
        choice = sorted(among[kind])
        if not choice:
            return
        chosen = choice[which % len(choice)]
        if kind == "started":
            self.starting.remove(chosen)
            self.running.add(chosen)
            self.do(self.lender.started(chosen, chosen))
        elif kind == "failed":
            self.do(self.lender.failed(chosen, "why", self.on[chosen][: which % 3]))
        elif kind in ("closed", "died"):
            for clusters in (self.starting, self.running, self.closing):
                clusters.discard(chosen)
            del self.on[chosen]
            self.leases = {n: pair for n, pair in self.leases.items() if pair[0] != chosen}
            self.do(self.lender.gone(chosen, "why"))
        elif kind == "lost":
            self.do(self.lender.lost(chosen))
        elif kind == "cancelled":
            self.cancelling.remove(chosen)
            self.leases.pop(chosen[1], None)
            self.do(self.lender.cancelled(*chosen))
        elif chosen in self.leases:
            del self.leases[chosen]
            self.do(self.lender.release_cluster(chosen))
        else:
            del self.held[chosen]
            self.do(self.lender.release(chosen))

    def settle(self) -> None:
        """All starts and ends come about, all give back what they have."""
        for _ in range(1000):
            for kind in ("cancelled", "started", "closed", "release"):
                self.happen(kind, 0)
            if not (self.open or self.held or self.leases or self.starting or self.closing):
                return
        raise AssertionError(f"never served: {self.open}")


@settings(max_examples=300, deadline=None)
@given(steps)
def test_whatever_happens_nodes_are_used_once_and_everybody_is_served(
    happenings: list[tuple[Any, ...]],
) -> None:
    model = Model()
    for happening in happenings:
        model.step(*happening)
    model.settle()
    model.now += IDLE
    model.do(model.lender.tick())
    assert not model.running
    for cluster in sorted(model.closing):
        model.happen("closed", 0)
        assert cluster not in model.closing
    model.manager.give_back()
    assert model.manager.allocate(Demand.of_nodes(4)) is not None
