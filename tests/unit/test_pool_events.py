"""What the simulation log, and the log file, are told of task pools."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from ips_core.log.events import span_id
from ips_core.pools.pool_events import RunEvents
from ips_core.tasks.record import TaskRecord
from ips_core.tasks.task import Task

FIRST = {"host": "node1", "worker": "w-0", "start_time": 1010.0}


class Link:
    """Takes events, together as they were sent."""

    def __init__(self) -> None:
        self.sent: list[list[dict[str, Any]]] = []

    def emit_all(self, events: list[dict[str, Any]]) -> None:
        self.sent.append(events)

    def last(self) -> dict[str, Any]:
        """The event that was sent last, which came alone."""
        (event,) = self.sent[-1]
        return event


@pytest.fixture
def link() -> Link:
    return Link()


@pytest.fixture
def events(link: Link) -> RunEvents:
    start = SimpleNamespace(name="DRIVERS__D_1", start_time=1000.0)
    logger = logging.getLogger("test_pool_events")
    return RunEvents(start, link, logger, "pool", "parent")  # type: ignore[arg-type]


@pytest.fixture
def task() -> Task:
    return Task("t", 1, "/", "/bin/sh", "-c", "exit 3")


def record(status: str = "finished", **more: Any) -> dict[str, Any]:
    return {
        **FIRST,
        "status": status,
        "exit_status": 0,
        "elapsed_time": 2.5,
        "error": "",
        "traceback": "",
        "output": "",
        **more,
    }


def part(event: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: event[name] for name in names}


def test_pool_begins(events: RunEvents, link: Link) -> None:
    events.pool_began()
    assert part(link.last(), "code", "eventtype", "ok", "comment") == {
        "code": "DRIVERS__D_1",
        "eventtype": "IPS_TASK_POOL_BEGIN",
        "ok": True,
        "comment": "task_pool = pool ",
    }


def test_start_of_an_attempt(events: RunEvents, link: Link, task: Task) -> None:
    events.started(task, 2, FIRST)
    assert link.sent == []
    events.flush()
    event = link.last()
    assert event["eventtype"] == "IPS_LAUNCH_DASK_TASK"
    assert event["comment"] == "task_name = t, Target = /bin/sh -c exit 3"
    assert part(event, "task_name", "attempt", *FIRST) == {"task_name": "t", "attempt": 2, **FIRST}
    assert event["walltime"] == "10.00"


def test_end_of_an_attempt(events: RunEvents, link: Link, task: Task) -> None:
    events.ended(task, 2, record(), again=False)
    events.flush()
    event = link.last()
    assert (event["eventtype"], event["ok"]) == ("IPS_TASK_END", True)
    assert event["comment"] == "task_name = t, elapsed time = 2.50s"
    assert event["walltime"] == "12.50"
    assert event["trace"] == {
        "timestamp": 1_010_000_000,
        "duration": 2_500_000,
        "localEndpoint": {"serviceName": "w-0"},
        "name": "/bin/sh -c exit 3",
        "id": span_id("/bin/sh -c exit 3", "t", 1010.0),
        "parentId": "parent",
    }
    assert part(event, "status", "exit_status", "elapsed_time", "attempt", *FIRST) == {
        "status": "finished",
        "exit_status": 0,
        "elapsed_time": 2.5,
        "attempt": 2,
        **FIRST,
    }
    assert not {"error", "output"} & event.keys()


def test_failure_tells_why_and_what_was_written(
    events: RunEvents, link: Link, task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    events.ended(
        task, 1, record("failed", exit_status=3, error="exit code 3", output="no\n"), again=False
    )
    events.ended(
        task, 2, record("failed", error="ValueError: no", traceback="Trace\nback\n"), again=False
    )
    events.flush()
    first, second = link.sent[-1]
    assert part(first, "ok", "status", "exit_status", "error", "output") == {
        "ok": False,
        "status": "failed",
        "exit_status": 3,
        "error": "exit code 3",
        "output": "no\n",
    }
    assert (second["error"], "output" in second) == ("ValueError: no", False)
    assert caplog.messages == ["task t: exit code 3", "task t: Trace\nback"]


def test_time_out_has_the_words_of_ips(events: RunEvents, link: Link, task: Task) -> None:
    events.ended(
        task, 1, record("timed_out", exit_status=-1, error="timed out after 2 s"), again=False
    )
    events.flush()
    assert link.last()["comment"] == "task_name = t, timed-out after 2.50s"
    assert link.last()["ok"] is False


def test_events_are_sent_together_and_once(events: RunEvents, link: Link, task: Task) -> None:
    events.flush()
    assert link.sent == []
    events.started(task, 1, FIRST)
    events.ended(task, 1, record(), again=False)
    events.flush()
    events.flush()
    assert [[event["eventtype"] for event in sent] for sent in link.sent] == [
        ["IPS_LAUNCH_DASK_TASK", "IPS_TASK_END"]
    ]


@pytest.mark.parametrize("trouble", ["", "the cluster is lost"])
def test_pool_ends(
    events: RunEvents, link: Link, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    events.finished(trouble)
    event = link.sent[-1][-1]
    assert (event["eventtype"], event["ok"]) == ("IPS_TASK_POOL_END", not trouble)
    assert event["comment"].startswith("task_pool = pool  elapsed time = ")
    assert event["elapsed_time"] >= 0
    assert event.get("error", "") == trouble
    assert caplog.messages == ([f"pool pool: {trouble}"] if trouble else [])


class Journal:
    """Takes what a run that is resumed may use."""

    def __init__(self) -> None:
        self.noted: list[list[tuple[str, TaskRecord]]] = []
        self.error: Exception | None = None

    def ended(self, batch: list[tuple[str, TaskRecord]]) -> None:
        if self.error is not None:
            raise self.error
        self.noted.append(batch)


def test_records_are_noted_together_and_once(events: RunEvents) -> None:
    journal = Journal()
    events.journal = journal  # type: ignore[assignment]
    records = [TaskRecord(name, "finished", 0) for name in "ab"]
    events.recorded(records[0], "digest", resumed=False)
    events.recorded(records[1], "", resumed=True)
    assert journal.noted == []
    events.flush()
    events.flush()
    assert journal.noted == [[("digest", records[0]), ("", records[1])]]


def test_end_has_the_figures(
    events: RunEvents, link: Link, task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "test_pool_events")
    events.slots = 4
    events.ended(task, 1, record("lost", elapsed_time=3600.0), again=True)
    done = TaskRecord("t", "finished", 0, attempts=2, start_time=5.0, elapsed_time=1800.0)
    events.recorded(done, "", resumed=False)
    events.recorded(TaskRecord("u", "finished", 0, attempts=1), "", resumed=True)
    events.finished("")
    event = link.sent[-1][-1]
    assert part(event, "tasks", "counts", "resumed", "attempts", "core_hours_used") == {
        "tasks": 2,
        "counts": {"finished": 2},
        "resumed": 1,
        "attempts": 2,
        "core_hours_used": 1.5,
    }
    assert caplog.messages[-1].startswith("pool pool: 2 tasks, 2 finished (1 in the run before)")


def test_end_is_told_whatever_fails_before(events: RunEvents) -> None:
    """Else a cluster would be kept for a pool that is over."""
    heard: list[str] = []
    journal = Journal()
    journal.error = OSError("no space left")
    events.journal = journal  # type: ignore[assignment]
    events.recorded(TaskRecord("t", "finished", 0), "digest", resumed=False)
    events.on_finished = lambda: heard.append("finished")
    with pytest.raises(OSError, match="no space left"):
        events.finished("")
    assert heard == ["finished"]
