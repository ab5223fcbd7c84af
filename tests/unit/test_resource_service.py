"""What the framework does for components that want nodes and clusters; its keepers are fakes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from ips_core.errors import BadResourceRequest, ConfigError, DaskClusterError
from ips_core.ipc.calls import Call, CallTable
from ips_core.ipc.messages import Broadcast, ComponentID, Failure, Reply, Request, Returned, pack
from ips_core.pools.dask.cluster_adapter import ClusterStarted
from ips_core.resources.clusters import ClusterRequest, NodesTaken
from ips_core.resources.nodes import NodeCapacity, Resources
from ips_core.resources.service import KeeperControl, ResourceService, idle_seconds

NODES = tuple(NodeCapacity(f"n{number}", 2) for number in (1, 2))
PAIR, OTHER_PAIR = ClusterRequest(2, None, None, "srun"), ClusterRequest(2, 1, None, "srun")


@dataclass
class Asker:
    """A component."""

    name: str
    received: list[Any] = field(default_factory=list)

    @property
    def component_id(self) -> ComponentID:
        return ComponentID("sim", self.name, 1)

    def send(self, message: object) -> None:
        self.received.append(message)


class Framework:
    """A framework whose keepers do what the test says."""

    def __init__(self, idle: float = 600.0) -> None:
        self.calls = CallTable()
        self.invoked: list[Call] = []
        self.arguments: list[tuple[Any, ...]] = []
        self.dismissed: list[tuple[ComponentID, bool]] = []
        self.news: list[Broadcast] = []
        self.keepers: list[ComponentID] = []
        control = KeeperControl(
            self.start, self.invoke, lambda *how: self.dismissed.append(how), self.news.append
        )
        resources = Resources(2, 2, "srun", False, NODES)
        self.service = ResourceService(resources, idle, self.calls, control)

    def start(self, simulation: str) -> ComponentID:
        self.keepers.append(ComponentID(simulation, "ClusterKeeper", 10 + len(self.keepers)))
        return self.keepers[-1]

    def invoke(self, keeper: ComponentID, method: str, *arguments: Any) -> Call:
        call = self.calls.open(keeper, method)
        self.invoked.append(call)
        self.arguments.append(arguments)
        return call

    def ask(self, sender: Asker, service: str, *arguments: Any) -> list[Any]:
        """Ask, and return what has been answered to the component so far."""
        self.service.services[service](sender, Request(7, service, arguments))
        return sender.received

    def answer(self, number: int, failure: str = "", taken: tuple[str, ...] = ()) -> None:
        """End a call of a keeper."""
        call = self.invoked[number]
        value = NodesTaken(taken) if taken else ClusterStarted(f"tls://{number}", b"packed")
        outcome = Returned(call.call_id, pack(value))
        if failure:
            outcome = Returned(call.call_id, failure=Failure(failure))
        self.calls.end(outcome)


@pytest.fixture
def framework() -> Framework:
    return Framework()


DRIVER, WORKER = "Driver", "Worker"


def test_a_cluster_is_started_on_free_nodes_and_leased(framework: Framework) -> None:
    driver = Asker(DRIVER)
    assert framework.ask(driver, "acquire_cluster", PAIR, "run", False) == []
    assert framework.invoked[0].method == "start"
    assert framework.arguments == [(PAIR, ("n1", "n2"), 1, DRIVER)]
    framework.answer(0)
    assert driver.received == [Reply(7, (b"packed", 1))]


def test_a_cluster_that_fails_is_told_and_its_nodes_come_back(framework: Framework) -> None:
    driver, worker = Asker(DRIVER), Asker(WORKER)
    framework.ask(driver, "acquire_cluster", PAIR, "run", False)
    framework.ask(worker, "allocate", 4, 0, 1, 0, True, True)
    framework.answer(0, "no srun")
    (reply,) = driver.received
    assert (reply.failure.text, type(reply.failure.error)) == ("no srun", DaskClusterError)
    assert framework.dismissed == [(framework.keepers[0], False)]
    assert framework.news == []
    framework.service.gone(framework.keepers[0], "its process ended with exit code 0")
    assert worker.received[0].value.nodes == ("n1", "n2")


def test_nodes_that_another_driver_has_are_told(framework: Framework) -> None:
    driver = Asker(DRIVER)
    framework.ask(driver, "acquire_cluster", PAIR, "run", False)
    framework.answer(0, taken=("n2",))
    assert driver.received[0].failure.text == (
        "another driver in this Slurm job has a cluster on n2, and too few are left"
    )


def test_a_start_that_hangs_is_in_nobodys_way(framework: Framework) -> None:
    driver, worker = Asker(DRIVER), Asker(WORKER)
    one = ClusterRequest(1, None, None, "srun")
    framework.ask(driver, "acquire_cluster", one, "hangs", False)
    framework.ask(worker, "allocate", 2, 0, 1, 0, False, True)
    framework.ask(worker, "release", worker.received[0].value.id)
    framework.ask(worker, "acquire_cluster", ClusterRequest(1, 1, None, "srun"), "run", False)
    framework.answer(1)
    framework.ask(worker, "release_cluster", 1)
    assert [reply.value for reply in worker.received[1:]] == [None, (b"packed", 1), None]
    assert driver.received == []


def test_a_request_that_can_never_be_had_is_an_error_of_its_own(framework: Framework) -> None:
    (reply,) = framework.ask(Asker(DRIVER), "allocate", 5, 0, 1, 0, False, True)
    assert type(reply.failure.error) is BadResourceRequest
    assert str(reply.failure.error) == reply.failure.text


def test_who_is_connected_hears_before_the_cluster_is_closed(framework: Framework) -> None:
    driver, worker = Asker(DRIVER), Asker(WORKER)
    framework.ask(driver, "acquire_cluster", PAIR, "run", False)
    framework.answer(0)
    framework.ask(driver, "release_cluster", 1)
    assert framework.dismissed == []
    framework.ask(worker, "acquire_cluster", OTHER_PAIR, "run", False)
    assert framework.news == [Broadcast("cluster-closing", "tls://0")]
    assert framework.dismissed == [(framework.keepers[0], False)]
    framework.service.gone(framework.keepers[0], "it ended")
    assert framework.arguments[1] == (OTHER_PAIR, ("n1", "n2"), 2, WORKER)
    assert len(framework.news) == 1


def test_a_keeper_that_dies_loses_its_cluster(framework: Framework) -> None:
    framework.ask(Asker(DRIVER), "acquire_cluster", PAIR, "run", False)
    framework.answer(0)
    framework.service.gone(framework.keepers[0], "killed")
    reason = "the keeper of the cluster: killed"
    assert framework.news == [Broadcast("cluster-lost", ("tls://0", reason))]


def test_a_cluster_that_its_keeper_calls_lost_is_not_shared(framework: Framework) -> None:
    driver = Asker(DRIVER)
    framework.ask(driver, "acquire_cluster", PAIR, "run", False)
    framework.answer(0)
    news = Broadcast("cluster-lost", ("tls://0", "no scheduler"))
    framework.service.hear(driver.component_id, news)  # only keepers know
    assert framework.ask(driver, "acquire_cluster", PAIR, "again", False)[-1].value[1] == 2
    framework.service.hear(framework.keepers[0], news)
    framework.ask(driver, "release_cluster", 1)
    framework.ask(driver, "release_cluster", 2)
    assert framework.dismissed == [(framework.keepers[0], False)]


def test_the_runs_of_a_dead_component_are_cancelled_first(framework: Framework) -> None:
    driver, worker = Asker(DRIVER), Asker(WORKER)
    framework.ask(driver, "acquire_cluster", PAIR, "run of driver", False)
    framework.answer(0)
    framework.ask(worker, "acquire_cluster", PAIR, "alone", True)
    framework.service.gone(driver.component_id, "killed")
    assert (framework.invoked[1].method, framework.arguments[1]) == (
        "cancel",
        ("run of driver", "Driver"),
    )
    assert worker.received == []
    framework.answer(1, "it took too long")
    assert worker.received == [Reply(7, (b"packed", 2))]


def test_idle_clusters_end_in_time_and_keepers_that_do_not_leave_are_killed() -> None:
    framework = Framework(idle=0.0)
    assert framework.service.timeout() is None
    driver = Asker(DRIVER)
    framework.ask(driver, "acquire_cluster", PAIR, "run", False)
    framework.answer(0)
    framework.ask(driver, "release_cluster", 1)
    assert framework.service.timeout() == 0.0
    framework.service.tick()
    keeper = framework.keepers[0]
    assert framework.dismissed == [(keeper, False)]
    seconds = framework.service.timeout()
    assert seconds is not None
    assert 30 < seconds <= 60
    now = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now + 61)
        framework.service.tick()
    assert framework.dismissed[1:] == [(keeper, True)]


def test_at_the_end_all_keepers_are_seen_out(framework: Framework) -> None:
    driver = Asker(DRIVER)
    framework.ask(driver, "acquire_cluster", PAIR, "run", False)
    assert framework.service.end("sim") == framework.keepers
    framework.answer(0, "it was interrupted")
    assert framework.ask(driver, "allocate", 1, 0, 1, 0, False, True)[-1].failure.text == (
        "the simulation is ending"
    )
    framework.service.gone(framework.keepers[0], "it ended")
    assert framework.service.end("sim") == []


@pytest.mark.parametrize(("text", "seconds"), [(None, 600), ("", 600), ("0", 0), ("1.5", 1.5)])
def test_idle_timeout(text: str | None, seconds: float) -> None:
    assert idle_seconds("a.config", {"DASK_IDLE_TIMEOUT": text}) == seconds


@pytest.mark.parametrize("text", ["soon", "-1", "nan", ["1", "2"], {}])
def test_idle_timeout_that_is_no_number_of_seconds(text: Any) -> None:
    if text == {}:
        text = {"A": "1"}
    with pytest.raises(ConfigError, match=r"^a.config: DASK_IDLE_TIMEOUT = .*: expected a number"):
        idle_seconds("a.config", {"DASK_IDLE_TIMEOUT": text})


def test_tasks_and_worker_steps_count_on_together(framework: Framework) -> None:
    one, other = Asker("ONE"), Asker("OTHER")
    assert framework.ask(one, "new_task_id")[-1] == Reply(7, 1)
    framework.ask(one, "acquire_cluster", PAIR, "run", False)
    assert framework.arguments[0][2] == 2
    assert framework.ask(other, "new_task_id")[-1] == Reply(7, 3)
