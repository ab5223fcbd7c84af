"""What the dispatcher starts when, and what becomes of it: in one thread, on a clock of its own."""

from __future__ import annotations

import queue
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_core.errors import TaskError, TaskPoolError
from ips_core.pools import dispatcher as module
from ips_core.pools import results as results_module
from ips_core.pools.attempt import Attempt
from ips_core.pools.dispatcher import Dispatcher
from ips_core.pools.executor import AttemptLost, Ended, ExecutorLost, Requeued, Started
from ips_core.pools.policy import Policy
from ips_core.pools.results import Results
from ips_core.pools.task_queue import Batch, TaskQueue
from ips_core.tasks.record import TaskRecord
from ips_core.tasks.task import Task

EPOCH = 1000.0
LONG, SHORT = 50.0, 0.001  # seconds: a task that travels alone, and one that need not
AS_USUAL = Policy()
Script = Iterator[None]


def work() -> None:
    """What the tasks do; nobody calls it here."""


def tasks_of(*names: str, nproc: int = 1, **keywords: Any) -> list[Task]:
    return [Task(name, nproc, "/", work, **keywords) for name in names]


def numbered(count: int) -> list[Task]:
    return tasks_of(*(f"t{number}" for number in range(count)))


class World:
    """An executor, a report, a queue of news and a clock, in one.

    Its script is a generator that is resumed each time that the dispatcher would wait. When that
    has told no news, the clock goes on to the moment until which the dispatcher would wait.
    """

    def __init__(self, slots: int, ends_at: float | None, window: int) -> None:
        self.slots, self.ends_at, self._window = slots, ends_at, window
        self.now = EPOCH
        self.script: Script = iter(())
        self._news: deque[Any] = deque()
        self._attempts: dict[str, Attempt] = {}  # on their way
        self._keys: set[str] = set()  # of all there were
        self._heads: dict[str, str] = {}  # first of those that travel together
        self.chunks: list[list[str]] = []  # names, as they were submitted
        self.begun_at: list[float] = []
        self.told: list[tuple[Any, ...]] = []  # to the report
        self._passed_on = 0
        self.recorded_tasks: list[TaskRecord] = []
        self.works: dict[str, tuple[str, bool]] = {}  # digest and whether resumed, by name
        self.followed: list[tuple[str, int]] = []  # attempts after which there is another
        self.impossible: dict[str, str] = {}
        self.journal_directory = None
        self.held = self.cancelled = self.closed = False
        self.on_cancel: Callable[[], object] = lambda: None
        self.unsendable: set[str] = set()
        self.trouble = ""
        self.wrongs: list[str] = []

    def must(self, condition: bool, wrong: str) -> None:
        """Note what is wrong, since the dispatcher takes an exception for the executor's."""
        if not condition:
            self.wrongs.append(wrong)

    # As an executor.

    journal_directory = None

    def start(self, post: Callable[[Any], None]) -> None:
        self.post = post

    def why_not(self, task: Task) -> str:
        return self.impossible.get(task.name, "")

    def submit(self, attempts: Sequence[Attempt]) -> None:
        if self.unsendable & {attempt.task.name for attempt in attempts}:
            raise TypeError("no such thing")
        self.must(not self.held and not self.cancelled, "started after it was stopped")
        self.must(self._load() < self._window, "more on the way than the window")
        for attempt in attempts:
            self.must(attempt.task.name not in self.on_way, "a task is on its way twice")
            self.must(attempt.key not in self._keys, "two submissions have one key")
            self._attempts[attempt.key] = attempt
            self._keys.add(attempt.key)
            self._heads[attempt.key] = attempts[0].key
        self.chunks.append([attempt.task.name for attempt in attempts])
        self.begun_at.append(self.now - EPOCH)

    def _load(self) -> int:
        nproc = {self._heads[key]: each.task.nproc for key, each in self._attempts.items()}
        return sum(nproc.values())

    def hold(self) -> None:
        self.held = True

    def cancel(self) -> None:
        self.cancelled = True
        self.on_cancel()
        self._attempts.clear()

    def close(self) -> str:
        self.must(not self.closed, "closed twice")
        self.closed = True
        return self.trouble

    # As a report.

    def started(self, task: Task, number: int, record: dict[str, Any]) -> None:
        self.must({"host", "worker", "start_time"} <= record.keys(), "start without its record")
        self.told.append(("started", task.name, number))

    def ended(self, task: Task, number: int, record: dict[str, Any], again: bool) -> None:
        needed = {"host", "worker", "start_time", "elapsed_time", "exit_status", "traceback"}
        self.must(needed <= record.keys(), "end without its record")
        self.told.append(("ended", task.name, number, record["status"]))
        if again:
            self.followed.append((task.name, number))

    def recorded(self, record: TaskRecord, work: str, resumed: bool) -> None:
        self.recorded_tasks.append(record)
        self.works[record.name] = work, resumed

    def flush(self) -> None:
        self._passed_on = len(self.told)

    def finished(self, trouble: str) -> None:
        self.told.append(("finished", trouble))

    # As the queue of news.

    def put(self, news: Any) -> None:
        self._news.append(news)

    def get_nowait(self) -> Any:
        if not self._news:
            raise queue.Empty
        return self._news.popleft()

    def get(self, timeout: float | None) -> Any:
        if not self._news:
            self.must(self._passed_on == len(self.told), "a start or an end was not passed on")
            next(self.script, None)
        if not self._news:
            assert timeout is not None, "it waits for ever"
            self.now += timeout
        return self.get_nowait()

    # What a script does.

    @property
    def on_way(self) -> list[str]:
        """The names of the tasks on their way."""
        return [attempt.task.name for attempt in self._attempts.values()]

    @property
    def submitted(self) -> list[str]:
        """The names of all that was submitted, one after the other."""
        return [name for chunk in self.chunks for name in chunk]

    def key(self, name: str) -> str:
        (key,) = (key for key, each in self._attempts.items() if each.task.name == name)
        return key

    def leave(self, name: str) -> str:
        key = self.key(name)
        del self._attempts[key]
        return key

    def first_part(self) -> dict[str, Any]:
        return {"host": "node1", "worker": "w-0", "start_time": self.now}

    def record(self, status: str, elapsed: float = LONG, **more: Any) -> dict[str, Any]:
        return {
            **self.first_part(),
            "status": status,
            "elapsed_time": elapsed,
            "exit_status": 0 if status == "finished" else 1,
            "value": "done" if status == "finished" else None,
            "error": "" if status == "finished" else f"it is {status}",
            "traceback": "",
            "output": "",
            **more,
        }

    def begin(self, *names: str) -> None:
        for name in names:
            self.post(Started(self.key(name), self.first_part()))

    def end(self, *names: str, status: str = "finished", **more: Any) -> None:
        for name in names:
            self.post(Ended(self.leave(name), self.record(status, **more)))

    def lose(self, *names: str) -> None:
        for name in names:
            self.post(AttemptLost(self.leave(name), "its worker was lost"))

    def give_back(self, *names: str, alone: bool = False) -> None:
        self.post(Requeued(tuple(self.leave(name) for name in names), alone))

    def break_down(self) -> None:
        self._attempts.clear()
        self.post(ExecutorLost("the cluster is lost"))

    def ended_by_worker(self, name: str) -> list[str]:
        return [found[3] for found in self.told if found[:2] == ("ended", name)]


class _NoThread:
    def __init__(self, target: Callable[[], None], **more: Any) -> None:
        self.start = target


class Bed:
    """A dispatcher whose thread is the caller's."""

    def __init__(
        self,
        tasks: Sequence[Task],
        policy: Policy = AS_USUAL,
        *,
        batches: Sequence[Batch] = (),
        slots: int = 2,
        ends_at: float | None = None,
        find_finished: Callable[[Task], tuple[str, TaskRecord | None]] = lambda task: ("", None),
    ) -> None:
        window = slots if policy.launch_interval else 2 * slots
        self.world = World(slots, None if ends_at is None else EPOCH + ends_at, window)
        self.results = Results(task.name for task in tasks)
        self._patch = pytest.MonkeyPatch()
        self._source = TaskQueue(tasks, batches)
        self._more = policy, find_finished

    def run(self, script: Callable[[World], Script] = lambda world: iter(())) -> dict[str, Any]:
        """Return the results; after the script, all tasks finish that are on their way."""
        world = self.world

        own = script(world)

        def all_of_it() -> Script:
            yield from own
            while True:
                world.end(*world.on_way)
                yield

        world.script = all_of_it()
        with pytest.MonkeyPatch.context() as patch:
            clock = SimpleNamespace(time=lambda: world.now, monotonic=lambda: world.now)
            news = SimpleNamespace(SimpleQueue=lambda: world, Empty=queue.Empty)
            patch.setattr(module, "time", clock)
            patch.setattr(module, "threading", SimpleNamespace(Thread=_NoThread))
            patch.setattr(module, "queue", news)
            self.dispatcher = Dispatcher(
                "pool", self._source, world, self.results, world, *self._more
            )
            self.dispatcher.start()
        assert self.results.ended
        assert world.wrongs == []
        assert world.closed
        assert [found[0] for found in world.told].count("finished") == 1
        self.results.raise_error()
        for _ in own:  # what it has to say about the end
            pass
        return self.results.values()

    @property
    def statuses(self) -> dict[str, str]:
        return {record.name: record.status for record in self.world.recorded_tasks}

    @property
    def trouble(self) -> str:
        assert self.world.told[-1][0] == "finished"
        return str(self.world.told[-1][1])

    def record(self, name: str) -> TaskRecord:
        (found,) = (record for record in self.world.recorded_tasks if record.name == name)
        return found

    def cancel(self) -> None:
        """Cancel from within a script, where nobody can wait."""
        self.results.wait = lambda *args: True  # type: ignore[method-assign, assignment]
        self.dispatcher.cancel()
        del self.results.wait


# What is started.


def test_every_task_is_run_once_and_results_are_in_the_order_of_adding() -> None:
    bed = Bed(numbered(5))

    def script(world: World) -> Script:
        world.begin("t1", "t0")
        world.end("t1", "t3", "t0")
        yield

    assert bed.run(script) == dict.fromkeys(["t0", "t1", "t2", "t3", "t4"], "done")
    assert list(bed.results.values()) == ["t0", "t1", "t2", "t3", "t4"]
    assert [record.name for record in bed.world.recorded_tasks][:3] == ["t1", "t3", "t0"]
    assert bed.world.told[:3] == [
        ("started", "t1", 1),
        ("started", "t0", 1),
        ("ended", "t1", 1, "finished"),
    ]
    assert bed.trouble == ""


def test_two_tasks_for_each_slot_are_on_their_way() -> None:
    bed = Bed(numbered(9), slots=2)

    def script(world: World) -> Script:
        assert world.on_way == ["t0", "t1", "t2", "t3"]
        world.end("t2")
        yield
        assert world.on_way == ["t0", "t1", "t3", "t4"]

    assert len(bed.run(script)) == 9


def test_tasks_of_several_slots_count_as_many() -> None:
    bed = Bed([*tasks_of("a", "b", nproc=2), *tasks_of("c")], slots=2)

    def script(world: World) -> Script:
        assert world.on_way == ["a", "b"]
        world.end("a")
        yield
        assert world.on_way == ["b", "c"]

    bed.run(script)
    assert bed.record("a").slots == 2


def test_higher_priorities_start_first_and_equal_ones_in_order() -> None:
    low, high = tasks_of("a", "b", priority=-1), tasks_of("c", "d", priority=5)
    bed = Bed([*low, *tasks_of("e"), *high], slots=1)
    assert list(bed.run()) == ["a", "b", "e", "c", "d"]
    assert bed.world.submitted == ["c", "d", "e", "a", "b"]


def test_resumed_tasks_are_handed_out_before_all_have_been_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a hundred thousand records would be kept that are to be kept nowhere."""
    monkeypatch.setattr(module, "_MOST_NEWS", 3)
    counts: list[int] = []

    def find_finished(task: Task) -> tuple[str, TaskRecord | None]:
        counts.append(bed.results.count)
        return "work", TaskRecord(task.name, "finished", 0)

    bed = Bed([], batches=[Batch(numbered(7), keep=False)], find_finished=find_finished)
    bed.run()
    assert counts == [0, 0, 0, 3, 3, 3, 6]
    assert bed.results.count == 7


def test_starts_are_the_launch_interval_apart() -> None:
    bed = Bed(numbered(4), Policy(launch_interval=7.0), slots=8)

    def script(world: World) -> Script:
        while len(world.chunks) < 4:
            yield  # the clock goes on

    bed.run(script)
    assert bed.world.begun_at == [0.0, 7.0, 14.0, 21.0]
    assert bed.world.chunks == [["t0"], ["t1"], ["t2"], ["t3"]]


def test_launch_interval_does_not_gather_tasks_that_wait_for_a_slot() -> None:
    bed = Bed(numbered(3), Policy(launch_interval=7.0), slots=1)

    def script(world: World) -> Script:
        world.now += 100
        world.post(lambda: ())
        yield
        assert world.on_way == ["t0"]

    bed.run(script)


def test_short_plain_tasks_travel_together_and_others_alone() -> None:
    tasks = numbered(60)
    tasks[30:31] = tasks_of("two", nproc=2)
    tasks[40:41] = tasks_of("isolated", isolate=True)
    bed = Bed(tasks, slots=2)

    def script(world: World) -> Script:
        while world.on_way:
            world.end(*world.on_way, elapsed=SHORT)
            yield

    assert list(bed.run(script)) == [task.name for task in tasks]
    sizes = [len(chunk) for chunk in bed.world.chunks]
    assert sizes[:4] == [1, 1, 1, 1]  # nothing is known yet
    assert max(sizes) > 4
    assert ["two"] in bed.world.chunks
    assert ["isolated"] in bed.world.chunks
    assert bed.world.submitted == [task.name for task in tasks]


@pytest.mark.parametrize("policy", [Policy(launch_interval=0.5), Policy(time_request=5.0)])
def test_tasks_that_are_looked_at_one_by_one_travel_alone(policy: Policy) -> None:
    bed = Bed(numbered(40), policy, ends_at=1e6)

    def script(world: World) -> Script:
        while world.on_way:
            world.end(*world.on_way, elapsed=SHORT)
            yield

    bed.run(script)
    assert {len(chunk) for chunk in bed.world.chunks} == {1}


def test_tasks_without_a_measured_duration_make_no_chunks_longer() -> None:
    """Such as those whose directory is not there."""
    missing = [Task(f"m{n}", 1, "/no/such/place", "/bin/true") for n in range(50)]
    bed = Bed([*missing, *numbered(50)])

    def script(world: World) -> Script:
        assert world.on_way == ["t0", "t1", "t2", "t3"]
        world.end("t0")
        yield

    bed.run(script)
    assert {len(chunk) for chunk in bed.world.chunks} == {1}
    assert bed.statuses["m0"] == "failed"


def test_tasks_that_cannot_be_sent_together_are_sent_one_by_one() -> None:
    tasks = numbered(300)
    bed = Bed(tasks)
    bed.world.unsendable = {"t20"}

    def script(world: World) -> Script:
        while world.on_way:
            world.end(*world.on_way, elapsed=SHORT)
            yield

    results = bed.run(script)
    assert list(results) == [task.name for task in tasks]
    assert repr(results.pop("t20")) == (
        "TaskError('t20', 'it cannot be sent to a worker: TypeError: no such thing')"
    )
    assert set(results.values()) == {"done"}
    assert any(len(chunk) > 1 for chunk in bed.world.chunks)
    assert bed.record("t20").attempts == 1
    assert bed.world.ended_by_worker("t20") == ["failed"]


def test_what_is_given_back_starts_next_and_nothing_more_is_heard_of_before() -> None:
    bed = Bed(numbered(8), slots=2)

    def script(world: World) -> Script:
        stale = world.key("t1")
        world.give_back("t1", "t2")
        world.end("t0")
        yield
        assert world.chunks[4:] == [["t1"], ["t2"], ["t4"]]
        world.post(Ended(stale, world.record("failed")))
        world.post(AttemptLost(stale, "its worker was lost"))
        world.post(Requeued((stale,)))
        yield
        assert world.on_way == ["t3", "t1", "t2", "t4"]

    assert set(bed.run(script).values()) == {"done"}
    assert bed.record("t1").attempts == 1
    assert ("started", "t1", 2) not in bed.world.told


def test_what_is_given_back_as_the_executors_trouble_travels_alone() -> None:
    bed = Bed(numbered(1000), slots=1)

    def script(world: World) -> Script:
        world.end(*world.on_way, elapsed=SHORT)
        yield
        together = next(chunk for chunk in world.chunks if len(chunk) > 1)
        world.give_back(*together, alone=True)
        yield
        world.end(*(name for name in world.on_way if name not in together), elapsed=SHORT)
        yield
        while together[-1] not in world.on_way:
            world.end(*world.on_way, elapsed=SHORT)
            yield
        assert all([name] in world.chunks for name in together)

    assert len(bed.run(script)) == 1000


# Failures and lost workers.


def test_failure_is_the_task_s_own() -> None:
    bed = Bed([*numbered(3), Task("p", 1, "/", "/bin/false")])

    def script(world: World) -> Script:
        world.end("t1", status="failed", error="ValueError: no", traceback="Traceback")
        world.end("p", status="failed", exit_status=3)
        yield

    results = bed.run(script)
    assert (results["t0"], results["t2"], results["p"]) == ("done", "done", 3)
    assert isinstance(results["t1"], TaskError)
    assert results["t1"].args == ("t1", "ValueError: no", "Traceback")
    assert (bed.record("t1").host, bed.record("t1").elapsed_time) == ("node1", LONG)


@pytest.mark.parametrize(
    ("policy", "own", "starts"),
    [
        (Policy(), {}, 1),
        (Policy(retry_failed=2), {}, 3),
        (Policy(retry_failed=2), {"retry_failed": 0}, 1),
        (Policy(), {"retry_failed": 1}, 2),
    ],
)
@pytest.mark.parametrize("status", ["failed", "timed_out"])
def test_failed_task_is_run_again_as_often_as_it_may(
    policy: Policy, own: dict[str, Any], starts: int, status: str
) -> None:
    bed = Bed(tasks_of("a", **own), policy)

    def script(world: World) -> Script:
        while world.on_way:
            world.begin("a")
            world.end("a", status=status)
            yield

    bed.run(script)
    assert (bed.record("a").status, bed.record("a").attempts) == (status, starts)
    expected = [
        told
        for number in range(1, starts + 1)
        for told in (("started", "a", number), ("ended", "a", number, status))
    ]
    assert bed.world.told[:-1] == expected


@pytest.mark.parametrize(
    ("policy", "own", "starts"),
    [(Policy(), {}, 3), (Policy(retries=0), {}, 1), (Policy(), {"retries": 1}, 2)],
)
def test_lost_task_is_run_again_as_often_as_it_may(
    policy: Policy, own: dict[str, Any], starts: int
) -> None:
    bed = Bed(tasks_of("a", **own), policy)

    def script(world: World) -> Script:
        while world.on_way:
            world.begin("a")
            world.lose("a")
            yield

    (result,) = bed.run(script).values()
    assert str(result) == "task a failed: its worker was lost"
    record = bed.record("a")
    assert (record.status, record.attempts, record.worker) == ("lost", starts, "w-0")
    assert bed.world.ended_by_worker("a") == ["lost"] * starts


def test_what_is_run_again_travels_alone() -> None:
    bed = Bed(numbered(300), Policy(retry_failed=1), slots=1)

    def script(world: World) -> Script:
        world.end(*world.on_way, elapsed=SHORT)
        yield
        again = world.on_way[:2]
        world.lose(again[0])
        world.end(again[1], status="failed", elapsed=SHORT)
        yield
        while world.on_way:
            world.end(*world.on_way, elapsed=SHORT)
            yield
        assert all([name] in world.chunks for name in again)
        assert any(len(chunk) > 2 for chunk in world.chunks)

    assert len(bed.run(script)) == 300


def test_result_that_was_lost_is_no_reason_to_run_a_task_again() -> None:
    bed = Bed(numbered(1))

    def script(world: World) -> Script:
        lost = {"status": "result_lost", "exit_status": None, "error": "it was lost"}
        world.post(Ended(world.leave("t0"), lost))
        yield

    bed.run(script)
    assert (bed.record("t0").status, bed.record("t0").attempts) == ("result_lost", 1)
    assert bed.world.told[:2] == [("started", "t0", 1), ("ended", "t0", 1, "result_lost")]


def test_task_whose_worker_was_told_to_leave_is_run_again_and_its_attempt_is_told() -> None:
    bed = Bed(numbered(2))

    def script(world: World) -> Script:
        world.end("t0", status="cancelled")  # it ran
        world.end("t1", status="cancelled", worker="", host="")  # it did not
        yield

    assert bed.run(script) == {"t0": "done", "t1": "done"}
    assert (bed.record("t0").attempts, bed.record("t1").attempts) == (2, 1)
    assert bed.world.ended_by_worker("t0") == ["lost", "finished"]
    assert bed.world.ended_by_worker("t1") == ["finished"]


def test_missing_program_is_a_failure_of_its_task_with_the_shell_s_code() -> None:
    bed = Bed([Task("m", 1, "/", "/no/such/program"), *numbered(1)], Policy(retry_failed=1))
    assert bed.run() == {"m": 127, "t0": "done"}
    assert (bed.record("m").status, bed.record("m").attempts) == ("failed", 2)
    assert "/no/such/program" in bed.record("m").error
    assert bed.world.ended_by_worker("m") == ["failed", "failed"]


def test_task_that_fits_nowhere_is_a_failure_of_its_own() -> None:
    bed = Bed(numbered(2))
    bed.world.impossible = {"t0": "nproc = 9, but a worker has 2 slots"}
    results = bed.run()
    assert str(results["t0"]) == "task t0 failed: nproc = 9, but a worker has 2 slots"
    assert (results["t1"], bed.world.submitted) == ("done", ["t1"])


@pytest.mark.parametrize(("most", "failures"), [(2, 3), (0, 1), (0.3, 4), (1.0, 2)])
def test_pool_stops_after_too_many_failures(most: float, failures: int) -> None:
    bed = Bed(numbered(10), Policy(max_failures=most), slots=1)

    def script(world: World) -> Script:
        while not world.held:
            world.end(world.on_way[0], status="failed")
            yield
        assert len(world.on_way) == 1
        world.give_back(*world.on_way)
        yield

    results = bed.run(script)
    assert Counter(bed.statuses.values()) == {"failed": failures, "not_started": 10 - failures}
    reason = f"stopped after {failures} failed tasks (max_failures = {most:g})"
    assert str(results["t9"]) == f"task t9 failed: {reason}"
    assert bed.record("t9").attempts == 0
    assert bed.trouble == reason


def test_as_many_failures_as_allowed_stop_nothing() -> None:
    bed = Bed(numbered(10), Policy(max_failures=2), slots=1)

    def script(world: World) -> Script:
        for _ in range(2):
            world.end(world.on_way[0], status="failed")
            yield

    bed.run(script)
    assert Counter(bed.statuses.values()) == {"failed": 2, "finished": 8}


def test_share_of_tasks_that_nobody_has_counted_is_of_a_hundred_at_least() -> None:
    bed = Bed([], Policy(max_failures=0.05), batches=[Batch(numbered(1000))], slots=1)

    def script(world: World) -> Script:
        while not world.held:
            world.end(*world.on_way, status="failed")
            yield

    bed.run(script)
    assert 6 <= Counter(bed.statuses.values())["failed"] <= 7
    assert len(bed.statuses) <= 10  # the others were never asked for


def test_what_still_runs_when_a_pool_stops_may_finish() -> None:
    bed = Bed(numbered(6), Policy(max_failures=0, retries=5, retry_failed=0), slots=2)

    def script(world: World) -> Script:
        world.begin("t1", "t2")
        world.end("t0", status="failed")
        yield
        world.end("t1")
        world.lose("t2")
        world.end("t3", status="not_started", worker="", host="")
        yield

    bed.run(script)
    assert bed.statuses == {
        "t0": "failed",
        "t4": "not_started",
        "t5": "not_started",
        "t1": "finished",
        "t2": "lost",
        "t3": "not_started",
    }


# Time.


def test_task_that_cannot_end_in_time_is_not_started() -> None:
    tasks = [*tasks_of("a", time_request=200), *tasks_of("b", time_request=20), *tasks_of("c")]
    bed = Bed(tasks, Policy(time_request=100.0), ends_at=150.0)

    def script(world: World) -> Script:
        assert world.on_way == ["b", "c"]
        latest = {each.task.name: each.latest_start for each in world._attempts.values()}
        assert latest == {"b": EPOCH + 130, "c": EPOCH + 50}
        world.end("b", "c")
        yield

    results = bed.run(script)
    assert str(results["a"]) == "task a failed: it cannot end before the allocation does"
    assert (bed.statuses["a"], bed.record("a").attempts) == ("not_started", 0)


def test_time_request_is_looked_at_when_the_turn_comes() -> None:
    bed = Bed(numbered(3), Policy(time_request=10.0), slots=1, ends_at=50.0)

    def script(world: World) -> Script:
        assert world.on_way == ["t0", "t1"]
        world.now += 45
        world.end("t0")
        yield

    bed.run(script)
    assert bed.statuses == {"t0": "finished", "t2": "not_started", "t1": "finished"}


def test_task_that_was_not_started_is_no_failure() -> None:
    tasks = [*tasks_of("a", time_request=200), *tasks_of("b")]
    bed = Bed(tasks, Policy(max_failures=0), ends_at=150.0)
    bed.run()
    assert bed.statuses == {"a": "not_started", "b": "finished"}


def test_without_an_end_a_time_request_stops_nothing() -> None:
    assert Bed(numbered(2), Policy(time_request=1e9)).run() == {"t0": "done", "t1": "done"}


def test_end_of_the_allocation_ends_what_runs() -> None:
    bed = Bed(numbered(6), ends_at=60.0, slots=2)

    def script(world: World) -> Script:
        world.begin("t0")
        world.end("t1")
        yield
        yield  # the clock goes on

    results = bed.run(script)
    assert bed.world.now == EPOCH + 60
    assert bed.world.cancelled
    assert bed.statuses == {"t1": "finished", "t0": "cancelled"} | dict.fromkeys(
        ("t2", "t3", "t4", "t5"), "not_started"
    )
    assert str(results["t0"]) == "task t0 failed: the allocation is about to end"
    assert bed.trouble == "the allocation is about to end"


def test_nothing_is_started_when_the_allocation_has_ended() -> None:
    bed = Bed(numbered(3), ends_at=-1.0)
    bed.run()
    assert bed.world.chunks == []
    assert set(bed.statuses.values()) == {"not_started"}


# Cancelling, and an executor that is lost.


def test_cancelled_pool() -> None:
    bed = Bed(numbered(9), slots=2)

    def seen_by_the_executor() -> None:
        bed.world.begin("t2")
        bed.world.end("t1", status="cancelled", elapsed=SHORT)
        bed.world.end("t3", status="cancelled", worker="", host="")

    bed.world.on_cancel = seen_by_the_executor

    def script(world: World) -> Script:
        world.begin("t0")
        yield from ()
        bed.cancel()
        yield

    results = bed.run(script)
    assert list(results) == [f"t{number}" for number in range(9)]
    cancelled = dict.fromkeys(("t0", "t1", "t2"), "cancelled")
    others = dict.fromkeys(("t3", "t4", "t5", "t6", "t7", "t8"), "not_started")
    assert bed.statuses == cancelled | others
    assert {name: bed.world.ended_by_worker(name) for name in cancelled} == {
        name: ["cancelled"] for name in cancelled
    }
    assert [bed.record(name).attempts for name in ("t0", "t1", "t2", "t3")] == [1, 1, 1, 0]
    assert str(results["t0"]) == "task t0 failed: cancelled"
    assert bed.trouble == "cancelled"


def test_task_that_ended_while_it_was_cancelled_has_ended() -> None:
    bed = Bed(numbered(1))
    bed.world.on_cancel = lambda: bed.world.end("t0")

    def script(world: World) -> Script:
        bed.cancel()
        yield

    assert bed.run(script) == {"t0": "done"}


def test_cancelling_does_not_wait_for_the_next_launch() -> None:
    bed = Bed(numbered(3), Policy(launch_interval=1000.0))

    def script(world: World) -> Script:
        bed.cancel()
        yield

    bed.run(script)
    assert bed.world.now == EPOCH
    assert set(bed.statuses.values()) == {"not_started"}


def test_cancelling_twice_is_cancelling() -> None:
    bed = Bed(numbered(1))
    calls = []
    bed.world.on_cancel = lambda: calls.append("cancel")

    def script(world: World) -> Script:
        bed.cancel()
        bed.cancel()
        yield

    bed.run(script)
    assert calls == ["cancel"]


def test_lost_executor_costs_only_what_runs() -> None:
    bed = Bed(numbered(6), Policy(retries=9), slots=2)

    def script(world: World) -> Script:
        world.begin("t0")
        world.end("t1")
        yield
        world.break_down()
        yield

    results = bed.run(script)
    assert results["t1"] == "done"
    assert str(results["t0"]) == "task t0 failed: the cluster is lost"
    assert bed.statuses == {"t1": "finished", "t0": "lost"} | dict.fromkeys(
        ("t2", "t3", "t4", "t5"), "not_started"
    )
    assert not bed.world.cancelled  # there is nothing to cancel
    assert bed.trouble == "the cluster is lost"


def test_trouble_of_the_executor_s_end_costs_no_result() -> None:
    bed = Bed(numbered(1))
    bed.world.trouble = "tearing down failed"
    assert bed.run() == {"t0": "done"}
    assert bed.trouble == "tearing down failed"


def test_dispatcher_that_breaks_ends_what_runs_and_says_so() -> None:
    bed = Bed(numbered(3))

    def broken_report(*args: Any) -> None:
        raise RuntimeError("no more room")

    bed.world.started = broken_report  # type: ignore[method-assign]

    def script(world: World) -> Script:
        world.end("t0")
        yield

    with pytest.raises(RuntimeError, match="no more room"):
        bed.run(script)
    assert bed.world.cancelled
    assert bed.trouble == "RuntimeError: no more room"


def test_results_survive_a_report_that_breaks() -> None:
    bed = Bed(numbered(1))

    def broken_flush() -> None:
        if bed.world.told:
            raise RuntimeError("no more room")

    bed.world.flush = broken_flush  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="no more room"):
        bed.run()
    assert bed.results.values() == {"t0": "done"}
    assert bed.trouble == "RuntimeError: no more room"


# Iterables of tasks, and resuming.


def test_iterable_is_asked_when_there_is_room() -> None:
    asked = []

    def tasks() -> Iterator[Task]:
        for number in range(50):
            asked.append(number)
            yield from tasks_of(f"t{number}")

    bed = Bed(tasks_of("first"), batches=[Batch(tasks())], slots=2)

    def script(world: World) -> Script:
        assert world.on_way == ["first", "t0", "t1", "t2"]
        assert len(asked) == 3
        yield from ()

    assert list(bed.run(script)) == ["first", *(f"t{number}" for number in range(50))]


def test_iterable_that_raises_costs_the_tasks_to_come_only() -> None:
    def tasks() -> Iterator[Task]:
        yield from numbered(2)
        raise OSError("no such list")

    bed = Bed(tasks_of("first"), batches=[Batch(tasks())])
    with pytest.raises(TaskPoolError, match="its tasks ended early: OSError: no such list"):
        bed.run()
    assert bed.results.values() == dict.fromkeys(("first", "t0", "t1"), "done")
    assert bed.trouble == "its tasks ended early: OSError: no such list"


def test_results_that_are_not_to_be_kept_go_to_the_report_and_to_iterators() -> None:
    bed = Bed(tasks_of("kept"), batches=[Batch(numbered(3), keep=False)])
    follower = bed.results.follow()
    bed.results.put([])

    def script(world: World) -> Script:
        world.end("kept")
        yield
        seen.append(next(follower).name)
        world.end("t0")
        yield

    seen: list[str] = []
    assert bed.run(script) == {"kept": "done"}
    assert [*seen, *(record.name for record in follower)] == ["kept", "t0", "t1", "t2"]
    assert "t0" not in bed.results
    assert (len(bed.world.recorded_tasks), bed.results.count) == (4, 4)


def test_slow_iterator_holds_up_what_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_module, "_CROWD", 10)
    bed = Bed(tasks_of("first"), batches=[Batch(numbered(100), keep=False)], slots=2)
    follower = bed.results.follow()

    def script(world: World) -> Script:
        world.end("first")
        yield
        assert next(follower).name == "first"
        while world.on_way:
            world.end(*world.on_way)
            yield
        assert 10 <= bed.results.count <= 10 + 2 * 4  # what was on its way may come
        count = bed.results.count
        for _ in range(count - 5):
            next(follower)
        yield
        assert world.on_way, "there is room again"
        while world.on_way:
            world.end(*world.on_way)
            yield
        assert bed.results.count < 101
        follower.close()
        yield

    bed.run(script)
    assert bed.results.count == 101


def test_cancelling_waits_for_no_iterator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_module, "_CROWD", 10)
    bed = Bed(tasks_of("first"), batches=[Batch(numbered(100), keep=False)], slots=10)
    follower = bed.results.follow()

    def script(world: World) -> Script:
        world.end("first")
        yield
        assert next(follower).name == "first"
        world.end(*world.on_way[:15])
        yield
        assert bed.results.crowded
        world.give_back(*world.on_way[-3:])
        world.post(lambda: ())
        yield
        bed.cancel()
        yield

    bed.run(script)
    assert bed.results.crowded, "nobody has read"
    assert Counter(bed.statuses.values())["not_started"] >= 3


def test_what_an_earlier_run_has_finished_is_not_run_again() -> None:
    found = TaskRecord("t1", "finished", 0, "as before", attempts=1)
    bed = Bed(
        numbered(3),
        batches=[Batch(tasks_of("t1"), keep=False)],
        find_finished=lambda task: (f"work of {task.name}", found if task.name == "t1" else None),
    )

    def script(world: World) -> Script:
        assert {each.work for each in world._attempts.values()} == {"work of t0", "work of t2"}
        world.end("t0", status="cancelled")
        yield
        assert {each.work for each in world._attempts.values()} == {"work of t0", "work of t2"}

    assert bed.run(script) == {"t0": "done", "t1": "as before", "t2": "done"}
    assert set(bed.world.submitted) == {"t0", "t2"}
    assert [record.name for record in bed.world.recorded_tasks].count("t1") == 2
    assert bed.world.ended_by_worker("t1") == []
    assert bed.world.works == {
        "t0": ("work of t0", False),
        "t1": ("work of t1", True),
        "t2": ("work of t2", False),
    }


# Whatever happens, in whatever order.

ENDS = ("finished", "failed", "timed_out", "cancelled", "result_lost", "unreadable")


class Chance:
    """A script that does what it is told by chance, as an executor may."""

    def __init__(self, bed: Bed, data: Any, steps: int, may_stop: bool) -> None:
        self.bed, self.data, self.steps = bed, data, steps
        self.begun: set[str] = set()  # keys
        self.actions = ["begin", "end", "end", "end", "lose", "give_back", "stale"]
        if may_stop:
            self.actions += ["cancel", "break_down"]
        self.stale: list[str] = []
        self.stopped = False
        bed.world.on_cancel = self.when_cancelled

    def script(self, world: World) -> Script:
        for _ in range(self.steps):
            if self.stopped:
                return
            for _ in range(self.data.draw(st.integers(1, 4), label="news at once")):
                if world.on_way and not self.stopped:
                    self.act(world, self.data.draw(st.sampled_from(self.actions), label="action"))
            world.post(lambda: ())
            yield

    def act(self, world: World, action: str) -> None:
        name = self.data.draw(st.sampled_from(world.on_way), label="task")
        key = world.key(name)
        if action == "begin":
            world.begin(name)
            self.begun.add(key)
        elif action == "end":
            self.end(world, name, self.data.draw(st.sampled_from(ENDS), label="how"))
        elif action == "lose":
            self.stale.append(key)
            world.lose(name)
        elif action == "give_back":
            unbegun = [each for each in world.on_way if world.key(each) not in self.begun]
            alone = self.data.draw(st.booleans(), label="alone")
            world.give_back(*unbegun[: self.data.draw(st.integers(1, 5))], alone=alone)
        elif action == "stale" and self.stale:
            old = self.data.draw(st.sampled_from(self.stale), label="old key")
            world.post(Started(old, world.first_part()))
            world.post(Ended(old, world.record("failed")))
            world.post(AttemptLost(old, "its worker was lost"))
            world.post(Requeued((old,)))
        elif action in ("cancel", "break_down"):
            self.stopped = True
            getattr(self.bed if action == "cancel" else world, action)()

    def end(self, world: World, name: str, how: str) -> None:
        self.stale.append(world.key(name))
        if how == "unreadable":
            failed = {"status": "failed", "exit_status": 1, "error": "it cannot be read"}
            world.post(Ended(world.leave(name), failed))
        elif how == "result_lost":
            lost = {"status": "result_lost", "exit_status": None, "error": "it was lost"}
            world.post(Ended(world.leave(name), lost))
        elif how == "cancelled" and world.key(name) not in self.begun:
            world.end(name, status=how, worker="", host="")
        else:
            world.end(name, status=how, elapsed=SHORT)

    def when_cancelled(self) -> None:
        for name in self.bed.world.on_way:
            how = self.data.draw(st.sampled_from(["nothing", "begun", *ENDS]), label="cancelled")
            if how == "begun":
                self.bed.world.begin(name)
            elif how != "nothing":
                self.end(self.bed.world, name, how)


@given(
    data=st.data(),
    steps=st.integers(0, 25),
    counts=st.tuples(st.integers(0, 25), st.integers(0, 12), st.integers(0, 12)),
    slots=st.integers(1, 4),
    policy=st.builds(
        Policy,
        retries=st.integers(0, 3),
        retry_failed=st.integers(0, 2),
        max_failures=st.sampled_from([None, None, 0, 3, 0.2]),
        launch_interval=st.sampled_from([0.0, 0.0, 5.0]),
    ),
    may_stop=st.booleans(),
)
def test_each_task_gets_one_record_whatever_happens(
    data: Any,
    steps: int,
    counts: tuple[int, int, int],
    slots: int,
    policy: Policy,
    may_stop: bool,
) -> None:
    tasks = numbered(counts[0]) + tasks_of("two", "three", nproc=2)
    kept = tasks_of(*(f"kept{number}" for number in range(counts[1])))
    loose = tasks_of(*(f"loose{number}" for number in range(counts[2])))
    bed = Bed(tasks, policy, batches=[Batch(kept), Batch(loose, keep=False)], slots=slots)
    results = bed.run(Chance(bed, data, steps, may_stop).script)

    names = [record.name for record in bed.world.recorded_tasks]
    assert max(Counter(names).values()) == 1
    assert {task.name for task in tasks} <= set(names)
    if not bed.trouble:
        assert len(names) == len(tasks) + len(kept) + len(loose)
    in_order = [task.name for task in [*tasks, *kept] if task.name in names]
    assert list(results) == in_order
    assert bed.results.count == len(names)
    for record in bed.world.recorded_tasks:
        told = [found for found in bed.world.told if found[1] == record.name]
        ends = [found[3] for found in told if found[0] == "ended"]
        assert [found[0] for found in told] == ["started", "ended"] * record.attempts
        assert [found[2] for found in told[::2]] == list(range(1, record.attempts + 1))
        followed = [number for name, number in bed.world.followed if name == record.name]
        may_follow = list(range(1, record.attempts + 1))
        # the last may have been to be followed by one that was not started
        assert followed in (may_follow[:-1], may_follow)
        if record.status in ("finished", "result_lost"):
            assert followed == may_follow[:-1]
        assert ends.count("lost") <= policy.retries + 1
        assert sum(ends.count(status) for status in ("failed", "timed_out")) <= (
            policy.retry_failed + 1
        )
        assert "finished" not in ends[:-1]
        assert "result_lost" not in ends[:-1]
        if record.status == "finished":
            assert ends[-1] == "finished"
    assert bed.dispatcher._in_flight.load == 0
    assert not bed.dispatcher._in_flight
