"""What a step's log says becomes one sentence with the cause and the remedy."""

from __future__ import annotations

from importlib import resources

import pytest

from ips_dask_cluster.diagnosis import RUN_DIRECTORY_INVISIBLE, diagnose

UNKNOWN = "no known symptom in its log"

SYMPTOMS = [
    (
        "ips-dask: node n2 cannot see the directory /home/me/.c",
        "node n2 cannot see the directory /home/me/.c; choose shared_temp_directory (IPS: SIM_ROOT)"
        " on a file system that every node mounts",
    ),
    (
        "srun: error: Unable to create step for job 17: More processors requested than permitted",
        "allocate with --exclusive, or pass a smaller cores=",
    ),
    (
        "srun: Job 17 step creation temporarily disabled, retrying (Requested nodes are busy)",
        "another step holds the nodes exclusively",
    ),
    ("srun: Job 17 step creation still disabled, retrying", "srun --overlap --pty bash"),
    ("srun: error: Unable to create step for job 17: Requested nodes are busy", "--overlap"),
    (
        "srun: error: Unable to allocate resources: "
        "Invalid account or account/partition combination specified",
        "look at SLURM_ACCOUNT, SLURM_PARTITION and srun_extra_args",
    ),
    (
        "srun: error: Unable to create step for job 17: Memory required by task is not available",
        "the step asks for something its nodes do not have",
    ),
    (
        "srun: error: Unable to create step for job 17: "
        "Requested node configuration is not available",
        "the step asks for something its nodes do not have",
    ),
    ("srun: error: Unable to confirm allocation for job 17: Invalid job id specified", "is gone"),
    (
        "srun: error: Unable to create step for job 17: Job/step already completing or completed",
        "it was cancelled or reached its time limit",
    ),
    ("srun: Job 17 has been cancelled", "it was cancelled or reached its time limit"),
    ("slurmstepd: error: Job credential expired", "the allocation is gone"),
    ("slurmstepd: error: Job credential revoked", "the allocation is gone"),
    (
        "slurmstepd: error: *** STEP 17.0 ON n1 CANCELLED AT 2026-03-01T10:30:00 DUE TO TIME LIMIT"
        " ***",
        "the allocation reached its time limit",
    ),
    (
        "ModuleNotFoundError: No module named 'distributed'",
        "the Python of the nodes has no module 'distributed'; install dask and distributed there",
    ),
    ("/usr/bin/python3: No module named distributed", "has no module 'distributed'"),
    (
        "c-worker-1: line 72: shifter: command not found",
        "the nodes have no program shifter; pass python= (or container=)",
    ),
    (
        "c-worker-1: line 72: /opt/py/bin/python: No such file or directory",
        "the nodes have no program /opt/py/bin/python; pass python=",
    ),
    (
        "srun: error: Unable to contact slurm controller (connect failure)",
        "srun cannot reach the Slurm controller; it is down or overloaded, try again",
    ),
    (
        "ips-dask: node n1 got no scheduler address within 120 s",
        "node n1 got no scheduler address within 120 s: the scheduler did not start in time",
    ),
    ("srun: error: n1: task 0: Out Of Memory", "a process ran out of memory"),
    (
        "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=17.0.",
        "use fewer threads a worker, or nodes with more memory",
    ),
]


@pytest.mark.parametrize(("line", "fragment"), SYMPTOMS)
def test_line_of_a_log_is_recognised(line: str, fragment: str) -> None:
    log = f"srun: something before\n{line}\nsrun: error: n1: task 0: Exited with exit code 1"
    assert fragment in diagnose(1, log)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (126, "a program of the script is not executable on the node"),
        (127, "a program of the script is missing on the node"),
        (253, "Slurm ended it because a process ran out of memory"),
        (-9, "it was killed by signal 9"),
        (-15, "it was killed by signal 15"),
        (1, UNKNOWN),
        (0, UNKNOWN),
        (None, UNKNOWN),
    ],
)
def test_exit_code_alone(code: int | None, sentence: str) -> None:
    assert diagnose(code, "nothing\nin particular\n") == sentence


def test_message_beats_the_exit_code() -> None:
    assert diagnose(-9, "srun: error: n1: task 0: Out Of Memory").startswith("a process ran out")


def test_our_own_message_beats_what_follows_from_it() -> None:
    log = (
        "ips-dask: node n2 cannot see the directory /home/me/.c\n"
        "srun: error: Unable to create step for job 17: Job/step already completing or completed"
    )
    assert diagnose(1, log).startswith("node n2 cannot see the directory /home/me/.c; ")


@pytest.mark.parametrize("script", ["scheduler.sh", "worker.sh"])
def test_scripts_use_the_exit_code_of_an_invisible_directory(script: str) -> None:
    text = (resources.files("ips_dask_cluster") / "templates" / script).read_text()
    assert f"exit {RUN_DIRECTORY_INVISIBLE}" in text
