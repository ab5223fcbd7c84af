"""Read the nodes of a Slurm job and their CPUs from the job's environment."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ips_dask_cluster.errors import ClusterError
from ips_dask_cluster.slurm.allocation import Allocation, Node
from ips_dask_cluster.slurm.hostlist import expand_hostlist

__all__ = ["describes_nodes", "from_environment", "heterogeneous_job", "job_of"]

_DOUBT = "is this really the environment of a Slurm job?"
_COUNT = re.compile(r"\s*([0-9]{1,9})(?:\(x([0-9]{1,9})\))?\s*")
_SIZE = re.compile(r"([0-9]{1,15})([KMGT]?)B?", re.IGNORECASE)
_UNITS = {"K": 2**10, "": 2**20, "M": 2**20, "G": 2**30, "T": 2**40}


def job_of(environ: Mapping[str, str]) -> str | None:
    """Return the job id in an environment; None outside of jobs."""
    return environ.get("SLURM_JOB_ID") or None


def describes_nodes(environ: Mapping[str, str]) -> bool:
    """Return whether an environment has every variable that :func:`from_environment` needs.

    A terminal that ssh or an editor opened often has only the job's id.
    """
    names = ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_JOB_CPUS_PER_NODE")
    return all(environ.get(name) for name in names)


def from_environment(environ: Mapping[str, str]) -> Allocation:
    """Return the allocation that a job's environment describes: its nodes, their CPUs and memory.

    salloc(1), "OUTPUT ENVIRONMENT VARIABLES", documents the variables. Raises ``ClusterError`` if
    one does not parse or if the job is heterogeneous.
    """
    if environ.get("SLURM_HET_SIZE", "") not in ("", "0", "1"):
        raise heterogeneous_job()
    nodelist = environ["SLURM_JOB_NODELIST"]
    try:
        names = expand_hostlist(nodelist)
    except ValueError as error:
        raise ClusterError(f"SLURM_JOB_NODELIST={nodelist[:60]!r}: {error}; {_DOUBT}") from None
    cpus = _counts(environ["SLURM_JOB_CPUS_PER_NODE"], len(names))
    per_node = _bytes(environ, "SLURM_MEM_PER_NODE")
    per_cpu = _bytes(environ, "SLURM_MEM_PER_CPU")
    nodes = (
        Node(name, count, per_node or per_cpu * count)
        for name, count in zip(names, cpus, strict=True)
    )
    return Allocation(environ["SLURM_JOB_ID"], tuple(nodes))


def heterogeneous_job() -> ClusterError:
    """Return the error for a heterogeneous job of several components."""
    return ClusterError(
        "this is a heterogeneous Slurm job (SLURM_HET_SIZE > 1), which is not supported: "
        "use an allocation with one component"
    )


def _counts(text: str, nodes: int) -> list[int]:
    """Return ``[128, 128, 96]`` for ``"128(x2),96"`` (sbatch(1))."""
    runs = []
    for item in text.split(","):
        match = _COUNT.fullmatch(item)
        if match is None:
            raise ClusterError(
                f"SLURM_JOB_CPUS_PER_NODE={text[:60]!r} is not of the form 128(x4),96: {_DOUBT}"
            )
        runs.append((int(match[1]), int(match[2] or 1)))
    total = sum(times for _, times in runs)
    if total != nodes:
        raise ClusterError(
            f"SLURM_JOB_NODELIST names {nodes} nodes but SLURM_JOB_CPUS_PER_NODE {total}: "
            "is this really the environment of one Slurm job?"
        )
    return [count for count, times in runs for _ in range(times)]


def _bytes(environ: Mapping[str, str], name: str) -> int:
    """Return the size in a variable, in bytes; srun(1) reads a number without a unit as MB."""
    text = environ.get(name) or "0"
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ClusterError(
            f"{name}={text[:60]!r} is not a size such as 4000 (MB) or 16G; unset {name}, or correct"
            " it"
        )
    return int(match[1]) * _UNITS[match[2].upper()]
