"""The end of an allocation is announced before it, also when it is moved."""

from __future__ import annotations

import asyncio
import datetime
import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ips_dask_cluster import end_watch
from ips_dask_cluster.slurm import allocation
from ips_dask_cluster.slurm.allocation import Allocation
from ips_dask_cluster.slurm.commands import JobTimes

EPOCH = 1_800_000_000.0


class World:
    """A clock, a Slurm whose limits change, and what is announced until the time is over.

    Parameters
    ----------
    limits : dict
        From which second on the job ends when, both from the start; an end may be None, and a
        text means that Slurm does not answer.
    """

    def __init__(self, limits: dict[float, float | str | None], job_id: str | None = "17") -> None:
        self.now = 0.0
        self.limits = limits
        self.looks: list[float] = []
        self.moved: list[float | None] = []
        self.near: list[tuple[float, float]] = []
        self.allocation = Allocation(job_id, (), self.end())

    def end(self) -> datetime.datetime | None:
        limit = next(
            self.limits[since] for since in sorted(self.limits, reverse=True) if since <= self.now
        )
        if limit is None:
            return None
        assert isinstance(limit, (int, float)), "no answer"
        return datetime.datetime.fromtimestamp(EPOCH + limit)

    async def look(self, job_id: str) -> JobTimes | None:
        assert job_id == "17"
        self.looks.append(self.now)
        try:
            return JobTimes(self.end())
        except AssertionError:
            return None

    def note(self, found: Allocation) -> None:
        end = found.end_time
        self.moved.append(None if end is None else end.timestamp() - EPOCH)
        assert found == replace(self.allocation, end_time=end)

    def watch(self, margin: float, until: float) -> None:
        async def sleep(seconds: float) -> None:
            assert seconds > 0
            self.now += seconds
            if self.now > until:
                raise asyncio.CancelledError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(end_watch, "asyncio", SimpleNamespace(sleep=sleep))
            patch.setattr(allocation, "time", SimpleNamespace(time=lambda: EPOCH + self.now))
            watching: Any = end_watch.watch_end(
                self.allocation,
                margin,
                self.look,
                self.note,
                lambda found, left: self.near.append((self.now, left)),
            )
            with pytest.raises(asyncio.CancelledError):
                asyncio.run(watching)


def test_end_is_announced_once_at_its_margin() -> None:
    world = World({0: 3000})
    world.watch(120, until=3600)
    assert world.near == [(2880, 120)]
    assert world.moved == []


def test_margin_that_has_passed_at_the_start_is_announced_at_once() -> None:
    world = World({0: 60})
    world.watch(120, until=600)
    assert world.near == [(0, 60)]


def test_end_that_has_passed_leaves_nothing() -> None:
    world = World({0: -60})
    world.watch(120, until=600)
    assert world.near == [(0, 0)]


def test_slurm_is_asked_once_a_minute_and_before_the_announcement() -> None:
    world = World({0: 1000})
    world.watch(125, until=1000)
    assert 875 in world.looks
    gaps = [later - earlier for earlier, later in itertools.pairwise([0, *world.looks])]
    assert [gap for gap in gaps if gap < 60] == [875 % 60]


def test_limit_that_is_lowered_is_announced_in_time() -> None:
    world = World({0: 36_000, 1000: 2000})
    world.watch(120, until=3000)
    assert world.near == [(1880, 120)]
    assert world.moved == [2000]


def test_limit_that_is_lowered_below_the_margin_is_announced_within_a_minute() -> None:
    world = World({0: 36_000, 1000: 1100})
    world.watch(120, until=3000)
    ((now, left),) = world.near
    assert now <= 1060
    assert left == 1100 - now


def test_limit_that_is_raised_just_before_the_margin_is_not_announced_too_early() -> None:
    world = World({0: 3000, 2879: 6000})
    world.watch(120, until=7000)
    assert world.near == [(5880, 120)]
    assert world.moved == [6000]


def test_limit_that_is_raised_after_the_announcement_is_announced_again() -> None:
    world = World({0: 3000, 2900: 6000})
    world.watch(120, until=7000)
    assert world.near == [(2880, 120), (5880, 120)]


def test_limit_that_is_taken_away_is_not_announced() -> None:
    world = World({0: 3000, 1000: None})
    world.watch(120, until=7000)
    assert (world.near, world.moved) == ([], [None])


def test_limit_that_a_job_gets_later_is_announced() -> None:
    world = World({0: None, 1000: 3000})
    world.watch(120, until=7000)
    assert world.near == [(2880, 120)]


def test_without_an_answer_the_end_that_was_known_counts() -> None:
    world = World({0: 3000, 1000: "no answer"})
    world.watch(120, until=7000)
    assert (world.near, world.moved) == ([(2880, 120)], [])


def test_without_a_job_slurm_is_not_asked() -> None:
    world = World({0: 3000}, job_id=None)
    world.watch(120, until=3600)
    assert (world.near, world.looks) == ([(2880, 120)], [])


def test_without_a_job_and_an_end_there_is_nothing_to_watch() -> None:
    found = Allocation(None, ())
    told: list[Any] = []
    world = World({0: 1})

    def near(found: Allocation, left: float) -> None:
        told.append(left)

    watching: Any = end_watch.watch_end(found, 120, world.look, told.append, near)
    asyncio.run(watching)
    assert told == []
