"""What Slurm gave us: the nodes of the allocation, their CPUs, memory and GPUs, its end.

An :class:`Allocation` is a frozen value. It is parsed, purely, from the environment of a job and
from what ``scontrol show job --details`` prints; :func:`read` is the one function that asks.
Sizes never come from the machine the driver runs on, which may be a login node.
"""

from __future__ import annotations

import datetime
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ips_dask_cluster.errors import ClusterError, SlurmCommandError

__all__ = [
    "Allocation",
    "Node",
    "expand_hostlist",
    "from_environment",
    "local",
    "read",
    "unheld",
    "with_job_details",
]

_SCONTROL_SECONDS = 30


@dataclass(frozen=True)
class Node:
    """One node as far as it is ours.

    Parameters
    ----------
    name : str
        Slurm's name of the node (``SLURMD_NODENAME``), not necessarily its host name.
    cpus : int
        CPUs of this node that the allocation holds.
    memory : int
        Memory that the allocation holds on this node, in bytes; 0 when unknown.
    gpus : int
        GPUs that the allocation holds on this node.
    """

    name: str
    cpus: int
    memory: int = 0
    gpus: int = 0


@dataclass(frozen=True)
class Allocation:
    """The nodes one may use.

    Parameters
    ----------
    job_id : str or None
        Slurm's job id; None for processes on this machine.
    nodes : tuple of Node
        In the order of Slurm's node list.
    end_time : datetime.datetime or None
        When the allocation ends, local time; None when there is no limit or it is unknown.
    shared : bool
        True when the job may hold only a part of its nodes (``salloc`` without ``--exclusive``).
    """

    job_id: str | None
    nodes: tuple[Node, ...]
    end_time: datetime.datetime | None = None
    shared: bool = False

    def __str__(self) -> str:
        return f"Slurm job {self.job_id}" if self.job_id else "this machine"

    def node(self, name: str) -> Node:
        """Return the node of that name.

        Raises
        ------
        KeyError
            The allocation has no such node.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)


def expand_hostlist(hostlist: str) -> list[str]:
    """Return the names in one of Slurm's node lists, such as ``"n[1-3,07],login1"``.

    The syntax is that of ``scontrol show hostlist`` (scontrol(1)): zero-padding is kept, and a
    name may hold several brackets.
    """
    parts = re.findall(r"(?:[^,\[\]]+|\[[^\]]*\])+", hostlist)
    return [name for part in parts for name in _expand_name(part)]


def _expand_name(part: str) -> Iterator[str]:
    match = re.match(r"([^\[]*)\[([^\]]*)\](.*)", part)
    if match is None:
        yield part
        return
    head, ranges, tail = match.groups()
    for item in ranges.split(","):
        first, _, last = item.partition("-")
        for number in range(int(first), int(last or first) + 1):
            for rest in _expand_name(tail):
                yield f"{head}{number:0{len(first)}d}{rest}"


def _expand_counts(counts: str) -> list[int]:
    """Return ``[128, 128, 96]`` for ``"128(x2),96"`` (``SLURM_JOB_CPUS_PER_NODE``, sbatch(1))."""
    expanded: list[int] = []
    for item in counts.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", item.strip())
        if match is None:
            raise ClusterError(
                f"SLURM_JOB_CPUS_PER_NODE={counts!r} is not of the form 128(x4),96: "
                "is this really the environment of a Slurm job?"
            )
        expanded += [int(match[1])] * int(match[2] or 1)
    return expanded


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name) or "0"
    try:
        return int(text)
    except ValueError:
        raise ClusterError(
            f"{name}={text!r} is not a number: is this really the environment of a Slurm job?"
        ) from None


def from_environment(environ: Mapping[str, str]) -> Allocation:
    """Return the allocation that a job's environment describes: its nodes and their CPUs.

    Parameters
    ----------
    environ : mapping of str to str
        An environment with ``SLURM_JOB_ID``, ``SLURM_JOB_NODELIST`` and
        ``SLURM_JOB_CPUS_PER_NODE`` (salloc(1), "OUTPUT ENVIRONMENT VARIABLES").

    Raises
    ------
    ClusterError
        A variable is missing, does not parse, or belongs to a heterogeneous job.
    """
    if _number(environ, "SLURM_HET_SIZE") > 1:
        raise ClusterError(
            "this is a heterogeneous Slurm job (SLURM_HET_SIZE > 1), which is not supported: "
            "use an allocation with one component"
        )
    try:
        job_id = environ["SLURM_JOB_ID"]
        nodelist = environ["SLURM_JOB_NODELIST"]
        cpus = _expand_counts(environ["SLURM_JOB_CPUS_PER_NODE"])
    except KeyError as missing:
        raise ClusterError(
            f"{missing.args[0]} is not set: run inside salloc or sbatch, or pass the job's "
            "environment on"
        ) from None
    try:
        names = expand_hostlist(nodelist)
    except ValueError:
        raise ClusterError(
            f"SLURM_JOB_NODELIST={nodelist!r} is not of the form n[1-4],n7: is this really the "
            "environment of a Slurm job?"
        ) from None
    if len(names) != len(cpus):
        raise ClusterError(
            f"SLURM_JOB_NODELIST names {len(names)} nodes but SLURM_JOB_CPUS_PER_NODE "
            f"{len(cpus)}: is this really the environment of one Slurm job?"
        )
    per_node = _number(environ, "SLURM_MEM_PER_NODE")
    per_cpu = _number(environ, "SLURM_MEM_PER_CPU")
    nodes = (
        Node(name, count, (per_node or per_cpu * count) * 2**20)
        for name, count in zip(names, cpus, strict=True)
    )
    return Allocation(job_id, tuple(nodes))


def with_job_details(allocation: Allocation, details: str) -> Allocation:
    """Return the allocation completed by what ``scontrol show job --details`` printed.

    Slurm 22.05 tells memory, GPUs and the end time only there, not in the environment.

    Parameters
    ----------
    allocation : Allocation
        As :func:`from_environment` returns it.
    details : str
        Output of ``scontrol show job --details JOBID``; the ``Nodes=... CPU_IDs=... Mem=...
        GRES=...`` lines, ``EndTime`` and ``OverSubscribe`` are read.
    """
    found = {}
    for match in re.finditer(r"^\s*Nodes=(\S+) CPU_IDs=\S+ Mem=(\d+)(.*)$", details, re.MULTILINE):
        gpus = sum(int(count) for count in re.findall(r"gpu(?::[^:,(]+)?:(\d+)", match[3]))
        for name in expand_hostlist(match[1]):
            found[name] = (int(match[2]) * 2**20, gpus)
    nodes = tuple(
        replace(node, memory=found[node.name][0] or node.memory, gpus=found[node.name][1])
        if node.name in found
        else node
        for node in allocation.nodes
    )
    end = re.search(r"\bEndTime=(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", details)
    share = re.search(r"\bOverSubscribe=(\S+)", details)
    return replace(
        allocation,
        nodes=nodes,
        end_time=datetime.datetime.fromisoformat(end[1]) if end else None,
        shared=bool(share and share[1] != "NO"),
    )


def read(environ: Mapping[str, str] | None = None) -> Allocation:
    """Return the allocation of this job, asking Slurm once for what the environment lacks.

    Parameters
    ----------
    environ : mapping of str to str, optional
        Default: the environment of this process.

    Raises
    ------
    ClusterError
        The environment is not that of a Slurm job.
    SlurmCommandError
        ``scontrol`` is missing, or does not know the job.
    """
    environ = os.environ if environ is None else environ
    allocation = from_environment(environ)
    details = _scontrol(["show", "job", "--details", str(allocation.job_id)], environ)
    return with_job_details(allocation, details)


def unheld(allocation: Allocation, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return a sentence if the allocation holds only a part of its nodes, else nothing.

    ``salloc -N4`` without ``--exclusive`` holds one core of each node on many sites. Slurm is
    asked for the nodes' sizes only when the job may be such a one.
    """
    if not allocation.shared or allocation.job_id is None:
        return []
    names = ",".join(node.name for node in allocation.nodes)
    environ = os.environ if environ is None else environ
    shown = _scontrol(["show", "node", "--oneliner", names], environ)
    total = sum(int(count) for count in re.findall(r"\bCPUTot=(\d+)", shown))
    held = sum(node.cpus for node in allocation.nodes)
    if held >= total:
        return []
    return [
        f"{allocation} holds {held} of the {total} CPUs of its nodes, and only those are used; "
        "allocate with --exclusive to have whole nodes"
    ]


def _scontrol(arguments: Sequence[str], environ: Mapping[str, str]) -> str:
    command = "scontrol " + " ".join(arguments)
    try:
        done = subprocess.run(
            ["scontrol", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SCONTROL_SECONDS,
            env=dict(environ),
        )
    except FileNotFoundError:
        raise SlurmCommandError(
            command,
            "scontrol is not on PATH although this is a Slurm job",
            "load the site's slurm module; inside a container, run the driver outside of it",
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmCommandError(
            command,
            f"no answer within {_SCONTROL_SECONDS} s",
            "the Slurm controller is down or overloaded; try again",
        ) from None
    if done.returncode != 0:
        raise SlurmCommandError(command, done.stderr.strip() or f"exit code {done.returncode}")
    return done.stdout


def local(nodes: int = 1, cpus: int | None = None) -> Allocation:
    """Return this machine as an allocation of one or more "nodes", for use without Slurm.

    Its GPUs are those of ``CUDA_VISIBLE_DEVICES``; each "node" sees all of them.

    Parameters
    ----------
    nodes : int
        How many; each is a worker process of its own on this machine.
    cpus : int, optional
        CPUs of each. Default: those this process may use, shared out evenly.
    """
    usable = len(os.sched_getaffinity(0))
    each = cpus or max(1, usable // nodes)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // nodes
    gpus = len(
        [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    )
    host = os.uname().nodename
    names = [host] if nodes == 1 else [f"{host}-{number}" for number in range(nodes)]
    return Allocation(None, tuple(Node(name, each, memory, gpus) for name in names))
