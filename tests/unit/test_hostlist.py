"""Slurm's node lists: as Slurm writes them, and as people type them."""

from __future__ import annotations

import itertools
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_dask_cluster.slurm.hostlist import MOST_NAMES, count_numbers, expand_hostlist


@pytest.mark.parametrize(
    ("hostlist", "names"),
    [
        ("login1", ["login1"]),
        ("n1,n2,other", ["n1", "n2", "other"]),
        ("n[1-3,07],login1", ["n1", "n2", "n3", "n07", "login1"]),
        ("n[8-11]", ["n8", "n9", "n10", "n11"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("nid[001298,001300-001301]", ["nid001298", "nid001300", "nid001301"]),
        ("n[1-2]-ib0,m[3]", ["n1-ib0", "n2-ib0", "m3"]),
        ("r[1-2]n[01-02]", ["r1n01", "r1n02", "r2n01", "r2n02"]),
        ("gpu-a.site[1,3]", ["gpu-a.site1", "gpu-a.site3"]),
        ("", []),
        # as people type them
        ("n1, n2", ["n1", "n2"]),
        (" n1 n2\tn3\n", ["n1", "n2", "n3"]),
        ("n[1, 3 - 4]", ["n1", "n3", "n4"]),
        ("n1,,n2,", ["n1", "n2"]),
    ],
)
def test_hostlist_gives_the_names_in_order(hostlist: str, names: list[str]) -> None:
    assert expand_hostlist(hostlist) == names


@st.composite
def brackets(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A bracket as Slurm writes it, and the texts it stands for."""
    width = draw(st.integers(1, 5))
    ranges = draw(st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 4)), min_size=1))
    text = ",".join(
        f"{first:0{width}d}" + (f"-{first + more:0{width}d}" if more else "")
        for first, more in ranges
    )
    numbers = [n for first, more in ranges for n in range(first, first + more + 1)]
    return f"[{text}]", [f"{n:0{width}d}" for n in numbers]


@st.composite
def hostlists(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A node list, and the names in it."""
    literal = st.text("abn0-._", min_size=1, max_size=4).map(lambda text: (text, [text]))
    names: list[str] = []
    parts = []
    for _ in range(draw(st.integers(0, 4))):
        pieces = [draw(literal), *draw(st.lists(brackets() | literal, max_size=3))]
        parts.append("".join(text for text, _ in pieces))
        names += map("".join, itertools.product(*(values for _, values in pieces)))
    return ",".join(parts), names


@given(hostlists())
def test_any_hostlist_gives_what_it_was_made_from(made: tuple[str, list[str]]) -> None:
    hostlist, names = made
    assert expand_hostlist(hostlist, most=len(names)) == names
    if names:
        with pytest.raises(ValueError, match=f"names more than {len(names) - 1} node"):
            expand_hostlist(hostlist, most=len(names) - 1)


@pytest.mark.parametrize(
    ("hostlist", "reason"),
    [
        ("n[3-1]", "the range 3-1 ends before it begins"),
        ("n[1-3", "a bracket is not closed, or not opened"),
        ("n1-3]", "a bracket is not closed, or not opened"),
        ("n[1[2]]", "a bracket is not closed, or not opened"),
        ("n[]", "'' is not a number or a range, such as 1-4"),
        ("n[1,]", "'' is not a number or a range, such as 1-4"),
        ("n[one-three]", "'one-three' is not a number or a range, such as 1-4"),
        ("n[1-2-3]", "'1-2-3' is not a number or a range, such as 1-4"),
        ("n[\uff11-\uff13]", "'\uff11-\uff13' is not a number or a range, such as 1-4"),
        ("n[-1]", "'-1' is not a number or a range, such as 1-4"),
    ],
)
def test_hostlist_that_does_not_parse_is_explained(hostlist: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        expand_hostlist(hostlist)


@pytest.mark.parametrize(
    "hostlist",
    [
        "n[1-999999999]",
        "n[1-999999999999999999]",
        "n[1-60000],m[1-60000]",
        "[1-9]" * 100,
        "[1-999999999999999999]" * 500,
        ",".join(["n1"] * 70_000),
    ],
)
def test_more_names_than_there_can_be_nodes_cost_nothing(hostlist: str) -> None:
    begin = time.process_time()
    with pytest.raises(ValueError, match=rf"^it names more than {MOST_NAMES} node\(s\)$"):
        expand_hostlist(hostlist)
    assert time.process_time() - begin < 1


@pytest.mark.parametrize(
    ("ranges", "count"), [("0", 1), ("0-3", 4), ("0-1,4,64-67", 7), ("0-999999999", 10**9)]
)
def test_numbers_of_cpus_are_counted(ranges: str, count: int) -> None:
    assert count_numbers(ranges) == count
