"""Call ``ips_dask_cluster``; no other module of ``ips_core`` does.

The functions import it only when they are called, so that a simulation without Dask pools never
pays for the import of distributed.
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
    """Describe where a worker runs."""

    worker: str  #: Name of the worker.
    node: str  #: Slurm's name of the node; made up without Slurm.
    slots: int  #: Threads of the worker.
    gpus: int = 0  #: Devices that only this worker uses.


@dataclass(frozen=True)
class ClusterAddress:
    """Hold what a component needs to connect to a cluster and to plan tasks on it."""

    request: ClusterRequest
    address: str  #: Address of the scheduler.
    security: Any  #: The credentials, a ``distributed.Security``.
    slots: int  #: Threads of all workers.
    run_directory: str  #: Directory of the worker journals.
    workers: tuple[Place, ...] = ()  #: The workers at the start of the cluster, sorted by name.
    job_id: str | None = None  #: The Slurm job; None: processes on this machine.
    #: End of the allocation in seconds since the epoch; None: unknown.
    ends_at: float | None = None
    #: Seconds before ``ends_at`` at which pools must stop (``walltime-margin``).
    margin: float = 0.0
    dashboard: str = ""  #: URL of the dashboard; empty if there is none.

    @property
    def end(self) -> JobEnd:
        """Time at which tasks must have ended, as known at the start of the cluster."""
        ends_at = None if self.ends_at is None else self.ends_at - self.margin
        return JobEnd(self.job_id, ends_at, self.margin)


@dataclass(frozen=True)
class ClusterStarted:
    """Say that a cluster has started."""

    address: str  #: Address of the scheduler.
    packed: bytes  #: The pickled `ClusterAddress`; only a process with distributed can unpickle it.


def isolate_tls_errors() -> None:
    """Keep a broken connection to one cluster from breaking connections to others."""
    from ips_dask_cluster.tls_errors import isolate_tls_errors

    isolate_tls_errors()


def read_allocation() -> tuple[tuple[NodeCapacity, ...], JobEnd]:
    """Return the nodes of this Slurm job, and the time at which tasks on them must have ended.

    That time is ``walltime-margin`` before the end of the job. Raises ConfigError if Slurm's
    programs are missing or do not answer.
    """
    from ips_dask_cluster.errors import ClusterError
    from ips_dask_cluster.slurm import lookup

    try:
        found = lookup.read()
    except ClusterError as error:
        raise ConfigError("", [str(error)]) from None
    # Slurm 22.05 refuses a --gres above the number of GPUs of the job's node with the fewest.
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
    """Return Shifter's arguments as separate words; a string is split as in a shell."""
    from ips_dask_cluster import containers

    return containers.shifter_arguments(arguments)


def start_cluster(
    request: ClusterRequest,
    nodes: Sequence[str],
    directory: str,
    on_failure: Callable[[str], None],
) -> Any:
    """Start a Dask cluster for pools, wait for its workers and return it.

    The cluster runs on exactly the given ``nodes``; without Slurm, only ``request.nodes`` counts.
    All nodes must see ``directory``. A thread of the cluster calls ``on_failure`` with a sentence
    when a step is lost later. Raises DaskClusterError, with the cluster's own message, if the
    cluster does not start.
    """
    from ips_dask_cluster import ClusterError, Shifter, SlurmAllocationCluster
    from ips_dask_cluster.slurm.this_machine import local_allocation

    found = local_allocation(request.nodes) if request.launcher == "local" else None
    quiet = {} if request.dashboard else _quiet()
    # With one worker per GPU, only the cluster knows the number of workers on a node.
    own_threads = ["--nthreads", request.threads] if request.per_gpu and request.threads else []
    try:
        cluster = SlurmAllocationCluster(
            nodes=request.nodes,
            nodelist=None if found else list(nodes),
            allocation=found,
            cores=request.cores if request.per_gpu else request.threads or request.cores,
            worker_per_gpu=request.per_gpu,
            # From the start: Dask does not reconsider a task that waits for slots when an existing
            # worker gets some later.
            slots=True,
            worker_extra_args=own_threads,
            container=None if request.shifter is None else Shifter(arguments=request.shifter),
            shared_temp_directory=directory,
            scheduler_options={"dashboard": request.dashboard},
            # The pool decides about the tasks of a lost worker; Dask would run them again without a
            # message.
            scheduler_env={"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"} | quiet,
            env=quiet,
            on_failure=lambda error: on_failure(str(error)),
        )
    except (
        ClusterError,
        TypeError,
        ValueError,
    ) as error:  # Values of the user's Dask configuration raise these, too.
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
    """Return those of some nodes of this Slurm job on which another driver has a cluster."""
    from ips_dask_cluster.steps.node_locks import Claims

    claims = Claims(os.environ.get("SLURM_JOB_ID") or None, f"look-{os.getpid()}")
    try:
        claims.look_elsewhere()
        return tuple(node for node in nodes if not claims.is_free(node))
    finally:
        claims.close()


def _quiet() -> dict[str, str]:
    """Return settings that keep an idle worker from using the CPU.

    With Dask's defaults, the statistics for the dashboard take 6 % of a core on each node (seen),
    which slows the programs there. Variables that the user has set are left out.
    """
    settings = {
        "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
        "DASK_DISTRIBUTED__WORKER__MEMORY__MONITOR_INTERVAL": "1s",
        "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "5s",
        "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "1s",
    }
    return {name: value for name, value in settings.items() if name not in os.environ}


def describe_cluster(request: ClusterRequest, cluster: Any) -> ClusterAddress:
    """Return the `ClusterAddress` of a cluster whose workers have connected."""
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
