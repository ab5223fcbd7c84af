"""An allocation: its nodes by name, some of them, their GPUs, the time that is left."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from ips_dask_cluster.errors import ClusterError
from ips_dask_cluster.slurm.allocation import Allocation, Node, portions_of_gpus, selected

HELD = Allocation("17", (Node("n1", 128, 100, 4), Node("n2", 128, 100, 4), Node("n3", 64, 50)))


def test_allocation_finds_its_nodes_by_name_and_says_what_it_is() -> None:
    assert HELD.node("n3") == Node("n3", 64, 50)
    with pytest.raises(KeyError, match="n4"):
        HELD.node("n4")
    assert (str(HELD), str(replace(HELD, job_id=None))) == ("Slurm job 17", "this machine")


# Some of its nodes.


@pytest.mark.parametrize(
    ("nodelist", "names"),
    [
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n3,n1", ["n3", "n1"]),
        ("n3, n1", ["n3", "n1"]),
        (["n2"], ["n2"]),
        (("n3", "n2"), ["n3", "n2"]),
    ],
)
def test_selected_nodes_are_those_of_the_list_in_its_order(
    nodelist: str | list[str], names: list[str]
) -> None:
    nodes = tuple(HELD.node(name) for name in names)
    assert selected(HELD, nodelist) == replace(HELD, nodes=nodes)


@pytest.mark.parametrize(
    ("nodelist", "message"),
    [
        ("n[3-5]", "nodelist: Slurm job 17 has no node n4, n5; its nodes are n1, n2, n3"),
        (["n1", "x"], "nodelist: Slurm job 17 has no node x; its nodes are n1, n2, n3"),
        (
            "n[1-x]",
            "nodelist='n[1-x]': '1-x' is not a number or a range, such as 1-4; "
            "Slurm job 17 has 3: n1, n2, n3",
        ),
        (
            "n[3-1]",
            "nodelist='n[3-1]': the range 3-1 ends before it begins; "
            "Slurm job 17 has 3: n1, n2, n3",
        ),
        (
            "n[1-3",
            "nodelist='n[1-3': a bracket is not closed, or not opened; "
            "Slurm job 17 has 3: n1, n2, n3",
        ),
        (
            "n[1-999999999]",
            "nodelist='n[1-999999999]': it names more than 3 node(s); "
            "Slurm job 17 has 3: n1, n2, n3",
        ),
        ("n[1-2],n1", "nodelist='n[1-2],n1' names a node twice; leave it out for all nodes"),
        ("", "nodelist='' names no node; leave it out for all nodes"),
        ([], "nodelist=[] names no node; leave it out for all nodes"),
    ],
)
def test_list_of_nodes_that_makes_no_sense_is_explained(
    nodelist: str | list[str], message: str
) -> None:
    with pytest.raises(ClusterError) as caught:
        selected(HELD, nodelist)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("count", "end"), [(8, "n8"), (9, "n8 and 1 more"), (50, "n8 and 42 more")]
)
def test_only_some_of_many_nodes_are_quoted(count: int, end: str) -> None:
    held = Allocation("17", tuple(Node(f"n{number}", 1) for number in range(1, count + 1)))
    with pytest.raises(ClusterError) as caught:
        selected(held, "x")
    assert str(caught.value).endswith(f"its nodes are n1, n2, n3, n4, n5, n6, n7, {end}")


def test_long_list_of_nodes_is_quoted_in_part() -> None:
    with pytest.raises(ClusterError) as caught:
        selected(HELD, ["n1"] * 1000)
    assert len(str(caught.value)) < 150


# GPUs.


def with_gpus(*counts: int) -> Allocation:
    return Allocation("17", tuple(Node(f"n{n}", 8, gpus=g) for n, g in enumerate(counts, 1)))


@pytest.mark.parametrize(
    ("gpus", "size", "portions"), [((4, 4), 1, 4), ((4, 4), 2, 2), ((4,), 4, 1), ((1,), 1, 1)]
)
def test_gpus_of_a_node_are_shared_out(gpus: tuple[int, ...], size: int, portions: int) -> None:
    assert portions_of_gpus(with_gpus(*gpus), size) == portions


@pytest.mark.parametrize(
    ("gpus", "size", "message"),
    [
        (
            (4, 2),
            1,
            "worker_per_gpu: Slurm job 17 must hold the same number of GPUs, at least one, on "
            "each node, but it has n1: 4, n2: 2; see salloc --gpus-per-node",
        ),
        (
            (0,) * 9,
            1,
            "worker_per_gpu: Slurm job 17 must hold the same number of GPUs, at least one, on "
            "each node, but it has n1: 0, n2: 0, n3: 0, n4: 0, n5: 0, n6: 0, n7: 0, n8: 0; see "
            "salloc --gpus-per-node",
        ),
        (
            (4, 4),
            3,
            "gpus_per_worker=3: the 4 GPUs of a node of Slurm job 17 cannot be shared out 3 by 3",
        ),
        (
            (4, 4),
            8,
            "gpus_per_worker=8: the 4 GPUs of a node of Slurm job 17 cannot be shared out 8 by 8",
        ),
    ],
)
def test_gpus_that_cannot_be_shared_out_are_explained(
    gpus: tuple[int, ...], size: int, message: str
) -> None:
    with pytest.raises(ClusterError) as caught:
        portions_of_gpus(with_gpus(*gpus), size)
    assert str(caught.value) == message


# The time that is left.


def test_without_an_end_no_time_is_left_to_tell() -> None:
    assert HELD.time_left() is None


@pytest.fixture
def time_in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """``time_in_berlin(seconds)``: it is that many seconds after the epoch."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield lambda seconds: monkeypatch.setattr(time, "time", lambda: seconds)
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("end", "now", "left"),
    [
        ((2026, 3, 1, 10, 30), (2026, 3, 1, 9, 0), 1800),
        ((2026, 3, 1, 10, 30), (2026, 3, 1, 9, 31), -60),
        ((2026, 3, 29, 6, 0), (2026, 3, 29, 0, 0), 4 * 3600),  # 1:00 here, an hour is left out
        ((2026, 10, 25, 6, 0), (2026, 10, 25, 0, 0), 5 * 3600),  # 2:00 here, which comes twice
    ],
)
def test_time_that_is_left_is_right_also_when_clocks_change(
    time_in_berlin: Callable[[float], None],
    end: tuple[int, ...],
    now: tuple[int, ...],
    left: float,
) -> None:
    time_in_berlin(datetime.datetime(*now, tzinfo=datetime.UTC).timestamp())
    assert Allocation("17", (), datetime.datetime(*end)).time_left() == left
