"""Asking Slurm: in which environment, in which words, and what its answers mean."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ips_dask_cluster.errors import SlurmCommandError
from ips_dask_cluster.slurm import commands
from ips_dask_cluster.slurm.commands import JobTimes, RunningStep, clean_environment

Program = Callable[..., Path]

# Of scontrol(1), squeue(1) and scancel(1), ENVIRONMENT VARIABLES, of Slurm 22.05, 24.11 and 26.05.
DOCUMENTED = [
    "SCONTROL_ALL",
    "SCONTROL_FEDERATION",
    "SCONTROL_FUTURE",
    "SCONTROL_LOCAL",
    "SCONTROL_SIBLING",
    "SLURM_BITSTR_LEN",
    "SLURM_CONF_OUT",
    "SLURM_DEBUG_FLAGS",
    "SLURM_JSON",
    "SLURM_TIME_FORMAT",
    "SLURM_TOPO_LEN",
    "SLURM_YAML",
    "SQUEUE_ACCOUNT",
    "SQUEUE_ALL",
    "SQUEUE_ARRAY",
    "SQUEUE_NAMES",
    "SQUEUE_FEDERATION",
    "SQUEUE_FORMAT",
    "SQUEUE_FORMAT2",
    "SQUEUE_LICENSES",
    "SQUEUE_LOCAL",
    "SQUEUE_PARTITION",
    "SQUEUE_PRIORITY",
    "SQUEUE_QOS",
    "SQUEUE_SIBLING",
    "SQUEUE_SORT",
    "SQUEUE_STATES",
    "SQUEUE_USERS",
    "SCANCEL_ACCOUNT",
    "SCANCEL_BATCH",
    "SCANCEL_CTLD",
    "SCANCEL_CRON",
    "SCANCEL_FULL",
    "SCANCEL_HURRY",
    "SCANCEL_INTERACTIVE",
    "SCANCEL_NAME",
    "SCANCEL_PARTITION",
    "SCANCEL_QOS",
    "SCANCEL_STATE",
    "SCANCEL_USER",
    "SCANCEL_VERBOSE",
    "SCANCEL_WCKEY",
    "SINFO_FORMAT",
]

REACHES_SLURM = {
    "SLURM_CONF": "/etc/slurm/slurm.conf",
    "SLURM_CONF_SERVER": "ctl:6817",
    "SLURM_JWT": "token",
    "SLURM_SACK_SOCKET": "/run/slurm/sack.socket",
}
OTHERS = {"PATH": "/bin", "HOME": "/home/alice", "SLURMD_NODENAME": "n1", "LANG": "C"}


def test_variables_that_change_what_slurm_prints_are_left_out() -> None:
    environ = OTHERS | REACHES_SLURM | dict.fromkeys(DOCUMENTED, "x") | {"TZ": "Europe/Berlin"}
    assert clean_environment(environ) == OTHERS | REACHES_SLURM | {"TZ": "UTC0"}


@pytest.mark.parametrize(
    ("variables", "clusters"),
    [
        # from a login node, as the user says
        ({"SLURM_CLUSTERS": "other"}, "other"),
        ({"SLURM_CLUSTERS": "other", "SLURM_JOB_ID": ""}, "other"),
        ({"SLURM_CLUSTERS": ""}, None),
        # in the shell of salloc, on a login node
        ({"SLURM_CLUSTERS": "other", "SLURM_JOB_ID": "17"}, None),
        ({"SLURM_WORKING_CLUSTER": "far:host:6817:9728:109", "SLURM_JOB_ID": "17"}, "far"),
        # on a node of the job, where Slurm before 23.11 sets it for the local cluster as well
        (
            {
                "SLURM_CLUSTERS": "other",
                "SLURM_WORKING_CLUSTER": "here:host:6817:9728:109",
                "SLURM_JOB_ID": "17",
                "SLURMD_NODENAME": "n1",
            },
            None,
        ),
    ],
)
def test_cluster_that_is_asked_is_the_one_of_the_job(
    variables: dict[str, str], clusters: str | None
) -> None:
    assert clean_environment(variables).get("SLURM_CLUSTERS") == clusters


def test_programs_run_in_the_clean_environment(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("scontrol", "squeue"):
        program(name, 'echo "$SLURM_TIME_FORMAT,$SQUEUE_USERS,$SLURM_CONF,$TZ"')
    for name in ("SLURM_TIME_FORMAT", "SQUEUE_USERS", "SLURM_CONF"):
        monkeypatch.setenv(name, "set")
    assert commands.ask(["scontrol"]) == ",,set,UTC0\n"
    assert commands.ask(["squeue"], {"PATH": os.environ["PATH"]}) == ",,,UTC0\n"
    assert asyncio.run(commands.ask_quietly(["squeue"])) == ",,set,UTC0\n"


def test_output_in_any_encoding_is_read(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    program("squeue", r"printf 'Gr\374\337e \303\244'")
    assert commands.ask(["squeue"]) == "Gr\ufffd\ufffde ä"
    assert asyncio.run(commands.ask_quietly(["squeue"])) == "Gr\ufffd\ufffde ä"


@pytest.mark.parametrize(
    ("script", "seconds", "reason"),
    [
        (
            "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
            30.0,
            "slurm_load_jobs error: Invalid job id specified",
        ),
        (r"printf '\374' >&2; exit 1", 30.0, "\ufffd"),
        ("exit 3", 30.0, "exit code 3"),
        (
            "while :; do :; done",
            0.1,
            "no answer within 0.1 s; the Slurm controller is down or overloaded; try again",
        ),
    ],
)
def test_program_that_fails_is_explained(
    program: Program, script: str, seconds: float, reason: str
) -> None:
    program("scontrol", script)
    with pytest.raises(SlurmCommandError) as caught:
        commands.ask(["scontrol", "show", "job", "17"], seconds=seconds)
    assert str(caught.value) == f"scontrol show job 17: {reason}"
    assert asyncio.run(commands.ask_quietly(["scontrol"], seconds)) == ""


def test_program_that_cannot_start_is_explained(program: Program) -> None:
    program("scontrol").chmod(0o644)
    with pytest.raises(SlurmCommandError, match="scontrol cannot start: Permission denied"):
        commands.ask(["scontrol", "show"])
    assert asyncio.run(commands.ask_quietly(["scontrol"])) == ""
    assert asyncio.run(commands.ask_quietly(["no-such-program"])) == ""


# The end of a job.


@pytest.mark.parametrize(
    ("lines", "running", "seconds"),
    [
        ("17 RUNNING 5:00 2026-11-30T14:41:17 2026-11-30T14:46:17", True, 1796049977),
        ("17 RUNNING UNLIMITED 2026-11-30T14:41:17 NONE", True, None),
        ("17 PENDING 5:00 N/A N/A", False, None),
        ("17 COMPLETING 5:00 2026-11-30T14:41:17 2026-11-30T14:46:17", False, None),
        # an array, the first of whose jobs has the number of all
        (
            "17 PENDING 5:00 N/A N/A\n18 RUNNING 5:00 2026-11-30T14:41:17 2026-11-30T14:46:17",
            False,
            None,
        ),
        (
            "18 RUNNING UNLIMITED 2026-11-30T14:41:17 NONE\n"
            "17 RUNNING 5:00 2026-11-30T14:41:17 2026-11-30T14:46:17",
            True,
            1796049977,
        ),
        ("", False, None),
    ],
)
def test_end_of_a_job_is_read(
    program: Program, lines: str, running: bool, seconds: int | None
) -> None:
    question = "--jobs=17 --noheader --format=%A %T %l %S %e"
    program("squeue", f"[ \"$*\" = '{question}' ] || exit 9\necho '{lines}'")
    for found in (commands.job_end("17"), asyncio.run(commands.job_end_quietly("17"))):
        assert (found is not None) == running
        end = None if found is None else found.end
        assert (None if end is None else end.timestamp()) == seconds


def test_end_of_a_job_that_slurm_does_not_know_is_unknown(program: Program) -> None:
    program("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert asyncio.run(commands.job_end_quietly("17")) is None
    with pytest.raises(SlurmCommandError, match="Invalid job id"):
        commands.job_end("17")
    assert JobTimes(None).end is None


# Steps.

STEPS = """
format=${4#--format=}
mark=${format%%%*}
[ "$1 $2 $3" = '--jobs=17 --steps --noheader' ] || exit 9
[ "$format" = "$mark%i %N %j$mark" ] || exit 9
echo "${mark}17.0 n[1-2] mine${mark}"
echo "${mark}17.1  a
17.9 n1 mine
b${mark}"
echo "${mark}17.2 n3 two  words ${mark}"
"""


def test_steps_are_told_apart_whatever_they_are_called(program: Program) -> None:
    program("squeue", STEPS)
    assert commands.list_steps("17") == [
        RunningStep("17.0", "n[1-2]", "mine"),
        RunningStep("17.1", "", "a\n17.9 n1 mine\nb"),
        RunningStep("17.2", "n3", "two  words "),
    ]


@pytest.mark.parametrize("quietly", [False, True])
def test_only_the_step_of_that_name_is_cancelled(
    program: Program, tmp_path: Path, quietly: bool
) -> None:
    program("squeue", STEPS)
    program("scancel", f'echo "$*" >> {tmp_path}/cancelled')
    if quietly:
        asyncio.run(commands.cancel_steps_quietly("17", "mine"))
    else:
        commands.cancel_steps("17", "mine", 30)
    assert (tmp_path / "cancelled").read_text() == "17.0\n"


def test_step_that_cannot_be_cancelled_is_left(program: Program) -> None:
    commands.cancel_steps("17", "mine", 30)
    program("squeue", "while :; do :; done")
    begin = time.monotonic()
    commands.cancel_steps("17", "mine", 0.1)
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize(
    ("job", "argv"), [("17", "show step 17"), ("", "show step")], ids=["job", "all"]
)
def test_steps_of_one_job_or_of_all_are_shown(program: Program, job: str, argv: str) -> None:
    program("scontrol", 'echo "$*"')
    assert asyncio.run(commands.show_steps_quietly(job)) == f"{argv}\n"


def test_words_of_a_job_are_told_apart_whatever_they_are(program: Program) -> None:
    program(
        "squeue",
        "form=${3#--format=}; mark=${form%%%*}\n"
        '[ "$1 $2 $form" = "--jobs=17 --noheader $mark%j$mark%a$mark%w$mark" ] || exit 9\n'
        'echo "${mark}a\nb${mark}(null)${mark}${mark}"',
    )
    assert commands.show_job_words("17") == ("a\nb", "(null)", "")
