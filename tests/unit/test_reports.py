"""Telling what happens to a cluster: each thing once, whatever the caller's functions do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from ips_dask_cluster.errors import StepError
from ips_dask_cluster.reports import TOPIC, Reports
from ips_dask_cluster.slurm.allocation import Allocation
from ips_dask_cluster.steps.failures import Loss

WORKER = Loss("n1", "c-0", -9, "why", True)
NODE = Loss("n2", reason="why")
ERROR = StepError("worker", "n1", 1, "why", "", "/log")


class Told:
    """What the caller's functions and Dask's clients were told, in order."""

    def __init__(self) -> None:
        self.all: list[tuple[str, Any]] = []

    def by(self, what: str) -> Callable[[Any], None]:
        return lambda value: self.all.append((what, value))

    def reports(self, **callbacks: Callable[[Any], None] | None) -> Reports:
        names = ("loss", "failure", "walltime")
        return Reports({name: self.by(name) for name in names} | callbacks, self.by("send"))


@pytest.fixture
def told() -> Told:
    return Told()


def test_topic_is_the_documented_one() -> None:
    assert TOPIC == "ips-dask-cluster"


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(record.levelno, record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize(("loss", "level"), [(WORKER, logging.WARNING), (NODE, logging.ERROR)])
def test_loss_is_logged_and_told(
    told: Told, caplog: pytest.LogCaptureFixture, loss: Loss, level: int
) -> None:
    reports = told.reports()
    reports.loss(loss)
    event = {
        "event": "loss",
        "node": loss.node,
        "worker": loss.worker,
        "exit_code": loss.exit_code,
        "reason": "why",
        "restarted": loss.restarted,
    }
    assert told.all == [("loss", loss), ("send", event)]
    assert logged(caplog) == [(level, str(loss))]
    assert reports.losses == [loss]


def test_first_failure_counts_and_is_told_once(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    reports = told.reports()
    assert reports.failure is None
    reports.fail(ERROR, aloud=True)
    reports.fail(StepError("scheduler", "n1", 2, "later", "", ""), aloud=True)
    assert reports.failure is ERROR
    assert told.all == [("failure", ERROR)]
    assert logged(caplog) == [(logging.ERROR, str(ERROR))]


def test_failure_that_is_raised_is_not_told_besides(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    reports = told.reports()
    reports.fail(ERROR, aloud=False)
    assert (reports.failure, told.all, logged(caplog)) == (ERROR, [], [])


def test_nobody_need_listen(told: Told) -> None:
    reports = told.reports(loss=None, failure=None)
    reports.loss(WORKER)
    reports.fail(ERROR, aloud=True)
    assert [what for what, _ in told.all] == ["send"]


def test_what_a_callback_raises_is_logged_and_the_rest_goes_on(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(value: Any) -> None:
        raise ZeroDivisionError(value)

    reports = told.reports(loss=refuse, failure=refuse)
    reports.loss(WORKER)
    reports.fail(ERROR, aloud=True)
    assert [what for what, _ in told.all] == ["send"]
    raised = [(r.getMessage(), r.exc_info[0]) for r in caplog.records if r.exc_info]
    assert raised == [
        ("on_loss raised", ZeroDivisionError),
        ("on_failure raised", ZeroDivisionError),
    ]


@pytest.mark.parametrize(
    ("losses", "failed", "wrong"),
    [
        ([], False, False),
        ([WORKER], False, False),
        ([NODE], False, True),
        ([WORKER, NODE], False, True),
        ([], True, True),
    ],
)
def test_logs_are_kept_when_a_node_or_all_is_lost(
    told: Told, losses: list[Loss], failed: bool, wrong: bool
) -> None:
    reports = told.reports()
    for loss in losses:
        reports.loss(loss)
    if failed:
        reports.fail(ERROR, aloud=False)
    assert reports.went_wrong is wrong


# The end of the allocation.


def test_end_is_logged_and_told(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    told.reports().walltime(Allocation("17", ()), 119.6)
    assert told.all == [("walltime", 119.6), ("send", {"event": "walltime", "seconds": 119.6})]
    assert logged(caplog) == [(logging.WARNING, "Slurm job 17 ends in 120 s")]
