"""The only module that asks ``ips_dask_cluster`` for anything, and only when called.

A simulation without Dask pools never pays for the import of distributed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ips_core.errors import ConfigError, DaskClusterError
from ips_core.resources.allocation_end import JobEnd
from ips_core.resources.clusters import ClusterRequest
from ips_core.resources.nodes import NodeCapacity

__all__ = [
    "ClusterAddress",
    "Place",
    "ClusterStarted",
    "describe_cluster",
    "isolate_tls_errors",
    "read_allocation",
    "shifter_arguments",
    "start_cluster",
    "taken_nodes",
]


@dataclass(frozen=True)
class Place:
    """Where a worker runs.

    Parameters
    ----------
    worker : str
        Its name.
    node : str
        Slurm's name of the node; without Slurm a made-up one.
    slots : int
        Its threads.
    gpus : int
        Devices of its own.
    """

    worker: str
    node: str
    slots: int
    gpus: int = 0


@dataclass(frozen=True)
class ClusterAddress:
    """How a component reaches a cluster, and what it has to know of it.

    Parameters
    ----------
    request : ClusterRequest
        What was asked for.
    address : str
        The scheduler's.
    security : distributed.Security
        Its credentials.
    slots : int
        Threads of all workers.
    run_directory : str
        Where the workers keep their journals.
    workers : tuple of Place
        The workers at its start, by name.
    job_id : str or None
        The Slurm job; None: processes on this machine.
    ends_at : float or None
        When the allocation ends, in seconds since the epoch; None: not known.
    margin : float
        Seconds before that at which pools have to stop (``walltime-margin`` of the cluster).
    dashboard : str
        Where its dashboard is; empty if it has none.
    """

    request: ClusterRequest
    address: str
    security: Any
    slots: int
    run_directory: str
    workers: tuple[Place, ...] = ()
    job_id: str | None = None
    ends_at: float | None = None
    margin: float = 0.0
    dashboard: str = ""

    @property
    def end(self) -> JobEnd:
        """When tasks on the cluster have to have ended, as it was known at its start."""
        ends_at = None if self.ends_at is None else self.ends_at - self.margin
        return JobEnd(self.job_id, ends_at, self.margin)


@dataclass(frozen=True)
class ClusterStarted:
    """A cluster has started.

    Parameters
    ----------
    address : str
        The scheduler's.
    packed : bytes
        The packed :class:`ClusterAddress`, which only those can unpack who have distributed.
    """

    address: str
    packed: bytes


def isolate_tls_errors() -> None:
    """Keep a connection to one cluster that breaks from breaking those to others."""
    from ips_dask_cluster.tls_errors import isolate_tls_errors

    isolate_tls_errors()


def read_allocation() -> tuple[tuple[NodeCapacity, ...], JobEnd]:
    """Return the nodes of this Slurm job, and when tasks have to have ended on them.

    That is before the end of the job by the ``walltime-margin`` of a cluster.

    Raises
    ------
    ConfigError
        Slurm's programs are missing, or do not answer.
    """
    from ips_dask_cluster.errors import ClusterError
    from ips_dask_cluster.slurm import lookup

    try:
        found = lookup.read()
    except ClusterError as error:
        raise ConfigError("", [str(error)]) from None
    # Slurm 22.05 refuses --gres above what the poorest node of the job holds
    least = min(node.gpus for node in found.nodes)
    nodes = tuple(
        NodeCapacity(node.name, node.cpus, node.gpus, slurm_gpus=least) for node in found.nodes
    )
    margin = _margin()
    ends_at = None if found.end_time is None else found.end_time.timestamp() - margin
    return nodes, JobEnd(found.job_id, ends_at, margin)


def _margin() -> float:
    from ips_dask_cluster.configuration import Configured

    margin: float = Configured(None, {})("walltime-margin")
    return margin


def shifter_arguments(arguments: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return Shifter's arguments as separate words; a string is split as a shell would."""
    from ips_dask_cluster import containers

    return containers.shifter_arguments(arguments)


def start_cluster(
    request: ClusterRequest,
    nodes: Sequence[str],
    directory: str,
    on_failure: Callable[[str], None],
) -> Any:
    """Start a Dask cluster for pools and wait for its workers.

    Parameters
    ----------
    request : ClusterRequest
        What is asked for.
    nodes : sequence of str
        On exactly these; without Slurm only their number counts, and that is the request's.
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
    from ips_dask_cluster import ClusterError, Shifter, SlurmAllocationCluster
    from ips_dask_cluster.slurm.this_machine import local_allocation

    found = local_allocation(request.nodes) if request.launcher == "local" else None
    quiet = {} if request.dashboard else _quiet()
    # Per GPU, the number of workers on a node is known only to the cluster
    own_threads = ["--nthreads", request.threads] if request.per_gpu and request.threads else []
    try:
        cluster = SlurmAllocationCluster(
            nodes=request.nodes,
            nodelist=None if found else list(nodes),
            allocation=found,
            cores=request.cores if request.per_gpu else request.threads or request.cores,
            worker_per_gpu=request.per_gpu,
            # From the first moment: Dask does not look again at a task that waits for slots when a
            # worker that is there already gets some
            slots=True,
            worker_extra_args=own_threads,
            container=None if request.shifter is None else Shifter(arguments=request.shifter),
            shared_temp_directory=directory,
            scheduler_options={"dashboard": request.dashboard},
            # what a lost worker had is the pool's to decide about; Dask would silently run it again
            scheduler_env={"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"} | quiet,
            env=quiet,
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


def taken_nodes(nodes: Sequence[str]) -> tuple[str, ...]:
    """Return those of some nodes of this Slurm job that a cluster of another driver has."""
    from ips_dask_cluster.steps.node_locks import Claims

    claims = Claims(os.environ.get("SLURM_JOB_ID") or None, f"look-{os.getpid()}")
    try:
        claims.look_elsewhere()
        return tuple(node for node in nodes if not claims.is_free(node))
    finally:
        claims.close()


def _quiet() -> dict[str, str]:
    """Return settings under which a worker that has nothing to do does nothing.

    With Dask's own, its statistics take 6 % of a core on each node (seen), which a program there
    has to wait for; they are for the dashboard. What the user has set stays.
    """
    settings = {
        "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
        "DASK_DISTRIBUTED__WORKER__MEMORY__MONITOR_INTERVAL": "1s",
        "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "5s",
        "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "1s",
    }
    return {name: value for name, value in settings.items() if name not in os.environ}


def describe_cluster(request: ClusterRequest, cluster: Any) -> ClusterAddress:
    """Return what components have to know of a cluster whose workers are there."""
    nodes = cluster.steps.node_names()
    workers = sorted(
        (
            Place(
                str(worker["name"]),
                nodes.get(str(worker["name"]), ""),
                worker["nthreads"],
                int(worker["resources"].get("gpu", 0)),
            )
            for worker in cluster.scheduler_info["workers"].values()
        ),
        key=lambda place: place.worker,
    )
    end = cluster.allocation.end_time
    return ClusterAddress(
        request,
        cluster.scheduler_address,
        cluster.security,
        slots=sum(place.slots for place in workers),
        run_directory=str(cluster.run_directory),
        workers=tuple(workers),
        job_id=cluster.allocation.job_id,
        ends_at=None if end is None else end.timestamp(),
        margin=_margin(),
        dashboard=cluster.dashboard_link if request.dashboard else "",
    )
