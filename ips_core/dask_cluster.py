"""The only module that asks ``ips_dask_cluster`` for anything, and only when called.

A simulation without Dask pools never pays for the import of distributed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ips_core.errors import ConfigError, DaskClusterError

__all__ = ["ClusterRequest", "read_allocation", "shifter_arguments", "start_cluster"]


@dataclass(frozen=True)
class ClusterRequest:
    """What a pool asks for; equal requests share a cluster.

    Parameters
    ----------
    nodes : int
        One worker on each.
    threads : int or None
        Threads of a worker; None: every core of its node.
    launcher : {"srun", "local"}
        Job steps, or processes on this machine.
    shifter : tuple of str or None
        Shifter's arguments; None: no container.
    """

    nodes: int
    threads: int | None
    launcher: str
    shifter: tuple[str, ...] | None = None


def read_allocation() -> tuple[int, int]:
    """Return the number of nodes of this Slurm job, and of cores on each.

    Raises
    ------
    ConfigError
        Slurm's programs are missing, or do not answer.
    """
    from ips_dask_cluster import ClusterError, allocation

    try:
        found = allocation.read()
    except ClusterError as error:
        raise ConfigError("", [str(error)]) from None
    return len(found.nodes), min(node.cpus for node in found.nodes)


def shifter_arguments(arguments: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return Shifter's arguments as separate words; a string is split as a shell would."""
    from ips_dask_cluster import containers

    return containers.shifter_arguments(arguments)


def start_cluster(
    request: ClusterRequest, directory: str, on_failure: Callable[[str], None]
) -> Any:
    """Start a Dask cluster for pools and wait for its workers.

    Parameters
    ----------
    request : ClusterRequest
        What is asked for.
    directory : str
        A directory that every node sees.
    on_failure : callable
        Called with a sentence, in a thread of the cluster, when a step of it is lost later.

    Returns
    -------
    ips_dask_cluster.SlurmAllocationCluster

    Raises
    ------
    DaskClusterError
        It did not start; the sentence is the cluster's own.
    """
    from ips_dask_cluster import ClusterError, Shifter, SlurmAllocationCluster, allocation

    try:
        found = allocation.local(request.nodes) if request.launcher == "local" else None
        cluster = SlurmAllocationCluster(
            request.nodes,
            allocation=found,
            cores=request.threads,
            container=None if request.shifter is None else Shifter(arguments=request.shifter),
            shared_temp_directory=directory,
            scheduler_options={"dashboard": False},
            # a lost worker is the pool's to decide about, not Dask's: see the journal of the pool
            scheduler_env={"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"},
            on_failure=lambda error: on_failure(str(error)),
        )
    except ClusterError as error:
        raise DaskClusterError(str(error)) from None
    try:
        cluster.wait_for_workers()
    except BaseException as error:
        cluster.close()
        if isinstance(error, ClusterError):
            raise DaskClusterError(str(error)) from None
        raise
    return cluster
