"""What Slurm gave us: the nodes of the allocation, their CPUs, memory and GPUs, its end.

An :class:`Allocation` is a frozen value. It is parsed, purely, from the environment of a job and
from what ``scontrol show job --details`` prints; :func:`read` is the one function that asks.
Sizes never come from the machine the driver runs on, which may be a login node.
"""

from __future__ import annotations

import datetime
import logging
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ips_dask_cluster.errors import ClusterError, SlurmCommandError

__all__ = [
    "Allocation",
    "Node",
    "expand_hostlist",
    "find",
    "from_environment",
    "from_job_details",
    "local",
    "nodes_of_steps",
    "on_one_host",
    "portions_of_gpus",
    "read",
    "selected",
    "unheld",
    "with_job_details",
]

logger = logging.getLogger("ips_dask_cluster")

_SLURM_SECONDS = 30


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

    def time_left(self) -> float | None:
        """Return the seconds until the allocation ends, None when it has no known end."""
        if self.end_time is None:
            return None
        return self.end_time.timestamp() - time.time()  # also when clocks change meanwhile


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


def selected(allocation: Allocation, nodelist: str | Sequence[str]) -> Allocation:
    """Return the allocation reduced to some of its nodes, in the order of the list.

    Parameters
    ----------
    allocation : Allocation
        What there is.
    nodelist : str or sequence of str
        One of Slurm's node lists, such as ``"n[1-3]"``, or names.

    Raises
    ------
    ClusterError
        The allocation lacks one of them, or the list does not parse, names none, or names one
        twice.
    """
    wanted = _nodelist(nodelist) if isinstance(nodelist, str) else [str(name) for name in nodelist]
    held = {node.name: node for node in allocation.nodes}
    missing = [name for name in wanted if name not in held]
    if missing:
        raise ClusterError(
            f"nodelist: {allocation} has no node {', '.join(missing)}; its nodes are "
            f"{_shortened(list(held))}"
        )
    if not wanted or len(set(wanted)) < len(wanted):
        what = "names a node twice" if wanted else "names no node"
        raise ClusterError(f"nodelist={nodelist!r} {what}; leave it out for all nodes")
    return replace(allocation, nodes=tuple(held[name] for name in wanted))


def portions_of_gpus(allocation: Allocation, size: int) -> int:
    """Return into how many portions of some GPUs those of each node can be shared out.

    Raises
    ------
    ClusterError
        Nodes hold different numbers of GPUs, or none, or a number that does not divide.
    """
    gpus = {node.gpus for node in allocation.nodes}
    if len(gpus) > 1 or gpus == {0}:
        held = ", ".join(f"{node.name}: {node.gpus}" for node in allocation.nodes[:8])
        raise ClusterError(
            f"worker_per_gpu: {allocation} must hold the same number of GPUs, at least one, on "
            f"each node, but it has {held}; see salloc --gpus-per-node"
        )
    (held_each,) = gpus
    if held_each % size:
        raise ClusterError(
            f"gpus_per_worker={size}: the {held_each} GPUs of a node of {allocation} cannot be "
            f"shared out {size} by {size}"
        )
    return held_each // size


def _nodelist(text: str) -> list[str]:
    try:
        return expand_hostlist(text)
    except ValueError:
        raise ClusterError(f"nodelist={text!r} is not of the form n[1-4],n7") from None


def _shortened(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


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
        raise _heterogeneous()
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
    end = _number(environ, "SLURM_JOB_END_TIME")  # since Slurm 23.02 (its RELEASE_NOTES)
    end_time = datetime.datetime.fromtimestamp(end) if end else None
    return Allocation(job_id, tuple(nodes), end_time)


_DETAILS = re.compile(r"^\s*Nodes=(\S+) CPU_IDs=(\S+) Mem=(\d+)(.*)$", re.MULTILINE)


def from_job_details(job_id: str, details: str) -> Allocation:
    """Return the allocation of any running job, from Slurm's description alone.

    Parameters
    ----------
    job_id : str
        The job.
    details : str
        Output of ``scontrol show job --details JOBID``.

    Raises
    ------
    ClusterError
        The job does not run, is an array of jobs or a heterogeneous one, or Slurm does not tell
        what it holds.
    """
    if re.search(r"\bHetJobId=", details):
        raise _heterogeneous()
    numbers = re.findall(r"^JobId=(\d+)", details, re.MULTILINE)
    if len(numbers) > 1:
        raise ClusterError(
            f"job_id={job_id!r} is an array of jobs, which have nodes of their own; name one of "
            f"them: {_shortened(numbers)}"
        )
    state = re.search(r"\bJobState=(\S+)", details)
    if state is None or state[1] != "RUNNING":
        what = "has not started yet" if state and state[1] == "PENDING" else "does not run"
        raise ClusterError(
            f"job_id={job_id!r}: the job {what} (its state is {state[1] if state else 'unknown'}); "
            "see squeue --me for those that do"
        )
    cpus = {}
    for match in _DETAILS.finditer(details):
        count = len(expand_hostlist(f"[{match[2]}]"))
        cpus.update(dict.fromkeys(expand_hostlist(match[1]), count))
    if not cpus:
        raise ClusterError(
            f"job_id={job_id!r}: Slurm does not tell which CPUs of which nodes the job holds; run "
            "the driver inside the job"
        )
    order = re.search(r"^\s*NodeList=(\S+)", details, re.MULTILINE)
    names = expand_hostlist(order[1]) if order else list(cpus)
    nodes = tuple(Node(name, cpus[name]) for name in names if name in cpus)
    number = numbers[0] if numbers else job_id  # one of an array has a name besides, such as 17_1
    return with_job_details(Allocation(number, nodes), details)


def _heterogeneous() -> ClusterError:
    return ClusterError(
        "this is a heterogeneous Slurm job (SLURM_HET_SIZE > 1), which is not supported: "
        "use an allocation with one component"
    )


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
    for match in _DETAILS.finditer(details):
        gpus = sum(int(count) for count in re.findall(r"gpu(?::[^:,(]+)?:(\d+)", match[4]))
        for name in expand_hostlist(match[1]):
            found[name] = (int(match[3]) * 2**20, gpus)
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
        end_time=datetime.datetime.fromisoformat(end[1]) if end else allocation.end_time,
        shared=bool(share and share[1] != "NO"),
    )


def read(environ: Mapping[str, str] | None = None, job_id: str | int | None = None) -> Allocation:
    """Return the allocation of a job, asking Slurm once for what the environment lacks.

    Parameters
    ----------
    environ : mapping of str to str, optional
        Default: the environment of this process.
    job_id : str or int, optional
        Any running job of the user's. Default: the job of the environment.

    Raises
    ------
    ClusterError
        The environment is not that of a Slurm job, or the job does not run.
    SlurmCommandError
        ``scontrol`` is missing, or does not know the job.
    """
    environ = os.environ if environ is None else environ
    if job_id is not None and str(job_id) != environ.get("SLURM_JOB_ID"):
        details = _ask(["scontrol", "show", "job", "--details", str(job_id)], environ)
        return from_job_details(str(job_id), details)
    allocation = from_environment(environ)
    details = _ask(["scontrol", "show", "job", "--details", str(allocation.job_id)], environ)
    return with_job_details(allocation, details)


def nodes_of_steps(job_id: str) -> dict[str, list[str]]:
    """Return the nodes of each step that runs in a job, by the step's name.

    Raises
    ------
    SlurmCommandError
        ``squeue`` is missing, or refuses to answer.
    """
    options = [f"--jobs={job_id}", "--steps", "--noheader", "--format=%N %j"]
    steps: dict[str, list[str]] = {}
    for line in _ask(["squeue", *options], os.environ).splitlines():
        nodes, _, name = line.partition(" ")
        steps.setdefault(name, []).extend(expand_hostlist(nodes))
    return steps


def unheld(allocation: Allocation, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return a sentence if the allocation holds only a part of its nodes, else nothing.

    ``salloc -N4`` without ``--exclusive`` holds one core of each node on many sites. Slurm is
    asked for the nodes' sizes only when the job may be such a one.
    """
    if not allocation.shared or allocation.job_id is None:
        return []
    shown = _shown_nodes(allocation, os.environ if environ is None else environ)
    total = sum(int(count) for count in re.findall(r"\bCPUTot=(\d+)", shown))
    held = sum(node.cpus for node in allocation.nodes)
    if held >= total:
        return []
    return [
        f"{allocation} holds {held} of the {total} CPUs of its nodes, and only those are used; "
        "allocate with --exclusive to have whole nodes"
    ]


def on_one_host(allocation: Allocation) -> bool:
    """Tell whether all nodes are one machine, as they are for tests; asks Slurm."""
    if allocation.job_id is None or len(allocation.nodes) == 1:
        return True
    shown = _shown_nodes(allocation, os.environ)
    return len(set(re.findall(r"\bNodeHostName=(\S+)", shown))) == 1


def _shown_nodes(allocation: Allocation, environ: Mapping[str, str]) -> str:
    names = ",".join(node.name for node in allocation.nodes)
    return _ask(["scontrol", "show", "node", "--oneliner", names], environ)


def _ask(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """Return what one of Slurm's programs prints."""
    command = " ".join(argv)
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SLURM_SECONDS,
            env=dict(environ),
        )
    except FileNotFoundError:
        raise SlurmCommandError(
            command,
            f"{argv[0]} is not on PATH although this is a Slurm job",
            "load the site's slurm module; inside a container, run the driver outside of it",
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmCommandError(
            command,
            f"no answer within {_SLURM_SECONDS} s",
            "the Slurm controller is down or overloaded; try again",
        ) from None
    if done.returncode != 0:
        raise SlurmCommandError(command, done.stderr.strip() or f"exit code {done.returncode}")
    return done.stdout


def find(
    launcher: str | None, job_id: str | int | None, nodes: int | None, cores: int | None
) -> Allocation:
    """Return the allocation to use: a Slurm job's, or this machine where there is none.

    What is worth knowing about it, such as CPUs that the job does not hold, is logged.

    Parameters
    ----------
    launcher : {"srun", "local"} or None
        Where to look; None: a Slurm job if there is one.
    job_id : str, int or None
        A job to use from outside.
    nodes, cores : int or None
        How many "nodes" this machine is to be, and threads of each.
    """
    if launcher not in (None, "srun", "local"):
        raise ValueError(f'launcher={launcher!r}: expected "srun" or "local"')
    if launcher == "local" and job_id is not None:
        raise ValueError(f'launcher="local" starts nothing in a job, such as job_id={job_id!r}')
    if (
        launcher == "srun"
        or job_id is not None
        or (launcher is None and "SLURM_JOB_ID" in os.environ)
    ):
        found = read(job_id=job_id)
        for line in unheld(found):
            logger.warning("%s", line)
        return found
    found = local(nodes or 1)
    if launcher is None:
        logger.warning(
            "no Slurm allocation (SLURM_JOB_ID is not set): %d worker(s) with %d thread(s) each "
            "on this machine",
            len(found.nodes),
            cores or found.nodes[0].cpus,
        )
    return found


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
