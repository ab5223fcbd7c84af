"""What a simulation may use: how many nodes, how many cores on each, and how tasks get there.

Pure bookkeeping; what Slurm says comes in as a value.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ips_core.config import PlatformConfig
from ips_core.errors import ConfigError

__all__ = ["Resources", "detect"]


@dataclass(frozen=True)
class Resources:
    """What a simulation may use.

    Parameters
    ----------
    nodes : int
        Number of nodes.
    cores_per_node : int
        Cores of each; the smallest where they differ.
    launcher : {"srun", "local"}
        Where Dask clusters run: on the nodes of the allocation, or as processes on this machine.
    flexible : bool
        True when the number of nodes is only a default (one, on a machine without Slurm): asking
        for more then means one, as ``MPIRUN = eval`` always did.
    """

    nodes: int
    cores_per_node: int
    launcher: str
    flexible: bool = False


def detect(
    platform: PlatformConfig,
    allocation: tuple[int, int] | None,
    nodes: int = 0,
    ppn: int = 0,
) -> Resources:
    """Return what a simulation may use.

    Parameters
    ----------
    platform : PlatformConfig
        The platform file, or an empty one.
    allocation : tuple of int or None
        Nodes and cores of each in the Slurm job, None outside of one.
    nodes, ppn : int
        ``--nodes`` and ``--ppn`` of the command line; 0 when not given.

    Raises
    ------
    ConfigError
        ``MPIRUN = srun`` outside of a Slurm job, or more nodes asked for than it has.
    """
    mpirun = platform.mpirun or ("srun" if allocation else "eval")
    if mpirun == "srun" and allocation is None:
        raise ConfigError(
            platform.file,
            ["MPIRUN = srun, but this is no Slurm job: run it inside salloc or sbatch"],
        )
    if mpirun == "srun" and allocation is not None:
        held, cores = allocation
        if nodes > held:
            raise ConfigError("", [f"--nodes {nodes}: the Slurm job has only {held}"])
        return Resources(nodes or held, ppn or platform.number("PROCS_PER_NODE") or cores, "srun")
    cores = platform.number("PROCS_PER_NODE") or platform.number("CORES_PER_NODE")
    count = nodes or platform.number("NODES")
    return Resources(
        count or 1, ppn or cores or len(os.sched_getaffinity(0)), "local", flexible=count <= 1
    )
