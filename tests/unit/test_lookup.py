"""Looking an allocation up: in the environment, of Slurm, on this machine."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ips_dask_cluster.errors import ClusterError, SlurmCommandError
from ips_dask_cluster.slurm import lookup
from ips_dask_cluster.slurm.allocation import Allocation, Node
from ips_dask_cluster.slurm.this_machine import local_allocation

Program = Callable[..., Path]

MB = 2**20
JOB = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NODELIST": "n[1-3]",
    "SLURM_JOB_CPUS_PER_NODE": "128(x2),64",
}

DETAILS = """\
JobId={job} JobName={name}
   UserId=alice(1000) GroupId=alice(1000) MCS_label=N/A
   Priority=4294901756 Nice=0 Account=(null) QOS=(null)
   JobState={state} Reason=None Dependency=(null)
   RunTime=00:00:07 TimeLimit={limit} TimeMin=N/A
   StartTime=2026-03-01T10:00:00 EndTime=2026-03-01T10:30:00 Deadline=N/A
   NodeList=n[1-3]
   BatchHost=n1
   JOB_GRES=gpu:8
     Nodes=n[1-2] CPU_IDs=0-127 Mem={memory} GRES=gpu:a100:4(IDX:0-3)
     Nodes=n3 CPU_IDs=0-63 Mem=128000 GRES=
   MinCPUsNode=1 MinMemoryNode=0 MinTmpDiskNode=0
   OverSubscribe={share} Contiguous=0 Licenses=(null) Network=(null)
   Command=(null)
"""
USUAL = {
    "job": "17",
    "name": "interactive",
    "state": "RUNNING",
    "limit": "00:30:00",
    "memory": "257000",
    "share": "NO",
}


def job_details(**changes: str) -> str:
    return DETAILS.format(**USUAL | changes)


END = datetime.datetime(2026, 3, 1, 10, 30, tzinfo=datetime.UTC).timestamp()
COMPLETE = Allocation(
    "17",
    (
        Node("n1", 128, 257000 * MB, 4),
        Node("n2", 128, 257000 * MB, 4),
        Node("n3", 64, 128000 * MB, 0),
    ),
    end_time=datetime.datetime.fromtimestamp(END),
    shared=False,
)
SHARED = replace(COMPLETE, shared=True)


@pytest.fixture
def answer(program: Program, tmp_path: Path) -> Callable[..., Callable[[], list[str]]]:
    """``answer(answers)``: programs that answer these questions; a function returns the questions.

    A mark in a question, which nobody knows in advance, is ``MARK`` here and in the answer.
    """

    def write(answers: dict[str, str]) -> Callable[[], list[str]]:
        asked = tmp_path / "asked"
        asked.touch()
        for name in ("scontrol", "squeue"):
            script = [
                'question="${0##*/} $*"; mark=${question#*--format=}; mark=${mark%%%*}',
                '[ "${#mark}" = 16 ] || mark=none',
                'known=; rest=$question; while [ "$rest" != "${rest#*$mark}" ]; do',
                "known=$known${rest%%$mark*}MARK; rest=${rest#*$mark}; done; known=$known$rest",
                f'echo "$known" >> {asked}',
                "case $known in",
            ]
            for number, (question, answer) in enumerate(answers.items()):
                path = tmp_path / f"answer-{number}"
                path.write_text(answer)
                script += [
                    f"'{question}') while IFS= read -r line; do",
                    'out=; while [ "$line" != "${line#*MARK}" ]; do',
                    "out=$out${line%%MARK*}$mark; line=${line#*MARK}; done",
                    f'echo "$out$line"; done < {path};;',
                ]
            program(name, "\n".join([*script, "*) exit 9;; esac"]))
        return lambda: asked.read_text().splitlines()

    return write


QUESTION = "scontrol show job --details 17"
WORDS = "squeue --jobs={} --noheader --format=MARK%jMARK%aMARK%wMARK"


def environ(variables: dict[str, str] = JOB) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **variables}


# The job of the environment.


def test_one_question_completes_what_the_environment_says(answer) -> None:
    asked = answer({QUESTION: job_details()})
    assert lookup.read(environ()) == COMPLETE
    assert asked() == [QUESTION]


def test_memory_that_slurm_does_not_count_comes_from_the_environment(answer) -> None:
    answer({QUESTION: job_details(memory="0")})
    found = lookup.read(environ(JOB | {"SLURM_MEM_PER_NODE": "4000"}))
    assert [node.memory for node in found.nodes] == [4000 * MB, 4000 * MB, 128000 * MB]


def test_end_that_the_environment_tells_does_not_count(answer) -> None:
    """Of a job without a limit, Slurm since 23.02 says there that it ends in a year."""
    answer({QUESTION: job_details(limit="UNLIMITED")})
    found = lookup.read(environ(JOB | {"SLURM_JOB_END_TIME": "1803900000"}))
    assert found == replace(COMPLETE, end_time=None)


def test_answer_without_details_changes_nothing(answer) -> None:
    answer({QUESTION: "JobId=17 JobName=interactive\n"})
    nodes = (Node("n1", 128), Node("n2", 128), Node("n3", 64))
    assert lookup.read(environ()) == Allocation("17", nodes)


@pytest.mark.parametrize("job_id", [None, 17, "17"])
def test_job_id_alone_is_enough(answer, job_id: int | str | None) -> None:
    """As in a terminal that ssh or an editor opened."""
    asked = answer({QUESTION: job_details()})
    assert lookup.read(environ({"SLURM_JOB_ID": "17"}), job_id) == COMPLETE
    assert asked() == [QUESTION]


def test_job_id_of_a_job_that_is_over_is_explained(answer) -> None:
    answer({QUESTION: job_details(state="COMPLETED")})
    with pytest.raises(ClusterError) as caught:
        lookup.read(environ({"SLURM_JOB_ID": "17"}))
    assert str(caught.value) == (
        "SLURM_JOB_ID=17: the job does not run (its state is COMPLETED); "
        "see squeue --me for those that do"
    )


@pytest.mark.parametrize("variables", [{}, {"SLURM_JOB_ID": ""}])
def test_environment_without_a_job_is_explained(program: Program, variables) -> None:
    with pytest.raises(ClusterError) as caught:
        lookup.read(environ(variables))
    assert str(caught.value) == (
        "SLURM_JOB_ID is not set: run inside salloc or sbatch, or pass the job's environment on"
    )


def test_scontrol_is_looked_for_where_the_given_environment_says(tmp_path: Path) -> None:
    with pytest.raises(SlurmCommandError) as caught:
        lookup.read(JOB | {"PATH": str(tmp_path)})
    assert str(caught.value) == (
        "scontrol show job --details 17: scontrol is not on PATH although this is a Slurm job; "
        "load the site's slurm module; inside a container, run the driver outside of it"
    )


def test_answer_that_does_not_parse_is_explained(answer) -> None:
    answer({QUESTION: job_details().replace("CPU_IDs=0-127", "CPU_IDs=127-0")})
    with pytest.raises(SlurmCommandError) as caught:
        lookup.read(environ())
    assert str(caught.value) == (
        f"{QUESTION}: its answer does not parse: the range 127-0 ends before it begins"
    )


# What users write.

LINES = "x\n   NodeList=n9\n   OverSubscribe=OK Contiguous=0\nJobId=99 JobName=x"


@pytest.mark.parametrize(
    "name",
    ["EndTime=2001-01-01T00:00:00 OverSubscribe=OK", "JobId=9 HetJobId=7", "two  blanks", ""],
)
def test_name_of_a_job_changes_nothing(answer, name: str) -> None:
    asked = answer({QUESTION: job_details(name=name)})
    assert lookup.read(environ()) == COMPLETE
    assert asked() == [QUESTION]


def test_name_that_looks_like_slurms_lines_is_asked_for(answer) -> None:
    words = f"MARK{LINES}MARK(null)MARK(null)MARK\n"
    asked = answer({QUESTION: job_details(name=LINES), WORDS.format(17): words})
    assert lookup.read(environ()) == COMPLETE
    assert asked() == [QUESTION, WORDS.format(17)]


def array(*jobs: tuple[str, str], name: str = "interactive") -> str:
    return "\n".join(
        job_details(job=f"{job} ArrayJobId=17 ArrayTaskId={task}", name=name) for job, task in jobs
    )


def test_job_of_an_array_is_not_taken_for_its_neighbours(answer) -> None:
    """The last one has the number of all, so that Slurm tells of all when asked for it."""
    other = array(("18", "1")).replace("NodeList=n[1-3]", "NodeList=n9").replace("n[1-2]", "n9")
    own = array(("17", "2"))
    alone = "scontrol show job --details 17_2"
    asked = answer({QUESTION: f"{other}\n{own}", alone: own})
    assert lookup.read(environ()) == COMPLETE
    assert asked() == [QUESTION, alone]


def test_line_that_looks_like_the_job_of_an_array_is_not_it(answer) -> None:
    name = "x\nJobId=17 ArrayJobId=17 ArrayTaskId=1 JobName=x"
    text = array(("18", "1"), name=name) + "\n" + array(("17", "2"))
    answer(
        {
            QUESTION: text,
            "scontrol show job --details 17_1": array(("18", "1"), name=name),
            "scontrol show job --details 17_2": array(("17", "2")),
        }
    )
    assert lookup.read(environ()) == COMPLETE


def test_array_that_does_not_list_the_job_is_explained(answer) -> None:
    answer({QUESTION: array(("18", "1"), ("19", "2"))})
    with pytest.raises(ClusterError, match=r"^SLURM_JOB_ID=17: Slurm lists"):
        lookup.read(environ())


# A job from outside.


@pytest.mark.parametrize("job_id", [18, "18"])
def test_job_that_is_named_is_asked_for(answer, job_id: int | str) -> None:
    answer({"scontrol show job --details 18": job_details(job="18")})
    assert lookup.read(environ({}), job_id) == replace(COMPLETE, job_id="18")
    assert lookup.read(environ(), job_id) == replace(COMPLETE, job_id="18")


@pytest.mark.parametrize(
    ("state", "what"),
    [
        ("PENDING", "has not started yet (its state is PENDING)"),
        ("COMPLETED", "does not run (its state is COMPLETED)"),
        ("CANCELLED", "does not run (its state is CANCELLED)"),
    ],
)
def test_job_that_does_not_run_is_explained(answer, state: str, what: str) -> None:
    answer({QUESTION: job_details(state=state)})
    with pytest.raises(ClusterError) as caught:
        lookup.read(environ({}), "17")
    assert str(caught.value) == f"job_id='17': the job {what}; see squeue --me for those that do"


@pytest.mark.parametrize("variables", [{}, JOB, {"SLURM_JOB_ID": "17"}])
def test_component_of_a_heterogeneous_job_is_refused(answer, variables: dict[str, str]) -> None:
    answer({QUESTION: job_details(job="17 HetJobId=17 HetJobOffset=0")})
    with pytest.raises(ClusterError, match="heterogeneous Slurm job"):
        lookup.read(environ(variables), "17")


def test_array_of_jobs_is_not_one_allocation(answer) -> None:
    answer({QUESTION: array(("17", "2"), ("18", "1"))})
    with pytest.raises(ClusterError) as caught:
        lookup.read(environ({}), "17")
    assert str(caught.value) == (
        "job_id='17' is an array of jobs, which have nodes of their own; name one of them: "
        "17_2, 17_1"
    )


def test_job_of_an_array_goes_by_its_own_number(answer) -> None:
    """srun --jobid takes no other."""
    answer({"scontrol show job --details 17_1": array(("18", "1"))})
    assert lookup.read(environ({}), "17_1") == replace(COMPLETE, job_id="18")


def test_details_that_name_no_cpus_are_no_allocation(answer) -> None:
    """Of a job of somebody else on a site that hides them."""
    lines = [line for line in job_details().splitlines() if " Nodes=" not in line]
    answer({QUESTION: "\n".join(lines) + "\n"})
    with pytest.raises(ClusterError) as caught:
        lookup.read(environ({}), "17")
    assert str(caught.value) == (
        "job_id='17': Slurm does not tell which CPUs of which nodes the job holds; run the driver "
        "inside the job"
    )


# Steps, and hosts.


def test_nodes_of_steps_by_name(answer) -> None:
    text = (
        "MARK17.1 n[1-2] c-worker-1MARK\nMARK17.0 n1 c-scheduler-0MARK\n"
        "MARK17.2 n3 my own  step\n17.3 n9 c-worker-9MARK\nMARK17.4 n4 c-worker-1MARK\n"
    )
    answer({"squeue --jobs=17 --steps --noheader --format=MARK%i %N %jMARK": text})
    assert lookup.nodes_of_steps("17") == {
        "c-worker-1": ["n1", "n2", "n4"],
        "c-scheduler-0": ["n1"],
        "my own  step\n17.3 n9 c-worker-9": ["n3"],
    }


NODES = "scontrol show node --oneliner n1,n2,n3"


def node_lines(*cpus: int) -> str:
    return (
        "\n".join(
            f"NodeName=n{number} Arch=x86_64 CPUAlloc=1 CPUEfctv={count} CPUTot={count} CPULoad=0.1"
            for number, count in enumerate((*cpus,), start=1)
        )
        + "\n"
    )


def test_cpus_of_its_nodes_that_are_not_held_are_counted(answer) -> None:
    answer({NODES: node_lines(256, 256, 64)})
    assert lookup.partly_held(SHARED) == [
        "Slurm job 17 holds 320 of the 576 CPUs of its nodes, and only those are used; "
        "allocate with --exclusive to have whole nodes"
    ]


def test_whole_nodes_that_might_be_shared_are_no_news(answer) -> None:
    answer({NODES: node_lines(128, 128, 64)})
    assert lookup.partly_held(SHARED) == []


@pytest.mark.parametrize("held", [COMPLETE, local_allocation()], ids=["exclusive", "local"])
def test_exclusive_nodes_and_this_machine_need_no_question(answer, held: Allocation) -> None:
    asked = answer({})
    assert lookup.partly_held(held) == []
    assert asked() == []


@pytest.mark.parametrize(("hosts", "one"), [(["h", "h", "h"], True), (["h", "h", "g"], False)])
def test_nodes_on_one_host(answer, hosts: list[str], one: bool) -> None:
    text = "".join(
        f"NodeName=n{n} Arch=x86_64 NodeAddr=n{n} NodeHostName={host} Port=1\n"
        for n, host in enumerate(hosts, 1)
    )
    answer({NODES: text})
    assert lookup.on_one_host(COMPLETE) is one


@pytest.mark.parametrize(
    "held",
    [local_allocation(3), replace(COMPLETE, nodes=COMPLETE.nodes[:1])],
    ids=["local", "one"],
)
def test_one_node_is_on_one_host_and_slurm_is_not_asked(answer, held: Allocation) -> None:
    asked = answer({})
    assert lookup.on_one_host(held)
    assert asked() == []


# Finding one.


@pytest.fixture
def in_job(answer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of job 17, which may be shared."""
    answer({QUESTION: job_details(share="OK"), NODES: node_lines(256, 256, 64)})
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("in_job")
@pytest.mark.parametrize("launcher", [None, "srun"])
def test_slurm_job_is_found_and_its_news_are_logged(
    launcher: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert lookup.find(launcher, None, None, None) == SHARED
    assert caplog.messages == lookup.partly_held(SHARED) != []


@pytest.mark.usefixtures("in_job")
def test_this_machine_is_found_also_in_a_job(caplog: pytest.LogCaptureFixture) -> None:
    assert lookup.find("local", None, 2, None) == local_allocation(2)
    assert caplog.messages == []


@pytest.mark.parametrize("job", [None, ""])
def test_this_machine_is_found_without_a_job_and_that_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, job: str | None
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if job is not None:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert lookup.find(None, None, None, 3) == local_allocation(1)
    assert lookup.find(None, None, 2, None) == local_allocation(2)
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
        lookup.find(launcher, job_id, None, None)
    assert str(caught.value) == message


@pytest.mark.parametrize(("launcher", "job_id"), [("srun", None), (None, "18")])
def test_job_that_is_asked_for_is_never_replaced_by_this_machine(
    program: Program, monkeypatch: pytest.MonkeyPatch, launcher: str | None, job_id: str | None
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ClusterError):
        lookup.find(launcher, job_id, None, None)
