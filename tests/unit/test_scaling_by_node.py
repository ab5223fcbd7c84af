"""Scaling by whole nodes: how many there will be, and which of them go; nothing is started."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import Adaptive
from distributed.core import Status

from ips_dask_cluster.dask.adaptive import NodeAdaptive
from ips_dask_cluster.dask.scaling import ScaledByNode
from ips_dask_cluster.errors import ClusterError, NotEnoughNodesError
from ips_dask_cluster.slurm.allocation import Node

GB = 10**9


class FakeSteps:
    """Five nodes, one of which another cluster has."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.placed: dict[str, Node] = {}

    def members(self, worker: str) -> list[str]:
        if self.processes == 1:
            return [worker]
        return [f"{worker}-{part}" for part in range(self.processes)]

    def most_nodes(self) -> int:
        return 4

    def not_enough(self, wanted: int, free: int) -> NotEnoughNodesError:
        return NotEnoughNodesError(wanted, free, 5, "Slurm job 17")


class Cluster(ScaledByNode):
    """The bookkeeping of a cluster, without processes and without a scheduler."""

    def __init__(self, nodes: int = 0, processes: int = 1, memory: str = "4 GB") -> None:
        self.steps: Any = FakeSteps(processes)
        self.workers_per_node = processes
        self.status = Status.running
        self.scheduler: Any = SimpleNamespace(status=Status.running)
        self._closing: Any = None
        self._reports: Any = SimpleNamespace(failure=None)
        self.new_spec = {"options": {"cores": 4, "memory": memory}}
        self.worker_spec: dict[str, Any] = {}
        self.workers: dict[str, Any] = {}
        self.corrected = 0
        self.scheduler_info: Any = {"workers": {}}
        self._i = 0
        for _ in range(nodes):
            self.worker_spec.update(self.new_worker_spec())
        for number, worker in enumerate(self.worker_spec, 1):
            self.steps.placed[worker] = Node(f"n{number}", 4)

    name = "c"
    asynchronous = False
    loop = SimpleNamespace(add_callback=lambda function: function())

    def __del__(self, *_: object) -> None:
        """There is nothing to close."""

    def _new_worker_name(self, number: int) -> str:
        return f"c-{number}"

    def sync(self, function: Any, *arguments: Any) -> Any:
        return function(*arguments)

    async def _correct_state(self) -> None:
        self.corrected += 1

    def connect(self, *names: str) -> None:
        self.scheduler_info = {"workers": {f"tls://{name}": {"name": name} for name in names}}


@pytest.fixture(autouse=True)
def ignore_what_is_not_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    """``scale`` hands the correction to the loop; here it is only counted."""

    def count(cluster: Cluster) -> None:
        cluster.corrected += 1

    monkeypatch.setattr(Cluster, "_correct_state", count)


def scaled(cluster: Cluster, *arguments: Any, **keywords: Any) -> list[str]:
    cluster.scale(*arguments, **keywords)
    return list(cluster.worker_spec)


@pytest.mark.parametrize(
    ("processes", "arguments", "nodes"),
    [
        (1, {"n": 3}, 3),
        (1, {"jobs": 2}, 2),
        (1, {"cores": 5}, 2),
        (1, {"cores": 8}, 2),
        (1, {"memory": "4.1 GB"}, 2),
        (1, {"memory": 12 * GB}, 3),
        (1, {"n": 1, "jobs": 2, "cores": 12, "memory": "1 GB"}, 3),
        (1, {"n": 0}, 0),
        (1, {}, 0),
        (2, {"n": 3}, 2),
        (2, {"n": 8}, 4),
        (2, {"jobs": 3}, 3),
        (2, {"cores": 4}, 1),
    ],
)
def test_sizes_are_rounded_up_to_whole_nodes(
    processes: int, arguments: dict[str, Any], nodes: int
) -> None:
    for before in (0, 2, 4):
        cluster = Cluster(before, processes)
        assert len(scaled(cluster, **arguments)) == nodes
        assert cluster.corrected == 1


def test_most_workers_are_those_of_all_nodes_that_can_be_had() -> None:
    assert [Cluster(processes=processes).most_workers() for processes in (1, 3)] == [4, 12]


def test_those_that_have_not_come_yet_go_first_and_then_the_latest() -> None:
    cluster = Cluster(4)
    cluster.connect("c-0", "c-2", "c-3")
    assert scaled(cluster, 3) == ["c-0", "c-2", "c-3"]
    assert scaled(cluster, 1) == ["c-0"]


def test_node_is_there_when_one_of_its_workers_is() -> None:
    cluster = Cluster(3, processes=2)
    cluster.connect("c-0-1", "c-2-0")
    assert scaled(cluster, jobs=2) == ["c-0", "c-2"]


def test_no_name_is_used_twice() -> None:
    """One of that name may still be draining."""
    cluster = Cluster(2)
    cluster.connect("c-0", "c-1")
    assert scaled(cluster, 1) == ["c-0"]
    assert scaled(cluster, 3) == ["c-0", "c-2", "c-3"]


@pytest.mark.parametrize(
    "arguments", [{"n": -1}, {"jobs": -1}, {"cores": -4}, {"n": 1.5}, {"jobs": "2"}, {"jobs": None}]
)
def test_numbers_that_make_no_sense_are_refused(arguments: dict[str, Any]) -> None:
    cluster = Cluster(2)
    (value,) = arguments.values()
    with pytest.raises(ValueError, match="a whole number of 0 or more is needed") as caught:
        cluster.scale(**arguments)
    assert str(caught.value).endswith(f"not {value!r}")
    assert (len(cluster.worker_spec), cluster.corrected) == (2, 0)


@pytest.mark.parametrize("memory", ["-4 GB", -1])
def test_memory_that_makes_no_sense_is_refused(memory: Any) -> None:
    cluster = Cluster(2)
    with pytest.raises(ValueError, match="scale: memory="):
        cluster.scale(memory=memory)
    assert len(cluster.worker_spec) == 2


def test_memory_is_no_measure_where_that_of_a_node_is_unknown() -> None:
    cluster = Cluster(2, memory="0")
    with pytest.raises(ValueError, match="memory of a node is not known"):
        cluster.scale(memory="1 TB")
    assert len(cluster.worker_spec) == 2
    assert len(scaled(cluster, 3)) == 3


def test_more_than_there_is_is_an_error_that_changes_nothing() -> None:
    cluster = Cluster(2)
    with pytest.raises(NotEnoughNodesError) as caught:
        cluster.scale(5)
    assert caught.value.args[:2] == (5, 4)
    assert (len(cluster.worker_spec), cluster.corrected) == (2, 0)


def test_what_there_is_may_stay_though_others_have_the_rest() -> None:
    assert len(scaled(Cluster(5), 5)) == 5


def test_closed_cluster_says_so_and_a_closing_one_does_not_grow() -> None:
    cluster = Cluster(1)
    cluster.status = Status.closed
    with pytest.raises(ClusterError, match="cluster c is closed; start another one"):
        cluster.scale(2)
    cluster.status = Status.closing
    assert scaled(cluster, 3) == ["c-0"]


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["n2"], ["c-0", "c-2"]),
        (["c-0-0", "c-0-1"], ["c-1", "c-2"]),
        (["c-0-0", "c-1-1"], ["c-0", "c-1", "c-2"]),
        (("n1", "c-2-0", "c-2-1", "c-1-0"), ["c-1"]),
        ({"n9", "nobody"}, ["c-0", "c-1", "c-2"]),
        ([], ["c-0", "c-1", "c-2"]),
        ("n12", ["c-0", "c-1", "c-2"]),
        ("n2", ["c-0", "c-2"]),
    ],
)
def test_chosen_nodes_go_when_they_or_all_their_workers_are_named(
    monkeypatch: pytest.MonkeyPatch, names: Any, left: list[str]
) -> None:
    async def correct(cluster: Cluster) -> None:
        cluster.corrected += 1

    monkeypatch.setattr(Cluster, "_correct_state", correct)
    cluster = Cluster(3, processes=2)
    asyncio.run(cluster.scale_down(names))
    assert (list(cluster.worker_spec), cluster.corrected) == (left, 1)


def test_closing_waits_for_scaling_itself() -> None:
    cluster = Cluster(3)
    cluster.status = Status.closing
    cluster.scale(0)
    assert (cluster.worker_spec, cluster.corrected) == ({}, 0)


# What cannot start.


def corrected(cluster: Cluster, error: Exception) -> None:
    """Correct the state, where starting fails."""

    async def fail(self: Any) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScaledByNode.__base__, "_correct_state_internal", fail)
        asyncio.run(cluster._correct_state_internal())


def test_nodes_that_cannot_start_are_given_up_and_the_others_stay(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = Cluster(3)
    states = (Status.running, Status.created, Status.created)
    for name, status in zip(["c-0", "c-1", "c-9"], states, strict=True):
        cluster.workers[name] = SimpleNamespace(status=status)
    corrected(cluster, ClusterError("srun is not on PATH"))
    assert (list(cluster.workers), list(cluster.worker_spec)) == (["c-0"], ["c-0", "c-2"])
    assert caplog.messages == ["cluster c could not grow: srun is not on PATH"]


def test_connection_that_breaks_again_is_told_in_one_sentence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = Cluster(3)
    corrected(cluster, BrokenPipeError("cut"))
    assert list(cluster.worker_spec) == ["c-0", "c-1", "c-2"]
    assert caplog.messages == ["cluster c could not be scaled, call scale() again: cut"]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (Status.created, ClusterError("x")),
        (Status.closing, BrokenPipeError("x")),
        (Status.running, ZeroDivisionError("x")),
    ],
)
def test_error_at_the_start_or_the_end_or_of_another_kind_is_raised(
    status: Status, error: Exception
) -> None:
    cluster = Cluster(1)
    cluster.status = status
    with pytest.raises(type(error), match="x"):
        corrected(cluster, error)


# Adapting.


class Adapted:
    """What a cluster is told by its ``Adaptive``."""

    def __init__(self, most: int, plan: int) -> None:
        self.most, self.plan = most, {f"c-{number}" for number in range(plan)}
        self.told: list[Any] = []

    def most_workers(self) -> int:
        return self.most

    def scale(self, n: int) -> None:
        self.told.append(n)

    async def scale_down(self, workers: list[str]) -> None:
        self.told.append(workers)


def adaptive(cluster: Adapted) -> NodeAdaptive:
    class Bare(NodeAdaptive):
        def __init__(self) -> None:
            self.cluster = cluster

        plan = property(lambda self: cluster.plan)

        def __del__(self) -> None:
            """There is nothing to stop."""

    return Bare()


@pytest.mark.parametrize(
    ("most", "plan", "wanted", "told"),
    [(4, 2, 3, [3]), (4, 2, 9, [4]), (4, 4, 9, []), (3, 4, 9, [])],
)
def test_adapting_takes_what_nobody_else_has(
    most: int, plan: int, wanted: int, told: list[int]
) -> None:
    cluster = Adapted(most, plan)
    asyncio.run(adaptive(cluster).scale_up(wanted))
    assert cluster.told == told


@pytest.mark.parametrize(("workers", "told"), [(["c-1"], [["c-1"]]), ([], [])])
def test_adapting_gives_nodes_back(workers: list[str], told: list[list[str]]) -> None:
    cluster = Adapted(4, 2)
    asyncio.run(adaptive(cluster).scale_down(workers))
    assert cluster.told == told


@pytest.mark.parametrize("own", [None, len])
@pytest.mark.parametrize("processes", [1, 2])
def test_workers_of_a_node_go_together(
    monkeypatch: pytest.MonkeyPatch, processes: int, own: Any
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        Adaptive, "__init__", lambda adaptive, cluster, **keywords: seen.update(keywords)
    )
    monkeypatch.setattr(Adaptive, "__del__", lambda adaptive: None, raising=False)
    cluster = SimpleNamespace(workers_per_node=processes)
    NodeAdaptive(cluster, **({"worker_key": own} if own else {}))
    key = seen.get("worker_key")
    if processes == 1 or own:
        assert key is own
    else:
        workers = [SimpleNamespace(name=f"c-1-{name}") for name in ("0-0", "0-1", "10-1")]
        assert [key(worker) for worker in workers] == ["c-1-0", "c-1-0", "c-1-10"]
