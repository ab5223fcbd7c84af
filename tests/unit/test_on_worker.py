"""What one Dask task does on a worker: the tasks it brings, and when it tells of them."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest

from ips_core.pools.dask import on_worker
from ips_core.pools.dask.on_worker import Chunk
from ips_core.tasks.runner import Journal


def unpacked(event: dict[str, Any]) -> dict[str, Any]:
    """The news of an event, in which Dask must find nothing to look into."""
    assert {key: type(value) for key, value in event.items()} == {"run": str, "news": bytes}
    assert event["run"] == "run"
    return pickle.loads(event["news"])


class Worker:
    """A worker with its loop, its scheduler, its runner and its clock, all in one thread."""

    def __init__(self, directory: Path) -> None:
        self.now = 100.0
        self.events: list[dict[str, Any]] = []
        self.at: list[float] = []  # when each event was told
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.asked: list[dict[str, Any]] = []
        self.answer: Any = True
        self.ran: list[str] = []
        self.loop = SimpleNamespace(
            add_callback=lambda function, *args: function(*args),
            call_later=lambda seconds, function: self.timers.append((self.now + seconds, function)),
        )
        self.scheduler = SimpleNamespace(ips_begin_task=self.begin_task)
        self.runner = SimpleNamespace(run=self.run)
        self.worker = self
        self.journal = Journal(str(directory), "w-0")
        self.directory = directory

    async def begin_task(self, **call: Any) -> bool:
        self.asked.append(call | {"news": call["news"] and unpacked(call["news"])})
        if isinstance(self.answer, Exception):
            raise self.answer
        return bool(self.answer)

    def log_event(self, topic: str, event: dict[str, Any]) -> None:
        assert topic == "topic"
        self.events.append(unpacked(event))
        self.at.append(self.now - 100)

    def run(self, payload: dict[str, Any], begin: Callable[..., Any]) -> dict[str, Any]:
        first = {"name": payload["name"], "start_time": self.now}
        if begin(dict(first)) is False:
            return first | {"status": "cancelled"}
        self.ran.append(payload["name"])
        end = self.now + payload.get("seconds", 0.0)
        for timer in [timer for timer in self.timers if timer[0] <= end]:
            self.timers.remove(timer)
            self.now = timer[0]
            timer[1]()
        self.now = end
        return first | {"status": "finished", "value": payload.get("value")}

    def work_off(self, *payloads: dict[str, Any]) -> None:
        items = [(f"k-{payload['name']}", payload) for payload in payloads]
        Chunk(self, "a x 3-k", "topic", "run").work_off(cloudpickle.dumps(items))  # type: ignore[arg-type]

    def told(self, kind: str) -> list[list[str]]:
        """The keys that each event of a kind tells of."""
        of_one = {
            "begun": lambda item: item[0],
            "ended": lambda item: item["key"],
            "given_back": lambda item: item,
        }[kind]
        return [[of_one(item) for item in event[kind]] for event in self.events if event.get(kind)]

    def records(self) -> dict[str, dict[str, Any]]:
        items = [item for event in self.events for item in event.get("ended", ())]
        return {item["key"]: cloudpickle.loads(item["record"]) for item in items}

    def noted(self) -> list[tuple[str, str]]:
        (path,) = self.directory.glob("*.journal")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [("begun" if "begun" in line else "ended", line["key"]) for line in lines]


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    found = Worker(tmp_path)
    monkeypatch.setattr(on_worker, "time", SimpleNamespace(monotonic=lambda: found.now))
    monkeypatch.setattr(on_worker, "sync", lambda loop, function: asyncio.run(function()))
    return found


def task(name: str, seconds: float = 0.0, **more: Any) -> dict[str, Any]:
    return {"pool": "run", "name": name, "seconds": seconds, **more}


def test_one_task_tells_of_its_start_with_its_question(worker: Worker) -> None:
    worker.work_off(task("a", 3600, value=5))
    (asked,) = worker.asked
    ((key, record),) = asked["news"].pop("begun")
    assert asked == {"key": "a x 3-k", "topic": "topic", "news": {}}
    assert (key, pickle.loads(record)) == ("k-a", {"name": "a", "start_time": 100.0})
    assert worker.records() == {
        "k-a": {"name": "a", "start_time": 100.0, "status": "finished", "value": 5}
    }
    assert worker.noted() == [("begun", "k-a"), ("ended", "k-a")]
    assert worker.timers == []
    assert len(worker.events) == 1


def test_short_tasks_run_in_order_and_are_told_of_together(worker: Worker) -> None:
    worker.work_off(task("a", 0.01), task("b", 0.01), task("c", 0.01))
    assert worker.ran == ["a", "b", "c"]
    assert [call["news"] for call in worker.asked] == [{}]  # asked once, for all
    assert worker.told("ended") == [["k-a", "k-b", "k-c"]]
    assert worker.noted() == [(what, f"k-{name}") for name in "abc" for what in ("begun", "ended")]
    (late,) = worker.timers
    late[1]()  # all is over, so that there is nothing to tell
    assert len(worker.events) == 1


def test_ends_are_told_every_quarter_of_a_second(worker: Worker) -> None:
    worker.work_off(*(task(str(number), 0.1) for number in range(8)))
    assert worker.told("ended") == [["k-0", "k-1", "k-2"], ["k-3", "k-4", "k-5"], ["k-6", "k-7"]]
    assert worker.at == pytest.approx([0.3, 0.6, 0.8])


def test_what_waits_behind_a_long_task_is_given_back_and_what_has_ended_is_told(
    worker: Worker,
) -> None:
    worker.work_off(task("a", 0.01), task("b", 3600), task("c"), task("d"))
    assert worker.ran == ["a", "b"]
    assert worker.told("begun") == [["k-b"]]
    assert worker.told("given_back") == [["k-c", "k-d"]]
    assert worker.told("ended") == [["k-a"], ["k-b"]]
    assert worker.at[:-1] == [2.0] * (len(worker.at) - 1)  # nothing waits for the long one


def test_task_that_had_begun_elsewhere_is_not_run_nor_given_back(worker: Worker) -> None:
    worker.answer = False
    worker.work_off(task("a"), task("b"))
    for _, timer in worker.timers:
        timer()
    assert (worker.ran, worker.events, len(worker.asked)) == ([], [], 1)
    assert worker.noted() == []


def test_task_does_not_begin_when_nobody_can_be_asked(worker: Worker) -> None:
    worker.answer = OSError("no scheduler")
    worker.work_off(task("a"), task("b"))
    assert (worker.ran, worker.events) == ([], [])


def test_tasks_that_cannot_be_read_are_told(worker: Worker) -> None:
    Chunk(worker, "a-k", "topic", "run").work_off(b"no pickle")  # type: ignore[arg-type]
    (event,) = worker.events
    assert event["unreadable"] == "a-k"
    assert event["error"].startswith("UnpicklingError: ")
    assert worker.asked == []


def test_result_that_cannot_be_pickled_is_a_failure_of_its_task(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = worker.run

    def odd(payload: dict[str, Any], begin: Callable[..., Any]) -> dict[str, Any]:
        value = threading.Lock() if payload["name"] == "a" else 5
        return run(payload, begin) | {"value": value}

    worker.runner.run = odd
    worker.work_off(task("a"), task("b"))
    records = worker.records()
    failed = records["k-a"]
    assert (failed["status"], failed["exit_status"], failed["value"]) == ("failed", 1, None)
    assert failed["error"].startswith("its result cannot be pickled: ")
    assert "Traceback" in failed["traceback"]
    assert failed["name"] == "a"
    assert records["k-b"]["value"] == 5


def test_long_record_is_told_as_a_file(worker: Worker) -> None:
    worker.work_off(task("a", value="x" * 5000))
    ((ended,),) = (event["ended"] for event in worker.events)
    record = cloudpickle.loads((worker.directory / ended["file"]).read_bytes())
    assert (ended["key"], record["value"]) == ("k-a", "x" * 5000)
