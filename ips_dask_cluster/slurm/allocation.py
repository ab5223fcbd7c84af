"""Describe an allocation: its nodes, their CPUs, memory and GPUs, and its end.

Frozen values and functions of them; ``lookup`` makes them of what Slurm says.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ips_dask_cluster.errors import ClusterError
from ips_dask_cluster.slurm.hostlist import expand_hostlist

__all__ = ["Allocation", "Node", "portions_of_gpus", "selected", "shorten"]


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
    held = {node.name: node for node in allocation.nodes}
    try:
        wanted = (
            expand_hostlist(nodelist, most=len(held))
            if isinstance(nodelist, str)
            else [str(name) for name in nodelist]
        )
    except ValueError as error:
        raise ClusterError(
            f"nodelist={_quoted(nodelist)}: {error}; {allocation} has {len(held)}: "
            f"{shorten(list(held))}"
        ) from None
    missing = [name for name in wanted if name not in held]
    if missing:
        raise ClusterError(
            f"nodelist: {allocation} has no node {shorten(missing)}; its nodes are "
            f"{shorten(list(held))}"
        )
    if not wanted or len(set(wanted)) < len(wanted):
        what = "names a node twice" if wanted else "names no node"
        raise ClusterError(f"nodelist={_quoted(nodelist)} {what}; leave it out for all nodes")
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


def shorten(names: Sequence[str], most: int = 8) -> str:
    """Return names for a sentence, of many only the first."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _quoted(nodelist: str | Sequence[str]) -> str:
    text = repr(nodelist)
    return text if len(text) <= 60 else f"{text[:57]}..."
