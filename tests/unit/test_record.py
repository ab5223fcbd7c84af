"""What became of a task, as a value."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from ips_core.errors import TaskError
from ips_core.tasks.record import TaskRecord

STATUSES = (
    *("finished", "failed", "timed_out", "cancelled", "lost", "result_lost", "not_started"),
)


@pytest.mark.parametrize("status", STATUSES)
def test_only_what_has_finished_is_right(status: str) -> None:
    assert TaskRecord("t", status).ok is (status == "finished")


@pytest.mark.parametrize("exit_status", [0, 3, -9, -1, 127])
def test_result_of_a_program_is_its_exit_code(exit_status: int) -> None:
    status = "failed" if exit_status else "finished"
    assert TaskRecord("t", status, exit_status, is_program=True).result == exit_status


@pytest.mark.parametrize("value", [None, 0, [1], TaskError("inner", "no")])
def test_result_of_a_callable_is_what_it_returned(value: Any) -> None:
    assert TaskRecord("t", "finished", 0, value).result is value


@pytest.mark.parametrize(
    "record",
    [
        TaskRecord("t", "failed", 1, error="ValueError: no", traceback="there"),
        TaskRecord("t", "lost", None, error="ValueError: no", traceback="there"),
        TaskRecord("t", "lost", error="ValueError: no", traceback="there", is_program=True),
    ],
)
def test_result_of_what_has_no_other_names_task_and_reason(record: TaskRecord) -> None:
    assert isinstance(record.result, TaskError)
    assert record.result.args == ("t", "ValueError: no", "there")
    assert record.result != 0


def test_reason_is_the_status_where_there_is_no_other() -> None:
    assert str(TaskRecord("t", "not_started").result) == "task t failed: not_started"


def test_record_is_made_of_the_runner_s() -> None:
    found = {
        "pool": "p",
        "name": "t",
        "host": "node1",
        "worker": "w-0",
        "start_time": 5.0,
        "elapsed_time": 2.0,
        "status": "failed",
        "exit_status": 3,
        "value": None,
        "error": "exit code 3",
        "traceback": "",
        "output": "no",
        "slots": 2,
        "work": "digest",
    }
    record = TaskRecord.of(found, attempts=2, is_program=True, slots=4)
    assert record == TaskRecord(
        name="t",
        status="failed",
        exit_status=3,
        error="exit code 3",
        output="no",
        host="node1",
        worker="w-0",
        attempts=2,
        start_time=5.0,
        elapsed_time=2.0,
        slots=4,
        is_program=True,
    )
    assert pickle.loads(pickle.dumps(record)) == record
