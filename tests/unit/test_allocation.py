"""What Slurm gave us: node lists, a job's environment, scontrol's answers."""

from __future__ import annotations

import datetime
import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
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


# Some of its nodes.


@pytest.mark.parametrize(
    ("nodelist", "names"),
    [
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n3,n1", ["n3", "n1"]),
        (["n2"], ["n2"]),
        (("n3", "n2"), ["n3", "n2"]),
    ],
)
def test_selected_nodes_are_those_of_the_list_in_its_order(
    nodelist: str | list[str], names: list[str]
) -> None:
    nodes = tuple(COMPLETE.node(name) for name in names)
    assert allocation.selected(COMPLETE, nodelist) == replace(COMPLETE, nodes=nodes)


@pytest.mark.parametrize(
    ("nodelist", "message"),
    [
        ("n[3-5]", "nodelist: Slurm job 17 has no node n4, n5; its nodes are n1, n2, n3"),
        (["n1", "x"], "nodelist: Slurm job 17 has no node x; its nodes are n1, n2, n3"),
        ("n[1-x]", "nodelist='n[1-x]' is not of the form n[1-4],n7"),
        ("n[1-2],n1", "nodelist='n[1-2],n1' names a node twice; leave it out for all nodes"),
        ("", "nodelist='' names no node; leave it out for all nodes"),
        ([], "nodelist=[] names no node; leave it out for all nodes"),
    ],
)
def test_list_of_nodes_that_makes_no_sense_is_explained(
    nodelist: str | list[str], message: str
) -> None:
    with pytest.raises(ClusterError) as caught:
        allocation.selected(COMPLETE, nodelist)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("count", "end"), [(8, "n8"), (9, "n8 and 1 more"), (50, "n8 and 42 more")]
)
def test_only_some_of_many_nodes_are_quoted(count: int, end: str) -> None:
    held = Allocation("17", tuple(Node(f"n{number}", 1) for number in range(1, count + 1)))
    with pytest.raises(ClusterError) as caught:
        allocation.selected(held, "x")
    assert str(caught.value).endswith(f"its nodes are n1, n2, n3, n4, n5, n6, n7, {end}")


# GPUs.


def with_gpus(*counts: int) -> Allocation:
    return Allocation("17", tuple(Node(f"n{n}", 8, gpus=g) for n, g in enumerate(counts, 1)))


@pytest.mark.parametrize(
    ("gpus", "size", "portions"), [((4, 4), 1, 4), ((4, 4), 2, 2), ((4,), 4, 1), ((1,), 1, 1)]
)
def test_gpus_of_a_node_are_shared_out(gpus: tuple[int, ...], size: int, portions: int) -> None:
    assert allocation.portions_of_gpus(with_gpus(*gpus), size) == portions


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
        allocation.portions_of_gpus(with_gpus(*gpus), size)
    assert str(caught.value) == message


# The end.


def test_environment_of_newer_slurm_gives_the_end() -> None:
    found = from_environment(JOB | {"SLURM_JOB_END_TIME": "1772361000"})
    assert found.end_time is not None
    assert found.end_time.timestamp() == 1772361000
    assert allocation.with_job_details(found, "JobId=17\n").end_time == found.end_time
    assert allocation.with_job_details(found, job_details()).end_time == COMPLETE.end_time


@pytest.mark.parametrize("text", ["", "0"])
def test_end_that_the_environment_does_not_tell_is_unknown(text: str) -> None:
    found = from_environment(JOB | {"SLURM_JOB_END_TIME": text})
    assert (found.end_time, found.time_left()) == (None, None)


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
    time_in_berlin(datetime.datetime(*now, tzinfo=datetime.timezone.utc).timestamp())
    assert Allocation("17", (), datetime.datetime(*end)).time_left() == left


# A job from outside.


def test_details_alone_give_the_whole_allocation() -> None:
    assert allocation.from_job_details("17", job_details()) == COMPLETE


def test_nodes_are_in_the_order_of_the_jobs_list_and_cpus_are_counted() -> None:
    lines = (
        "     Nodes=n3 CPU_IDs=0-1,4,64-67 Mem=100 GRES=gpu:a100:2(IDX:0-1)\n"
        "     Nodes=n[1-2] CPU_IDs=7 Mem=200 GRES=\n"
    )
    head, rest = job_details().split("     Nodes=", 1)
    details = head + lines + rest[rest.index("   MinCPUsNode") :]
    assert allocation.from_job_details("17", details).nodes == (
        Node("n1", 1, 200 * MB),
        Node("n2", 1, 200 * MB),
        Node("n3", 7, 100 * MB, 2),
    )


def test_details_without_a_list_of_nodes_are_taken_as_they_come() -> None:
    details = job_details().replace("   NodeList=n[1-3]\n", "")
    assert allocation.from_job_details("17", details) == COMPLETE


@pytest.mark.parametrize(
    ("state", "what"),
    [
        ("PENDING", "has not started yet (its state is PENDING)"),
        ("COMPLETED", "does not run (its state is COMPLETED)"),
        ("CANCELLED", "does not run (its state is CANCELLED)"),
        (None, "does not run (its state is unknown)"),
    ],
)
def test_job_that_does_not_run_is_explained(state: str | None, what: str) -> None:
    details = job_details().replace("JobState=RUNNING", f"JobState={state}" if state else "")
    with pytest.raises(ClusterError) as caught:
        allocation.from_job_details("17", details)
    assert str(caught.value) == (f"job_id='17': the job {what}; see squeue --me for those that do")


def test_component_of_a_heterogeneous_job_is_refused() -> None:
    details = job_details().replace("JobId=17", "JobId=17 HetJobId=17 HetJobOffset=0")
    with pytest.raises(ClusterError, match="heterogeneous Slurm job"):
        allocation.from_job_details("17", details)


ARRAY = "\n".join(
    job_details().replace("JobId=17", f"JobId={job} ArrayJobId=17 ArrayTaskId={task}")
    for job, task in (("17", "2"), ("18", "1"))
)


def test_array_of_jobs_is_not_one_allocation() -> None:
    with pytest.raises(ClusterError) as caught:
        allocation.from_job_details("17", ARRAY)
    assert str(caught.value) == (
        "job_id='17' is an array of jobs, which have nodes of their own; name one of them: 17, 18"
    )


def test_job_of_an_array_goes_by_its_own_number() -> None:
    """srun --jobid takes no other."""
    details = ARRAY.split("\n\n")[1]
    assert allocation.from_job_details("17_1", details) == replace(COMPLETE, job_id="18")


def test_details_that_name_no_cpus_are_no_allocation() -> None:
    """Without --details, or of a job of somebody else on a site that hides them."""
    details = "\n".join(line for line in job_details().splitlines() if " Nodes=" not in line)
    with pytest.raises(ClusterError) as caught:
        allocation.from_job_details("17", details)
    assert str(caught.value) == (
        "job_id='17': Slurm does not tell which CPUs of which nodes the job holds; run the driver "
        "inside the job"
    )


def test_many_nodes_take_no_time() -> None:
    """Each with a line of its own, as a shared machine may have them."""
    lines = "".join(f"     Nodes=n{n} CPU_IDs=0-3 Mem=100 GRES=\n" for n in range(10_000, 0, -1))
    head, rest = job_details().split("     Nodes=", 1)
    details = (head + lines + rest[rest.index("   MinCPUsNode") :]).replace("n[1-3]", "n[1-10000]")
    begin = time.process_time()
    found = allocation.from_job_details("17", details)
    chosen = allocation.selected(found, "n[1-10000]")
    assert time.process_time() - begin < 1
    assert chosen == found
    assert [node.name for node in found.nodes[::9999]] == ["n1", "n10000"]


@pytest.mark.parametrize("job_id", [18, "18"])
def test_read_asks_for_the_job_that_is_named(
    program: Program, monkeypatch: pytest.MonkeyPatch, job_id: int | str
) -> None:
    details = job_details().replace("JobId=17", "JobId=18")
    program("scontrol", answer(details, "show job --details 18"))
    assert allocation.read(dict(os.environ), job_id) == replace(COMPLETE, job_id="18")
    assert allocation.read(os.environ | JOB, job_id) == replace(COMPLETE, job_id="18")


def test_own_job_may_be_named_too(program: Program) -> None:
    program("scontrol", answer("JobId=17", "show job --details 17"))
    assert allocation.read(os.environ | JOB, 17) == from_environment(JOB)


# Steps, and hosts.


def test_nodes_of_steps_by_name(program: Program) -> None:
    program(
        "squeue",
        answer(
            "n[1-2] c-worker-1\nn1 c-scheduler-0\nn3 my own  step\nn4 c-worker-1",
            "--jobs=17 --steps --noheader --format=%N %j",
        ),
    )
    # the last line of a document in the shell is an empty one
    assert allocation.nodes_of_steps("17") == {
        "c-worker-1": ["n1", "n2", "n4"],
        "c-scheduler-0": ["n1"],
        "my own  step": ["n3"],
    }


@pytest.mark.parametrize(("hosts", "one"), [(["h", "h", "h"], True), (["h", "h", "g"], False)])
def test_nodes_on_one_host(program: Program, hosts: list[str], one: bool) -> None:
    text = "\n".join(
        f"NodeName=n{n} Arch=x86_64 NodeAddr=n{n} NodeHostName={host} Port=1"
        for n, host in enumerate(hosts, 1)
    )
    program("scontrol", answer(text, "show node --oneliner n1,n2,n3"))
    assert allocation.on_one_host(COMPLETE) is one


@pytest.mark.parametrize(
    "held", [allocation.local(3), replace(COMPLETE, nodes=COMPLETE.nodes[:1])], ids=["local", "one"]
)
def test_one_node_is_on_one_host_and_nobody_need_be_asked(
    program: Program, held: Allocation
) -> None:
    program("scontrol", "exit 9")
    assert allocation.on_one_host(held)


# Finding one.


@pytest.fixture
def in_job(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of job 17, which may be shared."""
    details = answer(job_details(share="OK"), "show job --details 17")
    nodes = answer(node_lines(256, 256, 64), "show node --oneliner n1,n2,n3")
    program("scontrol", f"case $2 in job) {details}\n;; node) {nodes}\n;; esac")
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("in_job")
@pytest.mark.parametrize("launcher", [None, "srun"])
def test_slurm_job_is_found_and_its_news_are_told(
    launcher: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert allocation.find(launcher, None, None, None) == SHARED
    assert caplog.messages == allocation.unheld(SHARED) != []


@pytest.mark.usefixtures("in_job")
def test_this_machine_is_found_also_in_a_job(caplog: pytest.LogCaptureFixture) -> None:
    assert allocation.find("local", None, 2, None) == allocation.local(2)
    assert caplog.messages == []


def test_this_machine_is_found_without_a_job_and_that_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert allocation.find(None, None, None, 3) == allocation.local(1)
    assert allocation.find(None, None, 2, None) == allocation.local(2)
    told = "no Slurm allocation (SLURM_JOB_ID is not set): %s on this machine"
    assert caplog.messages == [
        told % "1 worker(s) with 3 thread(s) each",
        told % "2 worker(s) with 4 thread(s) each",
    ]


@pytest.mark.parametrize(
    ("launcher", "job_id", "message"),
    [
        ("mpi", None, 'launcher=\'mpi\': expected "srun" or "local"'),
        ("", None, 'launcher=\'\': expected "srun" or "local"'),
        ("local", 17, 'launcher="local" starts nothing in a job, such as job_id=17'),
    ],
)
def test_launcher_that_makes_no_sense_is_explained(
    launcher: str, job_id: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=r"^launcher=") as caught:
        allocation.find(launcher, job_id, None, None)
    assert str(caught.value) == message


@pytest.mark.parametrize(("launcher", "job_id"), [("srun", None), (None, "18")])
def test_job_that_is_asked_for_is_never_replaced_by_this_machine(
    program: Program, monkeypatch: pytest.MonkeyPatch, launcher: str | None, job_id: str | None
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ClusterError):
        allocation.find(launcher, job_id, None, None)
