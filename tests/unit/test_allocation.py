"""What Slurm gave us: node lists, a job's environment, scontrol's answers."""

from __future__ import annotations

import datetime
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_dask_cluster import allocation
from ips_dask_cluster.allocation import Allocation, Node, expand_hostlist, from_environment
from ips_dask_cluster.errors import ClusterError, SlurmCommandError

MB = 2**20
JOB = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NODELIST": "n[1-3]",
    "SLURM_JOB_CPUS_PER_NODE": "128(x2),64",
}

DETAILS = """\
JobId=17 JobName=interactive
   UserId=alice(1000) GroupId=alice(1000) MCS_label=N/A
   Priority=4294901756 Nice=0 Account=(null) QOS=(null)
   JobState=RUNNING Reason=None Dependency=(null)
   RunTime=00:00:07 TimeLimit=00:30:00 TimeMin=N/A
   SubmitTime=2026-03-01T10:00:00 EligibleTime=2026-03-01T10:00:00
   AccrueTime=Unknown
   StartTime=2026-03-01T10:00:00 EndTime={end} Deadline=N/A
   SuspendTime=None SecsPreSuspend=0 LastSchedEval=2026-03-01T10:00:00 Scheduler=Main
   Partition=local AllocNode:Sid=login1:4242
   ReqNodeList=(null) ExcNodeList=(null)
   NodeList=n[1-3]
   BatchHost=n1
   NumNodes=3 NumCPUs=320 NumTasks=3 CPUs/Task=1 ReqB:S:C:T=0:0:*:*
   TRES=cpu=320,mem=642000M,node=3,billing=320,gres/gpu=8
   Socks/Node=* NtasksPerN:B:S:C=0:0:*:* CoreSpec=*
   JOB_GRES=gpu:8
     Nodes=n[1-2] CPU_IDs=0-127 Mem={memory} GRES={gres}
     Nodes=n3 CPU_IDs=0-63 Mem=128000 GRES=
   MinCPUsNode=1 MinMemoryNode=0 MinTmpDiskNode=0
   Features=(null) DelayBoot=00:00:00
   OverSubscribe={share} Contiguous=0 Licenses=(null) Network=(null)
   Command=(null)
   WorkDir=/home/alice
   TresPerNode=gres:gpu:4
"""


def job_details(
    end: str = "2026-03-01T10:30:00",
    memory: int = 257000,
    gres: str = "gpu:a100:4(IDX:0-3)",
    share: str = "NO",
) -> str:
    return DETAILS.format(end=end, memory=memory, gres=gres, share=share)


COMPLETE = Allocation(
    "17",
    (
        Node("n1", 128, 257000 * MB, 4),
        Node("n2", 128, 257000 * MB, 4),
        Node("n3", 64, 128000 * MB, 0),
    ),
    end_time=datetime.datetime(2026, 3, 1, 10, 30),
    shared=False,
)


# Node lists.


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
    assert expand_hostlist(hostlist) == names


# The environment of a job.


def test_environment_gives_nodes_and_cpus() -> None:
    nodes = (Node("n1", 128), Node("n2", 128), Node("n3", 64))
    assert from_environment(JOB) == Allocation("17", nodes)


@given(st.lists(st.tuples(st.integers(1, 256), st.integers(1, 5)), min_size=1, max_size=6))
def test_any_run_of_cpu_counts_is_expanded(runs: list[tuple[int, int]]) -> None:
    text = ",".join(f"{cpus}(x{times})" if times > 1 else str(cpus) for cpus, times in runs)
    counts = [cpus for cpus, times in runs for _ in range(times)]
    found = from_environment(
        JOB | {"SLURM_JOB_NODELIST": f"n[1-{len(counts)}]", "SLURM_JOB_CPUS_PER_NODE": text}
    )
    assert [node.cpus for node in found.nodes] == counts


@pytest.mark.parametrize(
    ("variables", "megabytes"),
    [
        ({"SLURM_MEM_PER_NODE": "4000"}, [4000, 4000, 4000]),
        ({"SLURM_MEM_PER_CPU": "100"}, [12800, 12800, 6400]),
        ({"SLURM_MEM_PER_NODE": "", "SLURM_MEM_PER_CPU": ""}, [0, 0, 0]),
    ],
)
def test_environment_gives_memory(variables: dict[str, str], megabytes: list[int]) -> None:
    found = from_environment(JOB | variables)
    assert [node.memory for node in found.nodes] == [each * MB for each in megabytes]


@pytest.mark.parametrize("missing", sorted(JOB))
def test_missing_variable_is_named(missing: str) -> None:
    with pytest.raises(ClusterError) as caught:
        from_environment({name: value for name, value in JOB.items() if name != missing})
    assert str(caught.value) == (
        f"{missing} is not set: run inside salloc or sbatch, or pass the job's environment on"
    )


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"SLURM_JOB_CPUS_PER_NODE": "128(x2)"},
            "SLURM_JOB_NODELIST names 3 nodes but SLURM_JOB_CPUS_PER_NODE 2: "
            "is this really the environment of one Slurm job?",
        ),
        (
            {"SLURM_JOB_CPUS_PER_NODE": "128(x2),many"},
            "SLURM_JOB_CPUS_PER_NODE='128(x2),many' is not of the form 128(x4),96: "
            "is this really the environment of a Slurm job?",
        ),
        (
            {"SLURM_HET_SIZE": "2"},
            "this is a heterogeneous Slurm job (SLURM_HET_SIZE > 1), which is not supported: "
            "use an allocation with one component",
        ),
    ],
)
def test_wrong_environment_is_explained(variables: dict[str, str], message: str) -> None:
    with pytest.raises(ClusterError) as caught:
        from_environment(JOB | variables)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLURM_JOB_NODELIST", "n[one-three]"),
        ("SLURM_MEM_PER_NODE", "4G"),
        ("SLURM_MEM_PER_CPU", "lots"),
        ("SLURM_HET_SIZE", "two"),
    ],
)
def test_variable_that_does_not_parse_is_named(name: str, value: str) -> None:
    with pytest.raises(ClusterError, match=name):
        from_environment(JOB | {name: value})


def test_het_size_of_one_is_a_plain_job() -> None:
    assert from_environment(JOB | {"SLURM_HET_SIZE": "1"}) == from_environment(JOB)


def test_allocation_finds_its_nodes_by_name_and_says_what_it_is() -> None:
    held = from_environment(JOB)
    assert held.node("n3") == Node("n3", 64)
    with pytest.raises(KeyError, match="n4"):
        held.node("n4")
    assert (str(held), str(allocation.local())) == ("Slurm job 17", "this machine")


# What scontrol tells.


def with_details(**changes: str | int) -> Allocation:
    return allocation.with_job_details(from_environment(JOB), job_details(**changes))


def test_details_complete_every_group_of_nodes() -> None:
    assert with_details() == COMPLETE


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("", 0),
        ("gpu:2(IDX:0-1)", 2),
        ("gpu:a100:4(IDX:0-3)", 4),
        ("gpu:a100:2(IDX:0,3),gpu:v100:1(IDX:4)", 3),
        ("gpu:0(IDX:)", 0),
        ("craynetwork:1,gpu:tesla:2(IDX:0-1),mps:100", 2),
    ],
)
def test_details_give_gpus(gres: str, gpus: int) -> None:
    assert [node.gpus for node in with_details(gres=gres).nodes] == [gpus, gpus, 0]


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("2026-03-01T10:30:00", datetime.datetime(2026, 3, 1, 10, 30)),
        ("Unknown", None),
        ("NONE", None),
    ],
)
def test_details_give_the_end(end: str, expected: datetime.datetime | None) -> None:
    assert with_details(end=end).end_time == expected


@pytest.mark.parametrize(
    ("share", "shared"), [("NO", False), ("OK", True), ("YES", True), ("USER", True)]
)
def test_details_tell_whether_nodes_may_be_shared(share: str, shared: bool) -> None:
    assert with_details(share=share).shared is shared


def test_memory_that_slurm_does_not_count_comes_from_the_environment() -> None:
    held = from_environment(JOB | {"SLURM_MEM_PER_NODE": "4000"})
    found = allocation.with_job_details(held, job_details(memory=0))
    assert [node.memory for node in found.nodes] == [4000 * MB, 4000 * MB, 128000 * MB]


def test_answer_without_details_changes_nothing() -> None:
    held = from_environment(JOB)
    assert allocation.with_job_details(held, "JobId=17 JobName=interactive\n") == held


# Asking scontrol.


Program = Callable[..., Path]


def answer(text: str, expected: str) -> str:
    """A scontrol that knows one question."""
    copy = 'while read -r line; do echo "$line"; done'
    return f"[ \"$*\" = '{expected}' ] || exit 9\n{copy} <<'END'\n{text}\nEND"


def test_read_asks_once_for_the_job(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    program("scontrol", answer(job_details(), "show job --details 17"))
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    assert allocation.read() == COMPLETE


def test_read_looks_for_scontrol_where_the_given_environment_says(tmp_path: Path) -> None:
    with pytest.raises(SlurmCommandError) as caught:
        allocation.read(JOB | {"PATH": str(tmp_path)})
    assert str(caught.value) == (
        "scontrol show job --details 17: scontrol is not on PATH although this is a Slurm job; "
        "load the site's slurm module; inside a container, run the driver outside of it"
    )


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
            "slurm_load_jobs error: Invalid job id specified",
        ),
        ("exit 3", "exit code 3"),
        (
            "while :; do :; done",
            "no answer within 0.1 s; the Slurm controller is down or overloaded; try again",
        ),
    ],
)
def test_scontrol_that_fails_is_explained(
    program: Program, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    program("scontrol", script)
    monkeypatch.setattr(allocation, "_SLURM_SECONDS", 0.1 if "while" in script else 30)
    with pytest.raises(SlurmCommandError) as caught:
        allocation.read(JOB | {"PATH": os.environ["PATH"]})
    assert str(caught.value) == f"scontrol show job --details 17: {reason}"


SHARED = with_details(share="OK")


def node_lines(*cpus: int) -> str:
    return "\n".join(
        f"NodeName=n{number} Arch=x86_64 CPUAlloc=1 CPUEfctv={count} CPUTot={count} CPULoad=0.1"
        for number, count in enumerate(cpus, start=1)
    )


def test_cpus_of_its_nodes_that_are_not_held_are_counted(program: Program) -> None:
    program("scontrol", answer(node_lines(256, 256, 64), "show node --oneliner n1,n2,n3"))
    assert allocation.unheld(SHARED) == [
        "Slurm job 17 holds 320 of the 576 CPUs of its nodes, and only those are used; "
        "allocate with --exclusive to have whole nodes"
    ]


def test_whole_nodes_that_might_be_shared_are_no_news(program: Program) -> None:
    program("scontrol", answer(node_lines(128, 128, 64), "show node --oneliner n1,n2,n3"))
    assert allocation.unheld(SHARED) == []


@pytest.mark.parametrize("held", [COMPLETE, allocation.local()], ids=["exclusive", "local"])
def test_exclusive_nodes_and_this_machine_need_no_question(
    program: Program, held: Allocation
) -> None:
    program("scontrol", "exit 9")
    assert allocation.unheld(held) == []


# This machine.


@pytest.mark.parametrize(
    ("arguments", "nodes"),
    [
        ({}, (Node("host", 8, 6000),)),
        ({"cpus": 3}, (Node("host", 3, 6000),)),
        ({"nodes": 3}, tuple(Node(f"host-{number}", 2, 2000) for number in range(3))),
        ({"nodes": 12}, tuple(Node(f"host-{number}", 1, 500) for number in range(12))),
    ],
)
def test_this_machine_is_shared_out_evenly(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, int], nodes: tuple[Node, ...]
) -> None:
    uname = os.uname_result(("Linux", "host", "6", "1", "x86_64"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 60, "SC_PHYS_PAGES": 100}.__getitem__)
    monkeypatch.setattr(os, "uname", lambda: uname)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert allocation.local(**arguments) == Allocation(None, nodes)


@pytest.mark.parametrize(("devices", "gpus"), [("", 0), ("0", 1), ("0,3", 2), ("GPU-1,", 1)])
def test_gpus_of_this_machine_are_those_one_may_see(
    monkeypatch: pytest.MonkeyPatch, devices: str, gpus: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    assert [node.gpus for node in allocation.local(2).nodes] == [gpus, gpus]
