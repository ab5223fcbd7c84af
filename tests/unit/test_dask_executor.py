"""What becomes of tasks on Dask: by the workers' word, or by their journals when they are gone."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest

from ips_core.pools.attempt import Attempt
from ips_core.pools.dask import dask_executor as module
from ips_core.pools.dask.cluster_adapter import ClusterAddress, Place
from ips_core.pools.dask.dask_executor import DaskExecutor
from ips_core.pools.executor import (
    AttemptLost,
    Ended,
    ExecutorEvent,
    ExecutorLost,
    Requeued,
    Started,
)
from ips_core.resources.clusters import ClusterRequest
from ips_core.tasks.runner import Journal
from ips_core.tasks.task import Task

FIRST = {"host": "node1", "worker": "w-0", "start_time": 5.0}


def work() -> None:
    """What the tasks do; nobody calls it here."""


class KilledWorker(Exception):
    """As Dask's, which is known by its name."""


class Future:
    """A Dask task as its client sees it."""

    def __init__(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.arguments, self.options = arguments, options
        self.status, self.error = "pending", None
        self.callbacks: list[Callable[[Future], None]] = []

    def add_done_callback(self, function: Callable[[Future], None]) -> None:
        self.callbacks.append(function)

    def exception(self) -> Exception | None:
        return self.error

    def done(self, status: str = "finished", error: Exception | None = None) -> None:
        self.status, self.error = status, error
        for function in self.callbacks:
            function(self)


class Client:
    """A client of a scheduler that is not there."""

    _run = "as Dask's own"

    def __init__(self) -> None:
        self.futures: list[Future] = []
        self.calls: list[tuple[Any, ...]] = []
        self.answers: dict[str, Any] = {}
        self.trouble: dict[str, Exception] = {}

    def _do(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, *arguments))
        if name in self.trouble:
            raise self.trouble[name]

    def submit(self, function: Any, *arguments: Any, **options: Any) -> Future:
        self._do("submit")
        self.futures.append(Future(arguments, options))
        return self.futures[-1]

    def cancel(self, futures: list[Future], force: bool = False) -> None:
        self._do("cancel", futures, force)

    def sync(self, function: Any, on_workers: Any, run: str, **options: Any) -> Any:
        assert function == self._run
        self._do("sync", run)
        return self.answers

    def register_plugin(self, plugin: Any, name: str) -> None:
        self._do("register", plugin, name)

    def unregister_worker_plugin(self, name: str) -> None:
        self._do("unregister", name)


class Bed:
    """An executor whose news are taken when the test asks for them."""

    def __init__(self, directory: Path, plugin: Any = None) -> None:
        self.client = Client()
        self.journal = Journal(str(directory), "w-0")
        request = ClusterRequest(2, None, None, "local")
        places = (Place("w-0", "n0", 3), Place("w-1", "n1", 5, gpus=2))
        reached = ClusterAddress(
            *(request, "tls://s", None, 8, str(directory), places), ends_at=1000.0, margin=60.0
        )
        self.executor = DaskExecutor("run", "pool", self.client, "topic", reached, plugin)
        self.timers: list[Callable[[], None]] = []
        self.heard: list[Any] = []

    def timer(self, seconds: float, function: Callable[[], None]) -> Any:
        return SimpleNamespace(start=lambda: self.timers.append(function))

    def start(self) -> None:
        self.executor.start(self.heard.append)

    def submit(self, *names: str, **keywords: Any) -> Future:
        nproc = keywords.pop("nproc", 1)
        tasks = [Task(name, nproc, "/", work, **keywords) for name in names]
        self.executor.submit([Attempt(task, f"k-{task.name}") for task in tasks])
        return self.client.futures[-1]

    def news(self) -> list[ExecutorEvent]:
        """Take what has been told, as the dispatcher does."""
        found: list[ExecutorEvent] = []

        def take(heard: Iterable[Any]) -> None:
            for each in heard:
                if callable(each):
                    take(each() or ())
                else:
                    found.append(each)

        heard, self.heard[:] = list(self.heard), []
        take(heard)
        return [each for each in found if each != Requeued(())]

    def wait(self) -> list[ExecutorEvent]:
        """Take the news after the time that journals are given."""
        found = self.news()
        while self.timers:
            self.timers.pop(0)()
            found += self.news()
        return found

    def tell(self, **news: Any) -> list[ExecutorEvent]:
        self.executor.take_event({"run": "run", "news": pickle.dumps(news)})
        return self.news()

    def note_begun(self, *names: str) -> None:
        for name in names:
            self.journal.begun(f"k-{name}", cloudpickle.dumps(FIRST | {"name": name}))

    def note_ended(self, name: str, value: Any = None) -> None:
        self.journal.ended(f"k-{name}", cloudpickle.dumps(record(name, value)))


def record(name: str, value: Any = None) -> dict[str, Any]:
    return FIRST | {"name": name, "status": "finished", "value": value}


def begun(name: str) -> Started:
    return Started(f"k-{name}", FIRST | {"name": name})


def ended(name: str, value: Any = None) -> Ended:
    return Ended(f"k-{name}", record(name, value))


def lost(name: str, why: str = "its worker was lost") -> AttemptLost:
    return AttemptLost(f"k-{name}", why)


@pytest.fixture
def bed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bed:
    found = Bed(tmp_path)
    monkeypatch.setattr(
        module, "threading", SimpleNamespace(Timer=found.timer, Thread=threading.Thread)
    )
    found.start()
    return found


def test_what_is_known_of_the_cluster(bed: Bed, tmp_path: Path) -> None:
    executor = bed.executor
    assert (executor.slots, executor.ends_at, executor.journal_directory) == (8, 940.0, tmp_path)
    assert executor.why_not(Task("a", 5, "/", work)) == ""
    assert executor.why_not(Task("a", 6, "/", work)) == "nproc = 6, but a worker has 5 slots"


# What is sent.


def test_one_task_is_one_dask_task_of_its_name(bed: Bed) -> None:
    future = bed.submit("solve a", nproc=3, priority=7, isolate=True)
    key, first, topic, run, payloads = future.arguments
    assert (key, first, topic, run) == ("solve a-k-solve a", "k-solve a", "topic", "run")
    assert future.options == {
        "key": key,
        "pure": False,
        "resources": {"slot": 3},
        "priority": 7,
    }
    ((task_key, payload),) = cloudpickle.loads(payloads)
    assert (task_key, payload["name"], payload["slots"]) == ("k-solve a", "solve a", 3)


def test_devices_are_a_resource(bed: Bed) -> None:
    future = bed.submit("a", gpus=2)
    assert future.options["resources"] == {"slot": 1, "gpu": 2}


def test_chunk_is_named_by_its_pool(bed: Bed) -> None:
    future = bed.submit("a", "b", "c")
    assert future.options["key"] == "pool x 3-k-a"
    assert [key for key, _ in cloudpickle.loads(future.arguments[4])] == ["k-a", "k-b", "k-c"]


def test_name_of_any_bytes_makes_a_key(bed: Bed) -> None:
    assert bed.submit("grün\udcff").options["key"].startswith("gr?n?-")


def test_what_cannot_be_sent_leaves_nothing_behind(bed: Bed) -> None:
    good = bed.submit("a")
    bed.client.trouble["submit"] = RuntimeError("no connection")
    with pytest.raises(RuntimeError, match="no connection"):
        bed.submit("b")
    del bed.client.trouble["submit"]
    bed.executor.cancel()
    assert bed.client.calls[-1] == ("cancel", [good], True)


# The workers' word.


def test_news_of_workers(bed: Bed) -> None:
    bed.submit("a")
    pickled = cloudpickle.dumps(FIRST | {"name": "a"})
    assert bed.tell(begun=[("k-a", pickled)]) == [begun("a")]
    end = {"key": "k-a", "record": cloudpickle.dumps(record("a", 5))}
    assert bed.tell(ended=[end]) == [ended("a", 5)]
    assert bed.tell(ended=[end]) == []  # told once
    assert not bed.executor._chunks  # a future that is kept would keep Dask's result


def test_long_record_is_read_from_its_file(bed: Bed, tmp_path: Path) -> None:
    bed.submit("a")
    where = bed.journal.ended("k-a", cloudpickle.dumps(record("a", "x" * 5000)))
    assert set(where) == {"file"}
    assert bed.tell(ended=[{"key": "k-a"} | where]) == [ended("a", "x" * 5000)]
    assert not list(tmp_path.glob("*.result"))


def test_record_whose_file_is_not_there_is_a_lost_result(bed: Bed) -> None:
    bed.submit("a")
    (news,) = bed.tell(ended=[{"key": "k-a", "file": "9.result"}])
    assert isinstance(news, Ended)
    assert (news.record["status"], news.record["exit_status"]) == ("result_lost", None)


def test_record_that_cannot_be_read_is_a_failure(bed: Bed) -> None:
    bed.submit("a")
    (news,) = bed.tell(ended=[{"key": "k-a", "record": b"no pickle"}])
    assert isinstance(news, Ended)
    assert news.record["status"] == "failed"
    assert news.record["error"].startswith("its result cannot be read here: UnpicklingError: ")


def test_rest_of_a_chunk_is_given_back_once(bed: Bed) -> None:
    bed.submit("a", "b", "c")
    assert bed.tell(given_back=["k-b", "k-c"]) == [Requeued(("k-b", "k-c"))]
    assert bed.tell(given_back=["k-b", "k-c"]) == []
    assert bed.tell(ended=[{"key": "k-a", "record": cloudpickle.dumps(record("a"))}]) == [
        ended("a")
    ]


def test_unreadable_chunk_is_taken_apart(bed: Bed) -> None:
    chunk = bed.submit("a", "b")
    assert bed.tell(unreadable=chunk.options["key"], error="no module x") == [
        Requeued(("k-a", "k-b"), alone=True)
    ]
    single = bed.submit("a")
    (news,) = bed.tell(unreadable=single.options["key"], error="no module x")
    assert isinstance(news, Ended)
    assert news.key == "k-a"
    assert news.record["status"] == "failed"
    assert news.record["error"] == "it cannot be read on the worker: no module x"
    assert bed.tell(unreadable="never-heard-of", error="x") == []


def test_dask_s_word_after_the_worker_s_is_none(bed: Bed) -> None:
    future = bed.submit("a")
    bed.tell(ended=[{"key": "k-a", "record": cloudpickle.dumps(record("a"))}])
    future.done()
    assert bed.wait() == []
    assert bed.timers == []


# In doubt.


def test_task_whose_end_is_in_the_journal_has_ended(bed: Bed) -> None:
    future = bed.submit("a")
    bed.note_begun("a")
    bed.note_ended("a", 5)
    future.done("error", KilledWorker("w-0"))
    assert bed.wait() == [begun("a"), ended("a", 5)]


@pytest.mark.parametrize(
    ("status", "error", "why"),
    [
        ("error", KilledWorker("w-0"), "its worker was lost"),
        ("lost", None, "its worker was lost"),
        ("finished", None, "its worker was lost"),
    ],
)
def test_task_that_had_begun_and_not_ended_is_lost(
    bed: Bed, status: str, error: Exception | None, why: str
) -> None:
    future = bed.submit("a")
    bed.note_begun("a")
    future.done(status, error)
    assert bed.wait() == [begun("a"), lost("a", why)]


def test_task_that_had_been_looked_at_and_was_alone_is_lost(bed: Bed) -> None:
    """For it may be what kills its worker before that can note its begin."""
    future = bed.submit("a")
    bed.journal.taken("k-a")
    future.done("lost")
    assert bed.wait() == [lost("a")]


def test_task_whose_begin_was_told_is_lost_though_its_worker_could_note_nothing(bed: Bed) -> None:
    """Its disk was full, say; else the task would run again whatever ``retries`` says."""
    future = bed.submit("a", "b")
    assert bed.tell(begun=[("k-a", cloudpickle.dumps(FIRST | {"name": "a"}))]) == [begun("a")]
    future.done("error", KilledWorker("no worker"))
    assert bed.wait() == [
        lost("a"),
        Requeued(("k-b",), alone=False),
    ]


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
def test_what_has_only_waited_on_a_lost_worker_is_given_back(
    bed: Bed, names: tuple[str, ...]
) -> None:
    bed.submit(*names).done("lost")
    assert bed.wait() == [Requeued(tuple(f"k-{name}" for name in names), alone=False)]


def test_result_that_was_never_stored_is_lost_and_its_start_is_told(
    bed: Bed, tmp_path: Path
) -> None:
    future = bed.submit("a")
    bed.note_begun("a")
    where = bed.journal.ended("k-a", cloudpickle.dumps(record("a", "x" * 5000)))
    (tmp_path / where["file"]).unlink()
    future.done("lost")
    first, last = bed.wait()
    assert first == begun("a")
    assert isinstance(last, Ended)
    assert last.record["status"] == "result_lost"


def test_chunk_of_a_lost_worker_is_told_task_by_task(bed: Bed) -> None:
    future = bed.submit("a", "b", "c", "d")
    bed.note_begun("a", "b")
    bed.note_ended("a", 1)
    future.done("error", KilledWorker("w-0"))
    assert bed.wait() == [
        *(begun("a"), ended("a", 1)),
        *(begun("b"), lost("b")),
        Requeued(("k-c", "k-d")),
    ]


def test_chunk_of_which_none_had_begun_is_taken_apart(bed: Bed) -> None:
    future = bed.submit("a", "b")
    bed.journal.taken("k-a")
    future.done("lost")
    assert bed.wait() == [Requeued(("k-a", "k-b"), alone=True)]


def test_chunk_that_had_ended_before_its_worker_was_lost(bed: Bed) -> None:
    future = bed.submit("a", "b")
    bed.note_begun("a", "b")
    bed.note_ended("a")
    bed.note_ended("b")
    future.done("lost")
    assert bed.wait() == [begun("a"), ended("a"), begun("b"), ended("b")]


def test_task_that_takes_its_worker_along_costs_the_rest_of_its_chunk_nothing(bed: Bed) -> None:
    future = bed.submit("a", "b")
    bed.note_begun("a")
    future.done("lost")
    assert bed.wait() == [begun("a"), lost("a"), Requeued(("k-b",))]


def test_error_of_dask_itself_is_the_end_of_its_tasks(bed: Bed) -> None:
    future = bed.submit("a", "b")
    bed.note_begun("a")
    future.done("error", ValueError("no such plugin"))
    first, *ends = bed.wait()
    assert first == begun("a")
    assert [each.key for each in ends if isinstance(each, Ended)] == ["k-a", "k-b"]
    expected = {"status": "lost", "exit_status": None, "error": "ValueError: no such plugin"}
    assert [each.record for each in ends if isinstance(each, Ended)] == [expected] * 2


def test_news_that_come_while_in_doubt_settle_it(bed: Bed) -> None:
    future = bed.submit("a")
    future.done("finished")
    assert bed.news() == []
    assert len(bed.timers) == 1
    assert bed.tell(ended=[{"key": "k-a", "record": cloudpickle.dumps(record("a"))}]) == [
        ended("a")
    ]
    assert bed.wait() == []


def test_every_doubt_is_given_its_time(bed: Bed) -> None:
    """One that comes while another is about to be settled is settled later."""
    first, second = bed.submit("a"), bed.submit("b")
    bed.journal.taken("k-a")
    first.done("lost")
    assert bed.news() == []
    second.done("lost")
    assert bed.news() == []
    bed.timers.pop(0)()
    assert bed.news() == [lost("a")]
    bed.note_begun("b")
    bed.note_ended("b", 7)
    assert bed.wait() == [begun("b"), ended("b", 7)]
    assert bed.timers == []


def test_many_doubts_have_one_timer(bed: Bed) -> None:
    for number in range(50):
        bed.submit(f"t{number}").done("lost")
        assert bed.news() == []
        assert len(bed.timers) == 1
    assert len(bed.wait()) == 50


# The cluster is lost, cancelling, plugins.


@pytest.mark.parametrize("told_by", ["keeper", "dask"])
def test_lost_cluster_costs_what_had_not_ended(bed: Bed, told_by: str) -> None:
    future = bed.submit("a", "b", "c")
    bed.submit("d")
    bed.note_begun("a", "b")
    bed.note_ended("a", 1)
    if told_by == "keeper":
        bed.executor.lose("the cluster is lost (killed)")
    else:
        future.done("cancelled")
    *news, last = bed.wait()
    assert news == [begun("a"), ended("a", 1), begun("b")]
    assert isinstance(last, ExecutorLost)
    assert last.reason.startswith("the cluster is lost (")
    bed.executor.lose("again")
    assert bed.wait() == []


def test_cancelling_tells_what_had_begun_and_gives_up_its_dask_tasks(bed: Bed) -> None:
    futures = [bed.submit("a"), bed.submit("b", "c")]
    first = FIRST | {"name": "c"}
    bed.client.answers = {"tcp://w-0": [first, FIRST | {"name": "of nobody"}], "tcp://w-1": []}
    bed.executor.cancel()
    assert bed.news() == [Started("k-c", first)]
    assert bed.client.calls[-2:] == [("sync", "run"), ("cancel", futures, True)]


def test_function_that_runs_on_spoils_the_cluster(bed: Bed) -> None:
    bed.submit("a")
    bed.client.answers = {"tcp://w-0": [FIRST | {"name": "a"}]}
    bed.executor.cancel()
    assert bed.executor.spoiled


def test_function_in_a_process_of_its_own_spoils_nothing(bed: Bed) -> None:
    bed.submit("a", isolate=True)
    bed.client.answers = {"tcp://w-0": [FIRST | {"name": "a"}]}
    bed.executor.cancel()
    assert not bed.executor.spoiled


def test_cancelling_with_a_lost_scheduler_is_no_error(bed: Bed) -> None:
    bed.submit("a")
    bed.client.trouble = {"sync": OSError("gone"), "cancel": OSError("gone")}
    bed.executor.cancel()
    bed.executor.hold()
    assert bed.news() == []


def test_hold_is_told_to_the_workers(bed: Bed) -> None:
    bed.executor.hold()
    assert bed.client.calls == [("sync", "run")]


def test_plugin_lives_as_long_as_the_run(tmp_path: Path) -> None:
    bed = Bed(tmp_path, plugin="plugin")
    bed.start()
    assert bed.executor.close() == ""
    assert bed.client.calls == [("register", "plugin", "run"), ("unregister", "run")]


def test_plugin_that_cannot_be_set_up_is_taken_away(tmp_path: Path) -> None:
    bed = Bed(tmp_path, plugin="plugin")
    bed.client.trouble["register"] = ValueError("no room")
    with pytest.raises(ValueError, match="no room"):
        bed.start()
    assert bed.client.calls[-1] == ("unregister", "run")


def test_plugin_that_cannot_be_torn_down_costs_no_result(tmp_path: Path) -> None:
    bed = Bed(tmp_path, plugin="plugin")
    bed.start()
    bed.client.trouble["unregister"] = ValueError("no room")
    assert bed.executor.close() == ("tearing down the worker plugin failed: ValueError: no room")


def test_plugin_of_a_lost_cluster_is_gone_with_it(tmp_path: Path) -> None:
    bed = Bed(tmp_path, plugin="plugin")
    bed.start()
    bed.executor.lose("it was killed")
    assert bed.news() == [ExecutorLost("it was killed")]
    assert bed.executor.close() == ""
    assert bed.client.calls == [("register", "plugin", "run")]
