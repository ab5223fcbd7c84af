"""Look up an allocation in the environment, and ask Slurm for the rest."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ips_dask_cluster.errors import ClusterError, SlurmCommandError
from ips_dask_cluster.slurm import commands
from ips_dask_cluster.slurm.allocation import Allocation, Node, shorten
from ips_dask_cluster.slurm.environment import (
    describes_nodes,
    from_environment,
    heterogeneous_job,
    job_of,
)
from ips_dask_cluster.slurm.hostlist import expand_hostlist
from ips_dask_cluster.slurm.job_details import (
    JobDetails,
    JobHead,
    is_ambiguous,
    parse_job,
    read_heads,
)
from ips_dask_cluster.slurm.this_machine import local_allocation

__all__ = ["find", "nodes_of_steps", "on_one_host", "partly_held", "read"]

logger = logging.getLogger("ips_dask_cluster")

_TASK = re.compile(r"[0-9]+_[0-9]+")
#: Array tasks that are tried for one job id: all but one are free text that looks like Slurm's.
_MOST_TASKS = 8


def read(environ: Mapping[str, str] | None = None, job_id: str | int | None = None) -> Allocation:
    """Return the allocation of a running job of the user's; default: the job of the environment.

    It asks Slurm for what the environment (default: that of this process) lacks. Raises
    ``ClusterError`` if the environment is not that of a Slurm job or if the job does not run, and
    ``SlurmCommandError`` if ``scontrol`` is missing or does not know the job.
    """
    environ = os.environ if environ is None else environ
    own = job_of(environ)
    if job_id is not None and str(job_id) != own:
        return _from_details(str(job_id), f"job_id={str(job_id)!r}", environ)
    if own is None:
        raise ClusterError(
            "SLURM_JOB_ID is not set: run inside salloc or sbatch, or pass the job's environment on"
        )
    if not describes_nodes(environ):
        return _from_details(own, f"SLURM_JOB_ID={own}", environ, own)
    allocation = from_environment(environ)
    details = _details(own, environ, own)
    told = {node.name: node for node in details.nodes}
    nodes = (_completed(node, told.get(node.name)) for node in allocation.nodes)
    return replace(allocation, nodes=tuple(nodes), end_time=details.end, shared=details.shared)


def _completed(node: Node, told: Node | None) -> Node:
    """Return a node with the memory and the GPUs that only Slurm's details have."""
    if told is None:
        return node
    return replace(node, memory=told.memory or node.memory, gpus=told.gpus)


def _from_details(
    job_id: str, named: str, environ: Mapping[str, str], number: str = ""
) -> Allocation:
    details = _details(job_id, environ, number)
    if details.state != "RUNNING":
        what = "has not started yet" if details.state == "PENDING" else "does not run"
        raise ClusterError(
            f"{named}: the job {what} (its state is {details.state or 'unknown'}); "
            "see squeue --me for those that do"
        )
    if not details.nodes:
        raise ClusterError(
            f"{named}: Slurm does not tell which CPUs of which nodes the job holds; run the "
            "driver inside the job"
        )
    return Allocation(details.head.job_id, details.nodes, details.end, details.shared)


def _details(job_id: str, environ: Mapping[str, str], number: str = "") -> JobDetails:
    """Return the details of a job that a user names ``"17"``, or ``"17_1"`` for an array task.

    ``number`` is the job's own number if ``job_id`` came from the job's environment. The first task
    of an array has the number of the whole array; with ``number``, that one task is meant.
    """
    text = commands.show_job(job_id, environ)
    heads = read_heads(text)
    if heads and heads[0].heterogeneous:
        raise heterogeneous_job()
    if heads and heads[0].task and len(heads) > 1 and not _TASK.fullmatch(job_id):
        if not number:
            raise ClusterError(
                f"job_id={job_id!r} is an array of jobs, which have nodes of their own; name one "
                f"of them: {shorten([head.task for head in heads if head.task])}"
            )
        job_id, text = _task_of_array(number, heads, environ)
    words = commands.show_job_words(job_id, environ) if is_ambiguous(text) else ()
    try:
        return parse_job(text, words)
    except ValueError as error:
        raise SlurmCommandError(
            f"scontrol show job --details {job_id}", f"its answer does not parse: {error}"
        ) from None


def _task_of_array(
    number: str, heads: Sequence[JobHead], environ: Mapping[str, str]
) -> tuple[str, str]:
    """Return the name of the array task with a job number, and what Slurm prints for it alone."""
    for task in [head.task for head in heads if head.job_id == number][:_MOST_TASKS]:
        text = commands.show_job(task, environ)
        # Only the first line is certainly Slurm's and not from a job's name
        if [head.job_id for head in read_heads(text)[:1]] == [number]:
            return task, text
    raise ClusterError(f"SLURM_JOB_ID={number}: Slurm lists the job's array without this job")


def nodes_of_steps(job_id: str) -> dict[str, list[str]]:
    """Return the nodes of the running steps of a job, by the steps' names.

    Raises ``SlurmCommandError`` if ``squeue`` is missing or fails.
    """
    steps: dict[str, list[str]] = {}
    for step in commands.list_steps(job_id):
        with contextlib.suppress(ValueError):
            steps.setdefault(step.name, []).extend(expand_hostlist(step.nodes))
    return steps


def partly_held(allocation: Allocation, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return a warning if the allocation holds only a part of its nodes, else nothing.

    ``salloc -N4`` without ``--exclusive`` holds one core of each node on many sites. Slurm is asked
    for the sizes of the nodes only if the job may be such a job.
    """
    if not allocation.shared or allocation.job_id is None:
        return []
    shown = commands.show_nodes((node.name for node in allocation.nodes), environ)
    total = sum(int(count) for count in re.findall(r"\bCPUTot=(\d+)", shown))
    held = sum(node.cpus for node in allocation.nodes)
    if held >= total:
        return []
    return [
        f"{allocation} holds {held} of the {total} CPUs of its nodes, and only those are used; "
        "allocate with --exclusive to have whole nodes"
    ]


def on_one_host(allocation: Allocation) -> bool:
    """Return whether all nodes are one machine, as in a private Slurm for tests; asks Slurm."""
    if allocation.job_id is None or len(allocation.nodes) == 1:
        return True
    shown = commands.show_nodes(node.name for node in allocation.nodes)
    return len(set(re.findall(r"\bNodeHostName=(\S+)", shown))) == 1


def find(
    launcher: str | None, job_id: str | int | None, nodes: int | None, cores: int | None
) -> Allocation:
    """Return the allocation to use: that of a Slurm job, or this machine where there is none.

    ``launcher`` is ``"srun"``, ``"local"`` or None, which means a Slurm job if there is one;
    ``job_id`` names a job to use from outside. Without Slurm, ``nodes`` is the number of "nodes"
    that this machine stands for. The function logs a warning if the job holds only a part of its
    nodes, or if None led to this machine (``cores`` is only for that message). Raises
    ``ValueError`` for a wrong ``launcher``, and otherwise like :func:`read`.
    """
    if launcher not in (None, "srun", "local"):
        raise ValueError(f'launcher={launcher!r}: expected "srun" or "local"')
    if launcher == "local" and job_id is not None:
        raise ValueError(f'launcher="local" starts nothing in a job, such as job_id={job_id!r}')
    if launcher == "srun" or job_id is not None or (launcher is None and job_of(os.environ)):
        found = read(job_id=job_id)
        for line in partly_held(found):
            logger.warning("%s", line)
        return found
    found = local_allocation(nodes or 1)
    if launcher is None:
        logger.warning(
            "no Slurm allocation (SLURM_JOB_ID is not set): %d worker(s) with %d thread(s) each "
            "on this machine",
            len(found.nodes),
            cores or found.nodes[0].cpus,
        )
    return found
