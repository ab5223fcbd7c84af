"""Sort Slurm's environment variables: which ones an srun inherits, and which ones a task sees.

srun reads most of its options from variables as well (srun(1), "INPUT ENVIRONMENT VARIABLES"), and
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
        # Slurm 22.05 passes the addresses of cloud nodes in it.
        "SLURM_NODE_ALIASES",
        "SLURM_SACK_SOCKET",
        # It names the node that manages the steps of a job with --stepmgr.
        "SLURM_STEPMGR",
        # salloc sets it for a job on another cluster of a federation.
        "SLURM_WORKING_CLUSTER",
    }
)
"""Variables for finding the cluster and authenticating, which every command of Slurm keeps."""

# The job itself. Kept, since our sruns pass job, name and number of nodes as options.
_JOB = frozenset({"SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_JOB_NUM_NODES"})

# Settings for a user's own program. They contradict no option of ours, so the srun of a program
# keeps them. The srun of a worker step drops them, since a worker is no MPI program.
_PROGRAM = frozenset(
    {
        "PMI_FANOUT",
        "PMI_FANOUT_OFF_HOST",
        "PMI_TIME",
        "SLURM_ACCTG_FREQ",
        "SLURM_CPU_FREQ_REQ",
        "SLURM_GPU_FREQ",
        "SLURM_MPI_TYPE",
        # salloc and sbatch pass their --network= to MPI programs in this variable.
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
        # srun would copy the executable to each node; ours is bash or env.
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
        # Debug messages of srun would mix with the output of the node scripts.
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
        # Diagnosis needs srun's usual exit codes.
        "SLURM_EXIT_ERROR",
        "SLURM_EXIT_IMMEDIATE",
        # After sbatch --export=NONE a step would have no PATH.
        "SLURM_EXPORT_ENV",
        # It counts the GPUs of the whole job, which are more than one node has.
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
        # steps.failures reads lost nodes from these messages of srun.
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
        # salloc --gpus-per-task sets it since 24.11: each task would see only the first device.
        "SLURM_TRES_BIND",
        "SLURM_TRES_PER_TASK",
        # If it is not set, srun sets it for the step from its own umask.
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

# Further options, which the manual page lacks or describes elsewhere. Source: the srun programs of
# 22.05 to 26.05 and srun's source (src/srun/libsrun/opt.c, env_vars).
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

# Variables of another step (binding, number, nodes, GPUs), and all others that only srun reads.
_MISLEADING_PREFIXES = ("SLURM_CPU_BIND_", "SLURM_MEM_BIND_", "SLURM_STEP_", "SRUN_")
# Variables of a rank of another MPI program.
_RANK_PREFIXES = ("PMI_", "PMIX_")

SEEN_BY_TASKS = (
    "SLURM_JOB_*",
    "SLURM_JOBID",
    "SLURM_CLUSTER_NAME",
    "SLURM_SUBMIT_*",
    # shifter without --image reads the image from these.
    "SLURM_SPANK_*",
    *sorted(CONNECTION),
)
"""Patterns of the Slurm and MPI variables that a worker passes on to its tasks."""


def misleading_steps(names: Iterable[str]) -> list[str]:
    """Return the variables, sorted, that the srun of a cluster's step must not inherit."""
    return [name for name in sorted(names) if name in _PROGRAM or _is_misleading(name)]


def misleading_programs(names: Iterable[str]) -> list[str]:
    """Return the variables, sorted, that the srun of a user's program must not inherit."""
    return [name for name in sorted(names) if name not in _PROGRAM and _is_misleading(name)]


def _is_misleading(name: str) -> bool:
    listed = name in _OPTION or name in _UNLISTED_OPTION
    return listed or name.startswith((*_MISLEADING_PREFIXES, *_RANK_PREFIXES))
