"""What srun says of the end of a parallel program."""

from __future__ import annotations

import pytest

from ips_core.tasks.srun import read_srun


@pytest.mark.parametrize(
    ("code", "output", "status", "error"),
    [
        (  # the rank that failed, not those that srun ended for it
            143,
            "a line\nsrun: error: n2: task 1: Exited with exit code 5\n"
            "srun: launch/slurm: _step_signal: Terminating StepId=1.7\n"
            "srun: error: n4: tasks 2-3: Terminated\n",
            5,
            "exit code 5 of rank 1 on n2",
        ),
        (
            143,
            "srun: error: n2: tasks 0-1: Segmentation fault (core dumped)\n"
            "srun: error: n4: task 2: Terminated\n",
            -11,
            "rank 0-1 on n2 crashed (SIGSEGV) in compiled code",
        ),
        (
            139,
            "srun: error: n2: task 0: Unbekannt\n",
            -11,
            "rank 0 on n2 crashed (SIGSEGV) in compiled code",
        ),
        (
            127,
            "env: '/nope/x': No such file or directory\n"
            "srun: error: n2: task 0: Exited with exit code 127\n",
            127,
            "rank 0 on n2: '/nope/x': No such file or directory",
        ),
        (
            125,
            "/usr/bin/env: cannot change directory to '/w': No such file or directory\n"
            "srun: error: n4: task 1: Exited with exit code 125\n",
            127,
            "rank 1 on n4: cannot change directory to '/w': No such file or directory",
        ),
        (
            1,
            "srun: error: Unable to create step for job 1: Requested node configuration is not "
            "available\n",
            1,
            "srun: Unable to create step for job 1: Requested node configuration is not available",
        ),
        (3, "", 3, "exit code 3"),
        (  # scancel of the step, as Slurm 22.05.8 reports it
            137,
            "srun: Job step aborted: Waiting up to 7 seconds for job step to finish.\n"
            "slurmstepd-n1: error: *** STEP 6.13 ON n1 CANCELLED AT 2026-11-30T14:58:26 ***\n"
            "srun: error: n2: task 1: Killed\n"
            "srun: error: n1: task 0: Killed\n",
            -9,
            "its step 6.13 was cancelled (scancel)",
        ),
        (  # the same on Slurm 26.05.5
            137,
            "[2026-11-30T14:56:13.703] error: *** STEP 4.13 ON n1 CANCELLED AT "
            "2026-11-30T14:56:13 DUE to SIGNAL Killed ***\n"
            "srun: error: n2: task 1: Killed\n",
            -9,
            "its step 4.13 was cancelled (scancel)",
        ),
        (  # a rank that failed ended the step
            7,
            "slurmstepd-n1: error: *** STEP 6.13 ON n1 CANCELLED AT 2026-11-30T14:58:26 ***\n"
            "srun: error: n2: task 1: Killed\n"
            "srun: error: n1: task 0: Exited with exit code 7\n",
            -9,
            "rank 1 on n2: Killed",
        ),
    ],
)
def test_first_failure_is_read_from_what_srun_says(
    code: int, output: str, status: int, error: str
) -> None:
    assert read_srun(code, output) == {"exit_status": status, "error": error}
