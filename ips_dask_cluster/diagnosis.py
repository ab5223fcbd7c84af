"""From an exit code and the end of a log to one sentence: the cause and the remedy.

Pure. The table is in order of preference: what a message says beats what an exit code hints at.
"""

from __future__ import annotations

import re

from ips_dask_cluster import containers

__all__ = ["RUN_DIRECTORY_INVISIBLE", "diagnose"]

RUN_DIRECTORY_INVISIBLE = 66
"""Exit code of the node scripts when the run directory is not there (EX_NOINPUT, sysexits(3))."""

_SYMPTOMS: tuple[tuple[str, str], ...] = (
    (
        r"ips-dask: (node \S+ cannot see the directory .*)",
        r"\1; choose shared_temp_directory (IPS: SIM_ROOT) on a file system that every node mounts",
    ),
    # The Python of a node has said it all, see versions
    (r"ips-dask: (node \S+: .*)", r"\1"),
    *containers.SYMPTOMS,
    (
        r"More processors requested than permitted",
        "srun says 'More processors requested than permitted': the step asks for more CPUs a node "
        "than the allocation holds; allocate with --exclusive, or pass a smaller cores=",
    ),
    (
        r"Requested nodes are busy|step creation (still |temporarily )?disabled",
        "another step holds the nodes exclusively; start it with --overlap (a shell on the node: "
        "srun --overlap --pty bash), or end it",
    ),
    (
        r"Invalid account or account/partition combination",
        "Slurm refuses the account or partition of the step; look at SLURM_ACCOUNT, "
        "SLURM_PARTITION and srun_extra_args",
    ),
    (
        r"Memory required by task is not available|Requested node configuration is not available",
        "the step asks for something its nodes do not have; look at srun_extra_args and at the "
        "allocation's own options",
    ),
    (
        r"Invalid job id|Job/step already completing or completed|has been cancelled|"
        r"Job credential (?:revoked|expired)",
        "the allocation is gone: it was cancelled or reached its time limit",
    ),
    (r"DUE TO TIME LIMIT", "the allocation reached its time limit"),
    (
        r"(?:STEP|JOB) \S+ ON \S+ CANCELLED",
        "Slurm cancelled it: the allocation was given back or revoked, or somebody used scancel",
    ),
    (
        r"No module named '?(\w+)'?",
        r"the Python of the nodes has no module '\1'; install dask and distributed there, or pass "
        "python= (or container=) with one that has them",
    ),
    (
        r"line \d+: (\S+): (?:No such file or directory|command not found)",
        r"the nodes have no program \1; pass python= (or container=) with one that exists there, "
        "or load its module in job_script_prologue",
    ),
    (
        r"[Uu]nable to contact slurm controller",
        "srun cannot reach the Slurm controller; it is down or overloaded, try again",
    ),
    (
        r"ips-dask: (node \S+ got no scheduler address .*)",
        r"\1: the scheduler did not start in time",
    ),
    (
        r"[Oo]ut [Oo]f [Mm]emory|oom-kill",
        "a process ran out of memory; use fewer threads a worker, or nodes with more memory",
    ),
)

_EXIT_CODES = {
    126: "a program of the script is not executable on the node",
    127: "a program of the script is missing on the node",
    253: "Slurm ended it because a process ran out of memory",
}


def diagnose(exit_code: int | None, log_tail: str) -> str:
    """Return what most likely happened and what to do, in one sentence.

    Parameters
    ----------
    exit_code : int or None
        Of ``srun`` or of the local process; negative for a signal.
    log_tail : str
        The last lines of its log.
    """
    for pattern, sentence in _SYMPTOMS:
        match = re.search(pattern, log_tail)
        if match:
            return match.expand(sentence)
    if exit_code is not None and exit_code < 0:
        return f"it was killed by signal {-exit_code}"
    return _EXIT_CODES.get(exit_code or 0, "no known symptom in its log")
