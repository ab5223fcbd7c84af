"""The variables of Slurm: which of them an srun of ours inherits, and which a task sees."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from ips_dask_cluster.slurm.variables import (
    INPUT_VARIABLES,
    SEEN_BY_TASKS,
    misleading_programs,
    misleading_steps,
)

# A name and the versions of Slurm whose srun(1) has it below INPUT ENVIRONMENT VARIABLES.
LISTED = {
    line.split()[0]
    for line in Path(__file__).with_name("srun_input_variables.txt").read_text().splitlines()
}
# What srun reads as well, found in its program or on other pages of the manual.
UNLISTED = {
    "SLURM_ARBITRARY_NODELIST",
    "SLURM_CLUSTER_CONSTRAINT",
    "SLURM_CONF_SERVER",
    "SLURM_CONSOLIDATE_SEGMENTS",
    "SLURM_GPUS_PER_SOCKET",
    "SLURM_HOSTFILE",
    "SLURM_JWT",
    "SLURM_MULTI_PROG",
    "SLURM_NCORES_PER_SOCKET",
    "SLURM_NODE_ALIASES",
    "SLURM_NSOCKETS_PER_NODE",
    "SLURM_NTASKS_PER_TRES",
    "SLURM_OOM_KILL_STEP",
    "SLURM_SACK_SOCKET",
    "SLURM_SPREAD_SEGMENTS",
    "SLURM_SRUN_MULTI",
    "SLURM_STEPMGR",
    "SLURM_TREE_WIDTH",
    "SLURM_WORKING_CLUSTER",
}
# How srun reaches Slurm, and the job itself.
NEEDED = {
    "SLURM_CONF",
    "SLURM_CONF_SERVER",
    "SLURM_JOB_ID",
    "SLURM_JOB_NAME",
    "SLURM_JOB_NUM_NODES",
    "SLURM_JWT",
    "SLURM_NODE_ALIASES",
    "SLURM_SACK_SOCKET",
    "SLURM_STEPMGR",
    "SLURM_WORKING_CLUSTER",
}
# How a program of the user's runs.
OF_PROGRAMS = {
    "PMI_FANOUT",
    "PMI_FANOUT_OFF_HOST",
    "PMI_TIME",
    "SLURM_ACCTG_FREQ",
    "SLURM_CPU_FREQ_REQ",
    "SLURM_GPU_FREQ",
    "SLURM_MPI_TYPE",
    "SLURM_NETWORK",
    "SLURM_OOMKILLSTEP",
    "SLURM_OOM_KILL_STEP",
    "SLURM_PMI_KVS_NO_DUP_KEYS",
    "SLURM_PROFILE",
    "SLURM_RESV_PORTS",
    "SLURM_TASK_EPILOG",
    "SLURM_TASK_PROLOG",
    "SRUN_CONTAINER",
    "SRUN_CONTAINER_TYPE",
}


def test_every_variable_that_any_version_reads_is_known() -> None:
    assert len(LISTED) > 100
    assert LISTED | UNLISTED == INPUT_VARIABLES


def test_step_of_the_cluster_inherits_no_option() -> None:
    assert INPUT_VARIABLES.difference(misleading_steps(INPUT_VARIABLES)) == NEEDED


def test_program_inherits_what_says_how_it_runs() -> None:
    assert INPUT_VARIABLES.difference(misleading_programs(INPUT_VARIABLES)) == NEEDED | OF_PROGRAMS


@pytest.mark.parametrize("misleading", [misleading_steps, misleading_programs])
def test_variables_of_another_step_and_of_another_rank_are_misleading(misleading) -> None:
    """In order, so that command lines made of them are always the same."""
    others = ["PMIX_RANK", "PMI_RANK", "SLURM_CPU_BIND_LIST", "SLURM_STEP_ID", "SRUN_NEW_OPTION"]
    kept = {"PATH", "MY_SLURM_HINT", "SLURM_JOB_NODELIST", "SLURM_TMPDIR", "SLURM_ARRAY_TASK_ID"}
    assert misleading({*others, *kept}) == others


def test_tasks_see_the_job_and_how_to_reach_slurm() -> None:
    def seen(names: set[str]) -> set[str]:
        return {name for name in names if any(fnmatchcase(name, each) for each in SEEN_BY_TASKS)}

    assert seen(set(INPUT_VARIABLES)) == NEEDED
    of_job = {"SLURM_JOBID", "SLURM_JOB_NODELIST", "SLURM_SUBMIT_DIR", "SLURM_SPANK_IMAGE"}
    assert seen({*of_job, "SLURM_PROCID", "SLURM_NODEID", "SLURM_STEPID"}) == of_job
