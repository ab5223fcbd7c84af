"""Keep count of the nodes, cores and GPUs of a simulation, and of those in use.

This module asks no program: the caller passes in what Slurm reports. ``leases`` decides which
request is served next.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ips_core.config import PlatformConfig
from ips_core.errors import BadResourceRequest, ConfigError
from ips_core.resources.allocation_end import JobEnd
from ips_dask_cluster.devices import visible_devices

__all__ = [
    "Reservation",
    "Demand",
    "NodeCapacity",
    "ResourceManager",
    "Resources",
    "NodeShare",
    "detect",
    "uses_job",
]


@dataclass(frozen=True)
class NodeCapacity:
    """Describe the part of a node that the simulation may use."""

    name: str  #: Slurm's name of the node; made up on a machine without Slurm.
    cores: int
    gpus: int = 0
    sockets: int = 1  #: Number of sockets over which the cores are spread.
    #: GPUs of each node that Slurm hands out; ``gpus`` may come from a platform file instead.
    slurm_gpus: int = 0

    @property
    def cores_per_socket(self) -> int:
        """Cores of a socket, at least 1."""
        return max(1, self.cores // self.sockets)


@dataclass(frozen=True)
class Resources:
    """Describe all nodes that a simulation may use."""

    nodes: int  #: Number of nodes.
    #: Most processes on a node: the user's number, or by default the cores of the smallest node.
    cores_per_node: int
    #: Where Dask clusters run: "srun", on nodes of the allocation; "local", in processes on this
    #: machine.
    launcher: str
    #: True if the number of nodes is only a default, which is one on a machine without Slurm. A
    #: request for more nodes then gets one node, as under ``MPIRUN = eval``.
    flexible: bool = False
    held: tuple[NodeCapacity, ...] = ()
    end: JobEnd = field(default_factory=JobEnd)  #: Time at which all tasks must have ended.


def uses_job(platform: PlatformConfig, environ: Mapping[str, str]) -> bool:
    """Return whether tasks run on the nodes of a Slurm job; never with ``MPIRUN = eval``."""
    return platform.mpirun != "eval" and bool(environ.get("SLURM_JOB_ID"))


def detect(
    platform: PlatformConfig,
    allocation: Sequence[NodeCapacity] | None,
    nodes: int = 0,
    ppn: int = 0,
) -> Resources:
    """Return the resources of a simulation.

    They come from the platform file, the Slurm job and the command line. If ``NODE_DETECTION`` is
    set, the numbers of the platform file also limit those of Slurm, and ``manual`` takes the first
    ``NODES`` of the job. ``allocation`` holds the nodes of the Slurm job, or None outside of one or
    if :func:`uses_job` is False. ``nodes`` and ``ppn`` are ``--nodes`` and ``--ppn``, 0 if not
    given. Raises ConfigError for ``MPIRUN = srun`` or ``NODE_DETECTION = slurm_env`` outside of a
    Slurm job, and for more nodes than the job has.
    """
    detection = str(platform.values.get("NODE_DETECTION") or "").lower()
    in_job = bool(allocation) and platform.mpirun != "eval"
    if not in_job:
        _check_that_no_job_is_needed(platform, detection)
    processes = ppn or platform.number("PROCS_PER_NODE")
    if in_job and allocation:
        held = _of_job(platform, detection, allocation, nodes)
        flexible = False
    else:
        count = nodes or platform.number("NODES")
        cores = processes or platform.number("CORES_PER_NODE") or len(os.sched_getaffinity(0))
        host = os.uname().nodename
        names = [f"{host}-{number}" for number in range(count)] if count > 1 else [host]
        held = [NodeCapacity(name, cores, _visible_gpus()) for name in names]
        flexible = count <= 1
    processes = processes or min(node.cores for node in held)
    gpus = platform.number("GPUS_PER_NODE")
    sockets = platform.number("SOCKETS_PER_NODE") or 1
    # A user asks for more processes than cores to use hyperthreads that Slurm hides.
    held = [
        replace(
            node,
            cores=max(node.cores, processes),
            gpus=node.gpus or gpus,
            sockets=sockets,
        )
        for node in held
    ]
    launcher = "srun" if in_job else "local"
    return Resources(len(held), processes, launcher, flexible, tuple(held))


def _check_that_no_job_is_needed(platform: PlatformConfig, detection: str) -> None:
    reasons = ["MPIRUN = srun"] if platform.mpirun == "srun" else []
    if detection == "slurm_env" and platform.mpirun != "eval":
        reasons.append("NODE_DETECTION = slurm_env")
    if reasons:
        text = f"{reasons[0]}, but this is no Slurm job: run it inside salloc or sbatch"
        raise ConfigError(platform.file, [text])


def _of_job(
    platform: PlatformConfig, detection: str, allocation: Sequence[NodeCapacity], nodes: int
) -> list[NodeCapacity]:
    """Return those nodes of a Slurm job that the simulation uses."""
    if nodes > len(allocation):
        raise ConfigError("", [f"--nodes {nodes}: the Slurm job has only {len(allocation)}"])
    if not nodes and detection == "manual":
        nodes = platform.number("NODES")
        if nodes > len(allocation):
            text = f"NODES = {nodes}: the Slurm job has only {len(allocation)}"
            raise ConfigError(platform.file, [text])
    most = platform.number("CORES_PER_NODE") if detection else 0
    return [
        replace(node, cores=min(node.cores, most or node.cores))
        for node in allocation[: nodes or len(allocation)]
    ]


def _visible_gpus() -> int:
    return len(visible_devices(os.environ.get("CUDA_VISIBLE_DEVICES", "")))


@dataclass(frozen=True)
class Demand:
    """Say how many processes a request needs, and the resources of each."""

    nproc: int
    ppn: int = 0  #: Most processes on a node; 0: as many as `Resources.cores_per_node`.
    cores: int = 0  #: Cores of each process; 0: an equal share of a node with the most processes.
    gpus: int = 0  #: GPUs of each process.
    whole_nodes: bool = False  #: True: no other reservation shares the nodes.
    whole_sockets: bool = False  #: True: cores are reserved by whole sockets.

    @classmethod
    def of_nodes(cls, count: int) -> Demand:
        """Return the demand of a number of whole nodes."""
        return cls(count, ppn=1, whole_nodes=True)

    def __str__(self) -> str:
        if self == Demand.of_nodes(self.nproc):
            return f"{self.nproc} whole node(s)"
        limits = [f"of {self.cores} core(s)"] if self.cores else []
        limits += [f"with {self.gpus} GPU(s) each"] if self.gpus else []
        limits += [f"at most {self.ppn} a node"] if self.ppn else []
        limits += ["on whole nodes"] if self.whole_nodes else []
        limits += ["on whole sockets"] if self.whole_sockets and not self.whole_nodes else []
        return " ".join([f"{self.nproc} process(es)", ", ".join(limits)]).rstrip()


@dataclass(frozen=True)
class NodeShare:
    """Describe the part of one node that a reservation holds."""

    node: str
    processes: int  #: Processes that will run on the node.
    cores: int  #: Cores of all these processes together.
    gpus: int = 0  #: GPUs of all these processes together.
    slurm_gpus: int = 0  #: As in `NodeCapacity`.


@dataclass(frozen=True)
class Reservation:
    """Describe what a task or cluster holds until `ResourceManager.release`."""

    id: int
    shares: tuple[NodeShare, ...]  #: One share for each node.
    whole_nodes: bool = False  #: True: no other reservation shares the nodes.

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes."""
        return tuple(share.node for share in self.shares)


class ResourceManager:
    """Reserve cores and GPUs of nodes.

    At most ``processes_per_node`` processes of one reservation run on a node.
    """

    def __init__(self, nodes: Sequence[NodeCapacity], processes_per_node: int) -> None:
        self._nodes = tuple(nodes)
        self._most = processes_per_node
        self._allocations: dict[int, Reservation] = {}
        self._withheld: set[str] = set()
        self._count = 0

    def check(self, demand: Demand) -> None:
        """Raise BadResourceRequest if a demand could not be met even with nothing in use."""
        if min(demand.nproc, 1 + demand.ppn, 1 + demand.cores, 1 + demand.gpus) < 1:
            raise BadResourceRequest(
                f"{demand}: expected one or more processes, and no negative number"
            )
        if self._plan(demand, (), self._nodes) is None:
            raise BadResourceRequest(f"{demand} can never be had: there are {self._text()}")

    def _text(self) -> str:
        cores = _range(node.cores for node in self._nodes)
        gpus = _range(node.gpus for node in self._nodes)
        each = f"for {self._most} process(es) each, with {cores} core(s) and {gpus} GPU(s)"
        return f"{len(self._nodes)} node(s) {each}"

    def allocate(self, demand: Demand) -> Reservation | None:
        """Return a reservation, or None while too much is in use.

        Raises BadResourceRequest if the demand can never be met.
        """
        self.check(demand)
        shares = self._plan(demand, self._allocations.values())
        if shares is None:
            return None
        self._count += 1
        found = Reservation(self._count, shares, demand.whole_nodes)
        self._allocations[found.id] = found
        return found

    def fits(self, demand: Demand, without: Iterable[Reservation] = ()) -> bool:
        """Return whether a demand could be met now if some reservations were released."""
        released = {allocation.id for allocation in without}
        kept = [each for each in self._allocations.values() if each.id not in released]
        return self._plan(demand, kept) is not None

    def withhold(self, nodes: Iterable[str]) -> None:
        """Reserve nothing on some nodes until :meth:`give_back`: another driver uses them."""
        self._withheld.update(nodes)

    def give_back(self) -> None:
        """Allow reservations on all nodes again."""
        self._withheld.clear()

    def is_possible(self, demand: Demand) -> bool:
        """Return whether a demand fits the nodes that are not withheld, with nothing in use."""
        return self._plan(demand, ()) is not None

    def release(self, allocation_id: int) -> None:
        """Release a reservation; an unknown id is ignored."""
        self._allocations.pop(allocation_id, None)

    def _plan(
        self,
        demand: Demand,
        used: Iterable[Reservation],
        among: Sequence[NodeCapacity] | None = None,
    ) -> tuple[NodeShare, ...] | None:
        free = {node.name: node for node in self._nodes}
        for share in (share for allocation in used for share in allocation.shares):
            node = free[share.node]
            free[share.node] = replace(
                node, cores=node.cores - share.cores, gpus=node.gpus - share.gpus
            )
        ours = [node for node in self._nodes if node.name not in self._withheld]
        nodes = ours if among is None else list(among)
        if not demand.whole_nodes:  # Fill nodes that are in use first, so that others stay whole.
            nodes.sort(key=lambda node: free[node.name].cores)
        shares: list[NodeShare] = []
        left = demand.nproc
        for node in nodes:
            own = self._share(demand, node, free[node.name], left) if left else None
            if own is not None:
                shares.append(own)
                left -= own.processes
        return None if left else tuple(shares)

    def _share(
        self, demand: Demand, node: NodeCapacity, free: NodeCapacity, left: int
    ) -> NodeShare | None:
        """Return the share of a node for at most ``left`` processes of a demand, or None."""
        if demand.whole_nodes and free != node:
            return None
        cores = demand.cores or (0 if demand.whole_nodes else max(1, node.cores // self._most))
        unit = node.cores_per_socket if demand.whole_sockets else 1
        limits = [left, self._most, demand.ppn or left]
        limits += [free.cores // unit * unit // cores] if cores else []
        limits += [free.gpus // demand.gpus] if demand.gpus else []
        count = min(limits)
        if not count:
            return None
        if demand.whole_nodes:
            return NodeShare(node.name, count, node.cores, node.gpus, node.slurm_gpus)
        units = -(-count * cores // unit)
        return NodeShare(node.name, count, units * unit, count * demand.gpus, node.slurm_gpus)


def _range(numbers: Iterable[int]) -> str:
    least, *_, most = sorted([*numbers] * 2)
    return f"{least}" if least == most else f"{least}-{most}"
