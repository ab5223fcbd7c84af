"""What a simulation may use, and which of it is in use: nodes, their cores and their GPUs.

Pure bookkeeping; what Slurm says comes in as a value. Who waits for what is ``leases``' business.
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
    """A node as far as it is ours.

    Parameters
    ----------
    name : str
        Slurm's name of it; on a machine without Slurm a made-up one.
    cores, gpus : int
        How many of it may be used.
    sockets : int
        Over how many sockets its cores are spread.
    slurm_gpus : int
        GPUs of each node that Slurm hands out; a platform file may name others.
    """

    name: str
    cores: int
    gpus: int = 0
    sockets: int = 1
    slurm_gpus: int = 0

    @property
    def cores_per_socket(self) -> int:
        """Cores of a socket."""
        return max(1, self.cores // self.sockets)


@dataclass(frozen=True)
class Resources:
    """What a simulation may use.

    Parameters
    ----------
    nodes : int
        Number of nodes.
    cores_per_node : int
        Processes that a node is meant to run; its cores unless the user said otherwise, and the
        smallest where they differ.
    launcher : {"srun", "local"}
        Where Dask clusters run: on the nodes of the allocation, or as processes on this machine.
    flexible : bool
        True when the number of nodes is only a default (one, on a machine without Slurm): asking
        for more then means one, as ``MPIRUN = eval`` always did.
    held : tuple of Node
        The nodes themselves.
    end : JobEnd
        When tasks have to have ended.
    """

    nodes: int
    cores_per_node: int
    launcher: str
    flexible: bool = False
    held: tuple[NodeCapacity, ...] = ()
    end: JobEnd = field(default_factory=JobEnd)


def uses_job(platform: PlatformConfig, environ: Mapping[str, str]) -> bool:
    """Tell whether what runs, runs on the nodes of a Slurm job: in one, unless by ``eval``."""
    return platform.mpirun != "eval" and bool(environ.get("SLURM_JOB_ID"))


def detect(
    platform: PlatformConfig,
    allocation: Sequence[NodeCapacity] | None,
    nodes: int = 0,
    ppn: int = 0,
) -> Resources:
    """Return what a simulation may use.

    Parameters
    ----------
    platform : PlatformConfig
        The platform file, or an empty one. Where ``NODE_DETECTION`` is set, its numbers also bound
        what Slurm says; ``manual`` takes the first ``NODES`` of the job.
    allocation : sequence of Node or None
        The nodes of the Slurm job, None outside of one, or if :func:`uses_job` says that they are
        not used.
    nodes, ppn : int
        ``--nodes`` and ``--ppn`` of the command line; 0 when not given.

    Raises
    ------
    ConfigError
        ``MPIRUN = srun`` or ``NODE_DETECTION = slurm_env`` outside of a Slurm job, or more nodes
        asked for than it has.
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
    # More processes than cores are what the user asks for with hyperthreads that Slurm hides
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
    """Return those nodes of a Slurm job that are to be used."""
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
    """What is asked for: processes, and what each needs.

    Parameters
    ----------
    nproc : int
        How many processes.
    ppn : int
        At most so many on a node; 0: as many as a node is meant to run.
    cores : int
        Cores of each process; 0: its share of a node that runs as many as it is meant to.
    gpus : int
        GPUs of each process.
    whole_nodes : bool
        True: the nodes are nobody else's meanwhile.
    whole_sockets : bool
        True: cores are taken by the socket.
    """

    nproc: int
    ppn: int = 0
    cores: int = 0
    gpus: int = 0
    whole_nodes: bool = False
    whole_sockets: bool = False

    @classmethod
    def of_nodes(cls, count: int) -> Demand:
        """Return the demand of so many whole nodes."""
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
    """What an allocation has of one node.

    Parameters
    ----------
    node : str
        The node's name.
    processes : int
        How many are to run there.
    cores, gpus : int
        For all of them together.
    slurm_gpus : int
        As of the node.
    """

    node: str
    processes: int
    cores: int
    gpus: int = 0
    slurm_gpus: int = 0


@dataclass(frozen=True)
class Reservation:
    """What somebody holds until it is released.

    Parameters
    ----------
    id : int
        For :meth:`ResourceManager.release`.
    shares : tuple of Share
        One for each node.
    whole_nodes : bool
        Whether the nodes are nobody else's meanwhile.
    """

    id: int
    shares: tuple[NodeShare, ...]
    whole_nodes: bool = False

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes."""
        return tuple(share.node for share in self.shares)


class ResourceManager:
    """Knows which cores and GPUs of which nodes are in use.

    Parameters
    ----------
    nodes : sequence of Node
        What there is.
    processes_per_node : int
        At most so many processes of one allocation run on a node.
    """

    def __init__(self, nodes: Sequence[NodeCapacity], processes_per_node: int) -> None:
        self._nodes = tuple(nodes)
        self._most = processes_per_node
        self._allocations: dict[int, Reservation] = {}
        self._withheld: set[str] = set()
        self._count = 0

    def check(self, demand: Demand) -> None:
        """Look whether a demand could be met if nothing were in use.

        Raises
        ------
        BadResourceRequest
            It never can.
        """
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
        """Return an allocation, or None while too much is in use.

        Raises
        ------
        BadResourceRequest
            It can never be had.
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
        """Tell whether a demand could be met now if some allocations were released."""
        released = {allocation.id for allocation in without}
        kept = [each for each in self._allocations.values() if each.id not in released]
        return self._plan(demand, kept) is not None

    def withhold(self, nodes: Iterable[str]) -> None:
        """Give nodes to nobody until :meth:`give_back`: somebody outside has them."""
        self._withheld.update(nodes)

    def give_back(self) -> None:
        """Count all nodes as ours again."""
        self._withheld.clear()

    def is_possible(self, demand: Demand) -> bool:
        """Tell whether a demand could be met now if nothing were in use."""
        return self._plan(demand, ()) is not None

    def release(self, allocation_id: int) -> None:
        """Take an allocation back; one that is not there any more is ignored."""
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
        if not demand.whole_nodes:  # nodes that are in use already, so that others stay whole
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
        """Return what a demand for so many processes would take of a node."""
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
