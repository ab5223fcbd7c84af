"""When tasks have to have ended: what was known at the start, and what Slurm says later."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ips_core.resources import allocation_end
from ips_core.resources.allocation_end import AllocationEnd, JobEnd
from ips_dask_cluster.errors import SlurmCommandError
from ips_dask_cluster.slurm.commands import JobTimes

KNOWN = JobEnd("17", 900.0, margin=100.0)


def ends(seconds: float | None) -> JobTimes:
    return JobTimes(None if seconds is None else datetime.datetime.fromtimestamp(seconds))


class Slurm:
    """Answers in turn, the last one for ever; counts the questions."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked = 0

    def job_end(self, job_id: str, seconds: float) -> JobTimes | None:
        assert job_id == "17"
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        found: JobTimes | None = answer
        return found


BUSY = SlurmCommandError("squeue", "no answer")


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., AllocationEnd]]:
    """``follow(slurm, known=..., seconds=..., moved=...)``: one that is closed in the end."""
    monkeypatch.setattr(allocation_end, "_latest", {})
    begun = []

    def follow(
        slurm: Slurm,
        known: JobEnd = KNOWN,
        seconds: float = 60.0,
        moved: Callable[[], object] = lambda: None,
    ) -> AllocationEnd:
        monkeypatch.setattr(allocation_end.commands, "job_end", slurm.job_end)
        monkeypatch.setattr(allocation_end, "_SECONDS_BETWEEN_LOOKS", seconds)
        end = AllocationEnd(known)
        begun.append(end)
        end.follow(moved)
        return end

    yield follow
    for end in begun:
        end.close()
    for thread in threading.enumerate():
        if thread.name == "allocation-end":
            thread.join(10)


def test_what_is_known_counts_until_it_is_followed() -> None:
    assert AllocationEnd(KNOWN).ends_at == 900
    assert AllocationEnd(JobEnd()).ends_at is None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(ends(5000), 4900.0), (ends(500), 400.0), (ends(None), None), (None, 900.0), (BUSY, 900.0)],
    ids=["later", "earlier", "without a limit", "unknown", "busy"],
)
def test_slurm_is_asked_at_once(
    follow: Callable[..., AllocationEnd], answer: Any, expected: float | None
) -> None:
    assert follow(Slurm(answer)).ends_at == expected


def test_without_a_job_nothing_is_asked(follow: Callable[..., AllocationEnd]) -> None:
    slurm = Slurm(ends(5000))
    assert follow(slurm, known=JobEnd(None, 900.0)).ends_at == 900
    assert slurm.asked == 0


def test_several_in_one_process_ask_once_a_minute(follow: Callable[..., AllocationEnd]) -> None:
    slurm = Slurm(ends(5000), ends(6000))
    assert [follow(slurm).ends_at for _ in range(5)] == [4900] * 5
    assert slurm.asked == 1


def test_slurm_that_does_not_answer_is_not_asked_again_at_once(
    follow: Callable[..., AllocationEnd],
) -> None:
    slurm = Slurm(BUSY)
    assert [follow(slurm).ends_at for _ in range(3)] == [900] * 3
    assert slurm.asked == 1


def test_change_is_noticed_and_told(follow: Callable[..., AllocationEnd], wait_until: Any) -> None:
    told = threading.Event()
    end = follow(Slurm(ends(5000), BUSY, ends(5000), ends(6000)), seconds=0.01, moved=told.set)
    wait_until(told.is_set, 10, "the change is told")
    assert end.ends_at == 5900


def test_closed_one_looks_no_more(follow: Callable[..., AllocationEnd], wait_until: Any) -> None:
    slurm = Slurm(ends(5000))
    end = follow(slurm, seconds=0.01)
    wait_until(lambda: slurm.asked > 2, 10, "it looks")
    end.close()
    wait_until(
        lambda: "allocation-end" not in [thread.name for thread in threading.enumerate()],
        10,
        "its thread ends",
    )
