"""What ``scontrol show job --details`` says, in texts recorded on three versions of Slurm.

They were recorded on three nodes of 4, 4 and 2 CPUs, 4000 MB and 2, 2 and 1 GPUs, with ``TZ=UTC0``.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ips_dask_cluster.slurm.allocation import Node
from ips_dask_cluster.slurm.job_details import JobHead, is_ambiguous, parse_job, read_heads
from ips_dask_cluster.slurm.times import end_time

RECORDED = Path(__file__).with_name("recorded_jobs")
VERSIONS = sorted(path.name for path in RECORDED.iterdir())
MB = 2**20

#: What the user wrote into the job of ``lines.txt``, and squeue told: name, account and WCKey.
LINES = """\
a
   JobState=PENDING Reason=None
   StartTime=2001-01-01T00:00:00 EndTime=2001-01-02T00:00:00 Deadline=N/A
   NodeList=n9
     Nodes=n9 CPU_IDs=0-99 Mem=7 GRES=gpu:9
   OverSubscribe=NO Exclusive=NODE Contiguous=0
JobId=99 JobName=b"""
WORDS = (LINES, "x\n   nodelist=n9", "")


@pytest.fixture(params=VERSIONS)
def recorded(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """``recorded(name)``: a text of one version of Slurm."""
    return lambda name: (RECORDED / request.param / f"{name}.txt").read_text(errors="replace")


def test_the_versions_are_those_that_are_supported() -> None:
    assert VERSIONS == ["22.05", "24.11", "26.05"]


def nodes(*held: tuple[int, int, int]) -> tuple[Node, ...]:
    numbered = enumerate(held, start=1)
    return tuple(Node(f"n{n}", cpus, memory * MB, gpus) for n, (cpus, memory, gpus) in numbered)


@pytest.mark.parametrize(
    ("name", "held", "shared", "limited"),
    [
        ("exclusive", nodes((4, 4000, 2), (4, 4000, 2), (2, 4000, 1)), False, True),
        ("partial", nodes((2, 500, 1), (1, 500, 1)), True, False),
        ("user", nodes((1, 4000, 0), (1, 4000, 0)), True, True),
        ("oversubscribe", nodes((1, 4000, 0), (1, 4000, 0)), True, True),
        ("words", nodes((1, 200, 0), (1, 200, 0)), True, True),
    ],
)
def test_details_tell_what_a_job_holds(
    recorded: Callable[[str], str],
    name: str,
    held: tuple[Node, ...],
    shared: bool,
    limited: bool,
) -> None:
    text = recorded(name)
    found = parse_job(text)
    assert (found.state, found.nodes, found.shared) == ("RUNNING", held, shared)
    assert (found.end is not None) == limited
    assert not is_ambiguous(text)


def test_lines_that_a_user_wrote_are_not_slurms(recorded: Callable[[str], str]) -> None:
    text = recorded("lines")
    assert is_ambiguous(text)
    found = parse_job(text, WORDS)
    assert found.head == JobHead("6")
    assert (found.state, found.shared) == ("RUNNING", True)
    assert found.nodes == nodes((1, 200, 0), (1, 200, 0))
    assert found.end is not None
    assert found.end.year == 2026


def test_name_that_is_not_utf8_is_read_over(recorded: Callable[[str], str]) -> None:
    found = parse_job(recorded("latin1"))
    assert (found.state, len(found.nodes)) == ("RUNNING", 1)


def test_jobs_of_an_array_are_told_apart(recorded: Callable[[str], str]) -> None:
    heads = read_heads(recorded("array"))
    assert [head.job_id for head in heads] == ["8", "10", "9"]
    assert [head.task for head in heads[1:]] == ["8_1", "8_0"]


DETAILS = """\
JobId=17 JobName=interactive
   UserId=alice(1000) GroupId=alice(1000) MCS_label=N/A
   Priority=4294901756 Nice=0 Account=(null) QOS=(null)
   JobState=RUNNING Reason=None Dependency=(null)
   RunTime=00:00:07 TimeLimit={limit} TimeMin=N/A
   SubmitTime=2026-03-01T10:00:00 EligibleTime=2026-03-01T10:00:00
   StartTime=2026-03-01T10:00:00 EndTime={end} Deadline=N/A
   Partition=local AllocNode:Sid=login1:4242
   ReqNodeList=(null) ExcNodeList=(null)
   NodeList=n[1-3]
   BatchHost=n1
   TRES=cpu=320,mem=642000M,node=3,billing=320,gres/gpu=8
   JOB_GRES=gpu:8
     Nodes=n[1-2] CPU_IDs=0-127 Mem=257000 GRES={gres}
     Nodes=n3 CPU_IDs=0-63 Mem=128000 GRES=
   MinCPUsNode=1 MinMemoryNode=0 MinTmpDiskNode=0
   OverSubscribe={share} Contiguous=0 Licenses=(null) Network=(null)
   Command=(null)
   WorkDir=/home/alice
   TresPerNode=gres:gpu:4
"""


def details(
    end: str = "2026-03-01T10:30:00",
    limit: str = "00:30:00",
    gres: str = "gpu:a100:4(IDX:0-3)",
    share: str = "NO",
) -> str:
    return DETAILS.format(end=end, limit=limit, gres=gres, share=share)


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("", 0),
        ("gpu:2(IDX:0-1)", 2),
        ("gpu:a100:4(IDX:0-3)", 4),
        ("gpu:a100:2(IDX:0,3),gpu:v100:1(IDX:4)", 3),
        ("gpu:0(IDX:)", 0),
        ("craynetwork:1,gpu:tesla:2(IDX:0-1),mps:100", 2),
        ("shard:gpu:8", 0),
    ],
)
def test_details_give_gpus(gres: str, gpus: int) -> None:
    assert [node.gpus for node in parse_job(details(gres=gres)).nodes] == [gpus, gpus, 0]


@pytest.mark.parametrize(
    ("share", "shared"),
    [
        ("NO", False),
        ("OK", True),
        ("YES", True),
        ("USER", True),
        # Slurm 26.05
        ("NO Exclusive=NODE", False),
        ("NO Exclusive=NO", True),
        ("NO Exclusive=USER", True),
        ("YES Exclusive=NO", True),
    ],
)
def test_details_tell_whether_nodes_may_be_shared(share: str, shared: bool) -> None:
    assert parse_job(details(share=share)).shared is shared


def test_nodes_are_in_the_order_of_the_jobs_list_and_cpus_are_counted() -> None:
    lines = (
        "     Nodes=n3 CPU_IDs=0-1,4,64-67 Mem=100 GRES=gpu:a100:2(IDX:0-1)\n"
        "     Nodes=n[1-2] CPU_IDs=7 Mem=200 GRES=\n"
    )
    head, rest = details().split("     Nodes=", 1)
    text = head + lines + rest[rest.index("   MinCPUsNode") :]
    assert parse_job(text).nodes == nodes((1, 200, 0), (1, 200, 0), (7, 100, 2))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "slurm_load_jobs error: Invalid job id specified\n",
        "JobId=17 JobName=interactive\n",
        "\n".join(line for line in details().splitlines() if " Nodes=" not in line),
    ],
)
def test_text_without_details_holds_no_nodes(text: str) -> None:
    assert parse_job(text).nodes == ()


def test_component_of_a_heterogeneous_job_is_seen_on_its_first_line_only() -> None:
    real = details().replace("JobId=17", "JobId=17 HetJobId=17 HetJobOffset=0")
    named = details().replace("JobName=", "JobName=HetJobId=17 JobName=")
    commented = f"{details()}   Comment=HetJobId=17\n"
    heads = [read_heads(text)[0] for text in (real, named, commented)]
    assert [head.heterogeneous for head in heads] == [True, False, False]


@pytest.mark.parametrize(
    "line",
    [
        "   NodeList=n9",
        "   JobState=PENDING Reason=None",
        "   RunTime=0 TimeLimit=UNLIMITED TimeMin=N/A",
        "   StartTime=2001-01-01T00:00:00 EndTime=2001-01-01T00:01:00 Deadline=N/A",
        "   OverSubscribe=OK Contiguous=0",
        "     Nodes=n3 CPU_IDs=0-99 Mem=7 GRES=gpu:9",
    ],
)
@pytest.mark.parametrize("place", ["JobName=interactive", "Account=(null)", "WorkDir=/home/alice"])
def test_any_line_of_a_users_changes_nothing(line: str, place: str) -> None:
    text = details().replace(place, f"{place}\n{line}", 1)
    words = [
        f"{own}\n{line}" if own in place else own for own in ("interactive", "(null)", "no wckey")
    ]
    assert parse_job(text, words if is_ambiguous(text) else ()) == parse_job(details())


def test_many_nodes_take_no_time() -> None:
    """Each with a line of its own, as a shared machine may have them."""
    lines = "".join(f"     Nodes=n{n} CPU_IDs=0-3 Mem=100 GRES=\n" for n in range(10_000, 0, -1))
    head, rest = details().split("     Nodes=", 1)
    text = (head + lines + rest[rest.index("   MinCPUsNode") :]).replace("n[1-3]", "n[1-10000]")
    begin = time.process_time()
    found = parse_job(text)
    assert not is_ambiguous(text)
    assert time.process_time() - begin < 1
    assert [node.name for node in found.nodes[::9999]] == ["n1", "n10000"]


# The end.

START, SOON = "2026-03-01T10:00:00", "2026-03-01T10:30:00"


@pytest.mark.parametrize(
    ("limit", "end"),
    [
        ("UNLIMITED", "2027-03-01T10:00:00"),  # Slurm 22.05
        ("UNLIMITED", "Unknown"),
        ("UNLIMITED", "NONE"),
        ("INVALID", SOON),
        ("00:30:00", "Unknown"),
        ("00:30:00", "N/A"),
        ("400-00:00:00", "2027-04-05T10:00:00"),
        ("", "2027-03-01T10:00:00"),
        ("", ""),
    ],
)
def test_job_without_a_limit_has_no_end(limit: str, end: str) -> None:
    assert end_time(limit, START, end) is None
    assert parse_job(details(limit=limit, end=end)).end is None


def test_job_with_a_limit_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = datetime.datetime(2026, 3, 1, 10, 30, tzinfo=datetime.UTC)
    for end in (end_time("00:30:00", START, SOON), parse_job(details()).end):
        assert end is not None
        assert end.timestamp() == expected.timestamp()


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_berlin")
@pytest.mark.parametrize("hour", [0, 1])
def test_end_in_the_hour_that_comes_twice_is_right(hour: int) -> None:
    """At 1:00 UTC of this day, clocks are set back from 3:00 to 2:00."""
    found = end_time("01:00:00", "2026-10-24T23:30:00", f"2026-10-25T0{hour}:30:00")
    assert found is not None
    assert (found.hour, found.minute) == (2, 30)
    utc = datetime.datetime(2026, 10, 25, hour, 30, tzinfo=datetime.UTC)
    assert found.timestamp() == utc.timestamp()
