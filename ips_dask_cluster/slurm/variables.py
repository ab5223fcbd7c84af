"""Sort the environment variables of Slurm: what an srun of ours inherits, and what a task sees.

srun takes most of its options from variables as well (srun(1), "INPUT ENVIRONMENT VARIABLES"), and
salloc, sbatch and srun set many of these for the commands below them. An explicit option takes
precedence over its own variable, but not over the variables of other options, which may contradict
it. ``INPUT_VARIABLES`` names all of them, of Slurm 22.05 to 26.05.

Standard library only: every package of the project may import this module.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "CONNECTION",
    "INPUT_VARIABLES",
    "SEEN_BY_TASKS",
    "misleading_programs",
    "misleading_steps",
]

CONNECTION = frozenset(
    {
        "SLURM_CONF",
        "SLURM_CONF_SERVER",
        "SLURM_JWT",
        # Addresses of cloud nodes, in 22.05.
        "SLURM_NODE_ALIASES",
        "SLURM_SACK_SOCKET",
        # The node that manages the steps of a job with --stepmgr.
        "SLURM_STEPMGR",
        # Of a job on another cluster of a federation.
        "SLURM_WORKING_CLUSTER",
    }
)
"""How Slurm's commands find the cluster and prove who asks. Every command keeps these."""

# The job itself. Our sruns name another job, fewer nodes or another name explicitly.
_JOB = frozenset({"SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_JOB_NUM_NODES"})

# How a user's own program runs, which contradicts no option of ours: kept for programs. A worker is
# no MPI program and opens no files for Slurm, so that its steps do without.
_PROGRAM = frozenset(
    {
        "PMI_FANOUT",
        "PMI_FANOUT_OFF_HOST",
        "PMI_TIME",
        "SLURM_ACCTG_FREQ",
        "SLURM_CPU_FREQ_REQ",
        "SLURM_GPU_FREQ",
        "SLURM_MPI_TYPE",
        # salloc and sbatch hand their --network= to MPI programs by this variable.
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
)

# Options that no srun of ours inherits.
_OPTION = frozenset(
    {
        "SLURMD_DEBUG",
        "SLURM_ACCOUNT",
        # The executable would be copied to each node; ours is bash or env.
        "SLURM_BCAST",
        "SLURM_BCAST_EXCLUDE",
        "SLURM_BURST_BUFFER",
        # The cluster of the job is in SLURM_WORKING_CLUSTER.
        "SLURM_CLUSTERS",
        "SLURM_COMPRESS",
        "SLURM_CONSTRAINT",
        "SLURM_CORE_SPEC",
        "SLURM_CPUS_PER_GPU",
        "SLURM_CPUS_PER_TASK",
        "SLURM_CPU_BIND",
        # Messages of srun come between the node scripts and us.
        "SLURM_DEBUG",
        "SLURM_DEBUG_FLAGS",
        "SLURM_DELAY_BOOT",
        "SLURM_DEPENDENCY",
        "SLURM_DISABLE_STATUS",
        "SLURM_DISTRIBUTION",
        "SLURM_DIST_PLANESIZE",
        "SLURM_EPILOG",
        "SLURM_EXACT",
        "SLURM_EXCLUSIVE",
        # A diagnosis goes by the exit code.
        "SLURM_EXIT_ERROR",
        "SLURM_EXIT_IMMEDIATE",
        # After sbatch --export=NONE a step would get no PATH.
        "SLURM_EXPORT_ENV",
        # Of the whole job: more than some of its nodes have.
        "SLURM_GPUS",
        "SLURM_GPUS_PER_NODE",
        "SLURM_GPUS_PER_TASK",
        "SLURM_GPU_BIND",
        "SLURM_GRES",
        "SLURM_GRES_FLAGS",
        "SLURM_HINT",
        "SLURM_IMMEDIATE",
        "SLURM_KILL_BAD_EXIT",
        # Labels and separate files would hide the output of the node scripts.
        "SLURM_LABELIO",
        "SLURM_MEM_BIND",
        "SLURM_MEM_PER_CPU",
        "SLURM_MEM_PER_GPU",
        "SLURM_MEM_PER_NODE",
        "SLURM_NNODES",
        "SLURM_NO_KILL",
        "SLURM_NPROCS",
        "SLURM_NTASKS",
        "SLURM_NTASKS_PER_CORE",
        "SLURM_NTASKS_PER_GPU",
        "SLURM_NTASKS_PER_NODE",
        "SLURM_NTASKS_PER_SOCKET",
        "SLURM_OPEN_MODE",
        "SLURM_OVERCOMMIT",
        "SLURM_OVERLAP",
        "SLURM_PARTITION",
        "SLURM_POWER",
        "SLURM_PROLOG",
        "SLURM_QOS",
        "SLURM_REMOTE_CWD",
        "SLURM_REQ_SWITCH",
        "SLURM_RESERVATION",
        "SLURM_SEND_LIBS",
        "SLURM_SIGNAL",
        "SLURM_SPREAD_JOB",
        # A failure is read from these messages of srun.
        "SLURM_SRUN_REDUCE_TASK_EXIT_MSG",
        "SLURM_STDERRMODE",
        "SLURM_STDINMODE",
        "SLURM_STDOUTMODE",
        "SLURM_STEP_GRES",
        "SLURM_STEP_KILLED_MSG_NODE_ID",
        "SLURM_TEST_EXEC",
        "SLURM_THREADS",
        "SLURM_THREADS_PER_CORE",
        "SLURM_THREAD_SPEC",
        "SLURM_TIMELIMIT",
        # salloc --gpus-per-task sets it from 24.11 on: each task would see the first device.
        "SLURM_TRES_BIND",
        "SLURM_TRES_PER_TASK",
        # srun sets it for the step from its own umask, unless there is one already.
        "SLURM_UMASK",
        "SLURM_UNBUFFEREDIO",
        "SLURM_USE_MIN_NODES",
        "SLURM_WAIT",
        "SLURM_WAIT4SWITCH",
        "SLURM_WCKEY",
        "SLURM_WORKING_DIR",
        # One container holds one step at a time.
        "SRUN_CONTAINER_ID",
        "SRUN_CPUS_PER_TASK",
        "SRUN_ERROR",
        "SRUN_EXPORT_ENV",
        "SRUN_INPUT",
        "SRUN_OUTPUT",
        "SRUN_SEGMENT_SIZE",
    }
)

# Options as well, which the manual page lacks or describes elsewhere; seen in the srun programs of
# 22.05 to 26.05 and in srun's source (src/srun/libsrun/opt.c, env_vars).
_UNLISTED_OPTION = frozenset(
    {
        "SLURM_ARBITRARY_NODELIST",
        "SLURM_CLUSTER_CONSTRAINT",
        "SLURM_CONSOLIDATE_SEGMENTS",
        "SLURM_GPUS_PER_SOCKET",
        "SLURM_HOSTFILE",
        "SLURM_MULTI_PROG",
        "SLURM_NCORES_PER_SOCKET",
        "SLURM_NSOCKETS_PER_NODE",
        "SLURM_NTASKS_PER_TRES",
        "SLURM_SPREAD_SEGMENTS",
        "SLURM_SRUN_MULTI",
        "SLURM_TREE_WIDTH",
    }
)

INPUT_VARIABLES = CONNECTION | _JOB | _PROGRAM | _OPTION | _UNLISTED_OPTION
"""Every variable that srun reads, of Slurm 22.05 to 26.05."""

# Of another step: its binding, number, nodes, GPUs; and whatever else is for srun alone.
_MISLEADING_PREFIXES = ("SLURM_CPU_BIND_", "SLURM_MEM_BIND_", "SLURM_STEP_", "SRUN_")
# Of a rank of another MPI program.
_RANK_PREFIXES = ("PMI_", "PMIX_")

SEEN_BY_TASKS = (
    "SLURM_JOB_*",
    "SLURM_JOBID",
    "SLURM_CLUSTER_NAME",
    "SLURM_SUBMIT_*",
    # A bare shifter takes its image from there.
    "SLURM_SPANK_*",
    *sorted(CONNECTION),
)
"""Patterns of the variables that a worker leaves to its tasks, of those that Slurm and MPI set."""


def misleading_steps(names: Iterable[str]) -> list[str]:
    """Return the variables, sorted, that the srun of a cluster's step must not inherit."""
    return [name for name in sorted(names) if name in _PROGRAM or _is_misleading(name)]


def misleading_programs(names: Iterable[str]) -> list[str]:
    """Return the variables, sorted, that the srun of a user's program must not inherit."""
    return [name for name in sorted(names) if name not in _PROGRAM and _is_misleading(name)]


def _is_misleading(name: str) -> bool:
    listed = name in _OPTION or name in _UNLISTED_OPTION
    return listed or name.startswith((*_MISLEADING_PREFIXES, *_RANK_PREFIXES))
