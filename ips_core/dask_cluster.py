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
        How many.
    threads : int or None
        Threads of a worker; None: what ``cores`` says.
    cores : int or None
        Cores of a node for all its workers; None: every core of it.
    launcher : {"srun", "local"}
        Job steps, or processes on this machine.
    shifter : tuple of str or None
        Shifter's arguments; None: no container.
    per_gpu : bool
        One worker for each GPU of a node instead of one for the node.
    """

    nodes: int
    threads: int | None
    cores: int | None
    launcher: str
    shifter: tuple[str, ...] | None = None
    per_gpu: bool = False


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

    found = allocation.local(request.nodes) if request.launcher == "local" else None
    # Per GPU, the number of workers on a node is known only to the cluster
    own_threads = ["--nthreads", request.threads] if request.per_gpu and request.threads else []
    try:
        cluster = SlurmAllocationCluster(
            nodes=request.nodes,
            allocation=found,
            cores=request.cores if request.per_gpu else request.threads or request.cores,
            worker_per_gpu=request.per_gpu,
            # From the first moment: Dask does not look again at a task that waits for slots when a
            # worker that is there already gets some
            slots=True,
            worker_extra_args=own_threads,
            container=None if request.shifter is None else Shifter(arguments=request.shifter),
            shared_temp_directory=directory,
            scheduler_options={"dashboard": False},
            # what a lost worker had is the pool's to decide about; Dask would silently run it again
            scheduler_env={"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"},
            on_failure=lambda error: on_failure(str(error)),
        )
    except (
        ClusterError,
        TypeError,
        ValueError,
    ) as error:  # also from the user's dask configuration
        raise DaskClusterError(str(error)) from None
    try:
        cluster.wait_for_workers()
    except BaseException as error:
        cluster.close()
        if isinstance(error, ClusterError):
            raise DaskClusterError(str(error)) from None
        raise
    return cluster
