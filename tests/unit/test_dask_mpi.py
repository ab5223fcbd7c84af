"""Programs of several processes in pools on Dask: which, on which nodes, and whose slots."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ips_core.pools.attempt import Attempt
from ips_core.pools.dask import mpi as module
from ips_core.pools.dask.cluster_adapter import ClusterAddress, Place
from ips_core.pools.dask.mpi import DaskMPI
from ips_core.pools.dask.on_worker import TaskRunner
from ips_core.pools.executor import Ended, Requeued, Started
from ips_core.resources.clusters import ClusterRequest
from ips_core.tasks.task import Task

_SECONDS = 30.0


class Future:
    """A Dask task that holds slots."""

    def __init__(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.key, self.topic, self.run = arguments
        self.options = options
        self.status = "pending"


class Client:
    """A client whose scheduler knows workers, and gives slots when the test says so."""

    _run = "as Dask's own"
    scheduler = "rpc"
    loop = SimpleNamespace(add_callback=lambda function: function())

    def __init__(self, *workers: str) -> None:
        self.addresses = {name: f"tls://{name}" for name in workers}
        self.trouble: Exception | None = None
        self.looks = 0
        self.futures: list[Future] = []
        self.cancelled: list[str] = []
        self.released: list[dict[str, str]] = []
        self.others: list[str] = []  # workers of other tasks

    def processing(self) -> dict[str, list[str]]:
        over = {*self.cancelled, *(key for keys in self.released for key in keys.values())}
        tasks = [(f.options["workers"][0], f.key) for f in self.futures if f.key not in over]
        tasks += [(self.addresses[name], "other") for name in self.others]
        return {
            worker: [key for where, key in tasks if where == worker]
            for worker in self.addresses.values()
        }

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        assert n_workers == -1  # else only five are told
        self.looks += 1
        if self.trouble is not None:
            raise self.trouble
        return {"workers": {address: {"name": n} for n, address in self.addresses.items()}}

    def submit(self, function: Any, *arguments: Any, **options: Any) -> Future:
        self.futures.append(Future(arguments, options))
        return self.futures[-1]

    def cancel(self, futures: list[Future], force: bool) -> None:
        self.cancelled += [future.key for future in futures]

    def sync(self, function: Any, on_workers: Any, keys: dict[str, str], **options: Any) -> None:
        assert function == self._run
        self.released.append(keys)


class Turn:
    """Whose turn it is to gather slots, of all components on a cluster."""

    lock = threading.Lock()
    stopped = 0

    def __init__(self, leases: int, name: str, scheduler: Any, loop: Any) -> None:
        assert (leases, name, scheduler, loop) == (1, "ips-mpi", "rpc", Client.loop)
        self.refresh_callback = SimpleNamespace(stop=self.stop)

    def stop(self) -> None:
        Turn.stopped += 1

    def acquire(self, seconds: float) -> bool:
        return self.lock.acquire(timeout=seconds)

    def release(self) -> None:
        self.lock.release()


class Bed:
    """The parallel programs of a submission on nodes that are not there."""

    def __init__(self, *places: Place, job_id: str | None = "7", shifter: Any = None) -> None:
        self.client = Client(*(place.worker for place in places))
        slots = sum(place.slots for place in places)
        request = ClusterRequest(len(places), None, None, "srun", shifter)
        reached = ClusterAddress(request, "tls://s", None, slots, "/", tuple(places), job_id=job_id)
        self.mpi = DaskMPI("run", self.client, "topic", reached)
        self.heard: list[Any] = []
        self.ran: list[Any] = []
        self.go = threading.Event()
        self.error: Exception | None = None

    def run(self, runner: Any, payload: Any, shape: Any, key: str, started: Any) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        started({"name": payload["name"]})
        self.ran.append((payload, shape, key))
        while not (self.go.wait(0.02) or runner.is_cancelled("run")):
            pass
        return {"status": "cancelled" if runner.is_cancelled("run") else "finished"}

    def submit(self, name: str, nproc: int, **keywords: Any) -> None:
        attempt = Attempt(program(nproc, name, **keywords), f"k-{name}")
        self.mpi.submit(attempt, self.heard.append)

    def give(self, *futures: Future) -> None:
        for future in futures or tuple(self.client.futures):
            self.mpi.take_held(future.key)

    def holders(self, count: int) -> list[Future]:
        """All holders, once they are so many."""
        found = self.client.futures
        return list(found) if len(found) == count else []

    def news(self, kind: Any) -> list[str]:
        return [key for n in self.heard if isinstance(n, kind) for key in keys_of(n)]


def keys_of(news: Any) -> tuple[str, ...]:
    return news.keys if isinstance(news, Requeued) else (news.key,)


def program(nproc: int, name: str = "t", **keywords: Any) -> Task:
    return Task(name, nproc, "/", "true", **keywords)


def places(*slots: int, gpus: int = 0) -> list[Place]:
    return [Place(f"w-{n}", f"n{n}", each, gpus) for n, each in enumerate(slots, 1)]


@pytest.fixture
def bed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bed]]:
    """``bed(*places)``; all that runs there has ended when the test has."""
    made: list[Bed] = []

    class Tasks:
        def __init__(self, runner: Any, job_id: str) -> None:
            assert job_id == "7"
            self.runner = runner

        def run(self, *arguments: Any) -> dict[str, Any]:
            return made[-1].run(self.runner, *arguments)

    guard = SimpleNamespace(environment={"GUARD": "g"}, close=lambda: None)
    monkeypatch.setattr(module, "MPITasks", Tasks)
    monkeypatch.setattr(module, "OrphanReaper", lambda: guard)
    monkeypatch.setattr(module, "Semaphore", Turn)
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.02)
    Turn.stopped = 0

    def make(*args: Place, **keywords: Any) -> Bed:
        made.append(Bed(*args, **keywords))
        return made[-1]

    yield make
    for each in made:
        each.mpi.close()
        assert not any(thread.is_alive() for thread in each.mpi._threads)
        assert not Turn.lock.locked()


# Which tasks, and which of them can never run.


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (program(1), False),
        (program(3), False),  # one worker has as many
        (program(4), True),
        (program(4, mpi=False), False),
        (program(1, mpi=True), True),
        (program(2, mpi=True), True),
        (Task("t", 4, "/", len, ()), False),
    ],
)
def test_programs_that_say_so_or_are_too_large_for_a_worker(
    bed: Any, task: Task, expected: bool
) -> None:
    assert bed(*places(2, 3)).mpi.wants(task) is expected


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (program(6), ""),
        (program(7), "nproc = 7, but the pool has 3 nodes of 2 slots"),
        (program(2, mpi=True), ""),
        (program(3, task_ppn=1), ""),
        (program(4, task_ppn=1), "nproc = 4, but the pool has 3 nodes for 1 such processes each"),
        (program(3, mpi=True, task_cpp=2), ""),
        (program(4, task_cpp=2), "nproc = 4, but the pool has 3 nodes for 1 such processes each"),
        (program(1, mpi=True, task_cpp=3), "nproc = 1, but the pool has 3 nodes for 0 such pro"),
        (program(6, gpus=2), ""),
        (program(6, gpus=3), "nproc = 6, but the pool has 3 nodes for 1 such processes each"),
        (program(4, gpus=5), "gpus = 5 for each process, but a node has 4"),
    ],
)
def test_what_can_never_run_is_told_with_the_sizes(bed: Any, task: Task, reason: str) -> None:
    found = bed(*places(3, 2, 2, gpus=4)).mpi.why_not(task)
    assert found[: len(reason)] == reason
    assert bool(found) == bool(reason)


def test_without_slurm_there_is_no_srun(bed: Any) -> None:
    assert bed(*places(2, 2), job_id=None).mpi.why_not(program(4)) == (
        "nproc = 4: MPI tasks of a pool need srun, and this is no Slurm job"
    )


def test_several_workers_a_node_are_refused(bed: Any) -> None:
    workers = Place("w-0-0", "n1", 2), Place("w-0-1", "n1", 2)
    assert bed(*workers).mpi.why_not(program(3)) == "MPI tasks need pools with one worker a node"


# Slots are held on each of the nodes before a program starts.


def test_program_starts_when_all_its_slots_are_held_and_gives_them_back(
    bed: Any, wait_until: Any
) -> None:
    here = bed(*places(2, 2, 2))
    here.submit(
        "a", 4, priority=5, task_env={"X": "1"}, launch_cmd_extra_args="--mpi=pmi2 -A 'b c'"
    )
    first, second = wait_until(lambda: len(here.client.futures) == 2, _SECONDS, "two holders") and (
        here.client.futures
    )
    assert [f.options["workers"] for f in (first, second)] == [["tls://w-1"], ["tls://w-2"]]
    assert first.options["key"] == f"a on n1-{first.key}"
    assert (first.topic, first.run) == ("topic", "run")
    assert [f.options["resources"] for f in (first, second)] == [{"slot": 2}] * 2
    assert first.options["priority"] == 1_000_005
    here.give(first)
    looks = here.client.looks
    wait_until(lambda: here.client.looks > looks + 2, _SECONDS, "it looks for lost workers")
    assert here.ran == []
    here.give(second)
    wait_until(lambda: here.ran, _SECONDS, "it runs")
    ((payload, shape, key),) = here.ran
    assert (shape.nproc, shape.nodes, shape.node_names) == (4, 2, ("n1", "n2"))
    assert shape.extra_args == ("--mpi=pmi2", "-A", "b c")
    assert payload["env"] == {"X": "1", "GUARD": "g"}
    assert key == "k-a"
    assert here.news(Started) == ["k-a"]
    assert here.client.released == []
    here.go.set()
    wait_until(lambda: here.client.released, _SECONDS, "slots are given back")
    assert here.news(Ended) == ["k-a"]
    assert here.client.released == [{"w-1": first.key, "w-2": second.key}]


@pytest.mark.parametrize(
    ("nproc", "keywords", "resources"),
    [
        (5, {}, [{"slot": 5}]),
        (5, {"task_ppn": 2}, [{"slot": 2}] * 3),
        (3, {"task_cpp": 4}, [{"slot": 8}] * 2),
        (6, {"gpus": 1}, [{"slot": 3, "gpu": 3}] * 2),
        (3, {"gpus": 4}, [{"slot": 1, "gpu": 4}] * 3),
    ],
)
def test_how_many_slots_and_devices_are_held(
    bed: Any, wait_until: Any, nproc: int, keywords: Any, resources: Any
) -> None:
    here = bed(*places(8, 9, 8, gpus=4))
    here.submit("a", nproc, mpi=True, **keywords)
    wait_until(lambda: len(here.client.futures) == len(resources), _SECONDS, "holders")
    assert [future.options["resources"] for future in here.client.futures] == resources
    here.give()
    ((_, shape, _),) = wait_until(lambda: here.ran, _SECONDS, "it runs")
    assert (shape.gpus, shape.cores) == (keywords.get("gpus", 0), keywords.get("task_cpp", 0))


def test_slots_are_gathered_for_one_program_after_the_other(bed: Any, wait_until: Any) -> None:
    here = bed(*places(2, 2, 2))
    here.submit("a", 4)
    wait_until(lambda: len(here.client.futures) == 2, _SECONDS, "holders of the first")
    here.submit("b", 4)
    looks = here.client.looks
    wait_until(lambda: here.client.looks > looks + 2, _SECONDS, "time passes")
    assert len(here.client.futures) == 2
    here.give()
    wait_until(lambda: len(here.client.futures) == 4, _SECONDS, "holders of the second")


def test_programs_are_spread_over_the_nodes(bed: Any, wait_until: Any) -> None:
    here = bed(*places(2, 2, 2, 2, 2))
    here.client.others = ["w-1"] * 2
    used = []
    for name, nproc in (("a", 4), ("b", 4), ("c", 2)):  # the third has no free node
        here.submit(name, nproc, mpi=True)
        count = len(used) + nproc // 2
        futures = wait_until(partial(here.holders, count), _SECONDS, f"holders of {name}")
        used += [future.options["workers"][0][-1] for future in futures[len(used) :]]
        here.give()
    assert used == ["2", "3", "4", "5", "3"]
    wait_until(lambda: len(here.ran) == 3, _SECONDS, "all run")
    here.go.set()
    wait_until(lambda: len(here.client.released) == 3, _SECONDS, "all have ended")


def test_futures_of_held_slots_live_as_long_as_the_program(bed: Any, wait_until: Any) -> None:
    """Dask takes what a task held for free once nobody wants the task."""
    import gc
    import weakref

    here = bed(*places(2, 2))
    here.submit("a", 4)
    wait_until(lambda: len(here.client.futures) == 2, _SECONDS, "holders")
    here.give()
    wait_until(lambda: here.ran, _SECONDS, "it runs")
    futures = [weakref.ref(future) for future in here.client.futures]
    here.client.futures.clear()
    gc.collect()
    assert None not in [future() for future in futures]
    here.go.set()
    wait_until(lambda: [f() for f in futures] == [None, None], _SECONDS, "futures are gone")


def test_slots_are_gathered_for_one_component_after_the_other(bed: Any, wait_until: Any) -> None:
    one, other = bed(*places(2, 2)), bed(*places(2, 2))
    one.submit("a", 4)
    wait_until(lambda: len(one.client.futures) == 2, _SECONDS, "holders of the first")
    other.submit("b", 4)
    looks = one.client.looks
    wait_until(lambda: one.client.looks > looks + 2, _SECONDS, "time passes")
    assert other.client.futures == []
    one.mpi.cancel()
    wait_until(lambda: len(other.client.futures) == 2, _SECONDS, "holders of the second")
    other.mpi.cancel()
    assert Turn.stopped == 0
    one.mpi.close()
    assert Turn.stopped == 1


def test_nodes_are_chosen_anew_when_others_are_idle(bed: Any, wait_until: Any) -> None:
    here = bed(*places(2, 2, 2, 2))
    here.submit("a", 4)
    wait_until(partial(here.holders, 2), _SECONDS, "holders")
    here.client.others = ["w-1", "w-3", "w-4"]  # too few are idle
    looks = here.client.looks
    wait_until(lambda: here.client.looks > looks + 2, _SECONDS, "time passes")
    assert here.heard == []
    here.client.others = ["w-1"]
    wait_until(lambda: here.news(Requeued), _SECONDS, "it is given back")
    here.submit("b", 4)
    futures = wait_until(partial(here.holders, 4), _SECONDS, "holders")
    assert [f.options["workers"] for f in futures[2:]] == [["tls://w-2"], ["tls://w-3"]]


# What goes wrong meanwhile.


@pytest.mark.parametrize("how", ["lost", "came back", "status"])
def test_worker_that_goes_while_slots_are_gathered(bed: Any, wait_until: Any, how: str) -> None:
    here = bed(*places(2, 2))
    here.submit("a", 4)
    first, second = wait_until(lambda: len(here.client.futures) == 2, _SECONDS, "holders") and (
        here.client.futures
    )
    here.give(first)
    if how == "status":
        second.status = "error"
    elif how == "lost":
        del here.client.addresses["w-2"]
    else:
        here.client.addresses["w-2"] = "tls://other"
    wait_until(lambda: here.news(Requeued), _SECONDS, "it is given back")
    assert here.client.cancelled == [first.key, second.key]
    assert here.client.released == [{"w-1": first.key, "w-2": second.key}]
    assert (here.ran, here.news(Ended)) == ([], [])

    here.submit("b", 4)  # as the dispatcher does, under another key
    looks = here.client.looks
    wait_until(lambda: here.client.looks > looks + 2, _SECONDS, "it waits for workers")
    assert len(here.client.futures) == (2 if how == "lost" else 4)
    here.client.addresses["w-2"] = "tls://other"
    wait_until(lambda: len(here.client.futures) == 4, _SECONDS, "holders")
    here.give(*here.client.futures[2:])
    wait_until(lambda: here.ran, _SECONDS, "it runs")


def test_nodes_without_a_worker_are_left_out(bed: Any, wait_until: Any) -> None:
    here = bed(*places(2, 2, 2))
    del here.client.addresses["w-1"]
    here.submit("a", 4)
    wait_until(lambda: len(here.client.futures) == 2, _SECONDS, "holders")
    assert [f.options["workers"] for f in here.client.futures] == [["tls://w-2"], ["tls://w-3"]]


def test_workers_that_have_gone_for_good_are_not_waited_for(
    bed: Any, wait_until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MISSING_SECONDS", 0.1)
    here = bed(*places(2, 2))
    del here.client.addresses["w-1"]
    here.submit("a", 4)
    wait_until(lambda: here.news(Ended), _SECONDS, "it has failed")
    (news,) = here.heard
    assert (news.record["status"], news.record["exit_status"]) == ("failed", 126)
    assert (
        "it needs workers on 2 nodes, and only 1 have been there for 0.1 s"
        in (news.record["error"])
    )
    assert here.client.futures == []


def test_lost_cluster_is_asked_once_in_a_while(bed: Any, wait_until: Any) -> None:
    here = bed(*places(2, 2))
    here.client.trouble = OSError("connection lost")
    here.submit("a", 4)
    wait_until(lambda: here.client.looks > 2, _SECONDS, "it asks again")
    assert here.heard == []
    here.mpi.hold()
    wait_until(lambda: here.news(Requeued) == ["k-a"], _SECONDS, "it is given back")


def test_what_cannot_be_started_fails_and_gives_back_its_slots(bed: Any, wait_until: Any) -> None:
    here = bed(*places(2, 2))
    here.error = ValueError("odd")
    here.submit("a", 4)
    wait_until(lambda: len(here.client.futures) == 2, _SECONDS, "holders")
    here.give()
    wait_until(lambda: here.news(Ended), _SECONDS, "it has ended")
    (news,) = here.heard
    assert news.record["error"] == "it could not be started: ValueError: odd"
    assert len(here.client.released) == 1


def test_hold_gives_back_what_waits_for_slots_and_lets_the_rest_run(
    bed: Any, wait_until: Any
) -> None:
    here = bed(*places(2, 2))
    here.submit("a", 4)
    wait_until(lambda: len(here.client.futures) == 2, _SECONDS, "holders")
    here.give()
    wait_until(lambda: here.ran, _SECONDS, "it runs")
    here.submit("b", 4)
    wait_until(lambda: len(here.client.futures) == 4, _SECONDS, "holders")
    here.submit("c", 4)
    here.mpi.hold()
    wait_until(lambda: len(here.news(Requeued)) == 2, _SECONDS, "given back")
    assert sorted(here.news(Requeued)) == ["k-b", "k-c"]
    assert here.client.cancelled == [future.key for future in here.client.futures[2:4]]
    assert len(here.client.futures) == 4
    assert here.news(Ended) == []
    here.go.set()
    wait_until(lambda: here.news(Ended) == ["k-a"], _SECONDS, "the first has ended")


def test_cancel_ends_what_runs_and_what_waits(bed: Any, wait_until: Any) -> None:
    here = bed(*places(2, 2))
    here.submit("a", 4)
    wait_until(lambda: len(here.client.futures) == 2, _SECONDS, "holders")
    here.give()
    wait_until(lambda: here.ran, _SECONDS, "it runs")
    here.submit("b", 4)
    wait_until(lambda: len(here.client.futures) == 4, _SECONDS, "holders")
    here.mpi.cancel()
    (ended,) = [news for news in here.heard if isinstance(news, Ended)]
    assert (ended.key, ended.record["status"]) == ("k-a", "cancelled")
    assert here.news(Requeued) == ["k-b"]
    released = [key for keys in here.client.released for key in keys.values()]
    assert sorted(released) == sorted(future.key for future in here.client.futures)


def test_in_a_container_ranks_run_there(bed: Any, wait_until: Any) -> None:
    here = bed(*places(2, 2), shifter=("--image=a",))
    here.submit("a", 4)
    wait_until(lambda: len(here.client.futures) == 2, _SECONDS, "holders")
    here.give()
    ((payload, _, _),) = wait_until(lambda: here.ran, _SECONDS, "it runs")
    assert payload["argv"][:2] == ["shifter", "--image=a"]


# On a worker.


@pytest.fixture
def plugin(tmp_path: Path) -> Any:
    """What holds slots on a worker."""
    plugin = TaskRunner(str(tmp_path))
    plugin.told = []  # type: ignore[attr-defined]
    plugin.worker = SimpleNamespace(log_event=lambda *event: plugin.told.append(event))  # type: ignore[attr-defined]
    plugin.gone = set()  # type: ignore[attr-defined]
    plugin.runner = SimpleNamespace(is_cancelled=lambda run: run in plugin.gone)  # type: ignore[attr-defined,assignment]
    return plugin


@pytest.mark.parametrize("how", ["released", "cancelled"])
def test_slots_are_held_until_they_are_released(plugin: Any, wait_until: Any, how: str) -> None:
    thread = threading.Thread(target=plugin.hold_slots, args=("k-0", "topic", "run"))
    thread.start()
    wait_until(lambda: plugin.told, _SECONDS, "it tells that it holds them")
    assert plugin.told == [("topic", {"run": "run", "held": "k-0"})]
    plugin.release_slots("k-1")
    thread.join(0.2)
    assert thread.is_alive()
    if how == "released":
        plugin.release_slots("k-0")
    else:
        plugin.gone.add("run")
    thread.join(_SECONDS)
    assert not thread.is_alive()
    assert "k-0" not in plugin._released


def test_slots_that_were_released_before_they_were_held_are_not_held(plugin: Any) -> None:
    plugin.release_slots("k-0")
    thread = threading.Thread(target=plugin.hold_slots, args=("k-0", "topic", "run"))
    thread.start()
    thread.join(_SECONDS)
    held = thread.is_alive()
    plugin.gone.add("run")
    assert not held
