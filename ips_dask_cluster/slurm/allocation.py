"""Describe an allocation: its nodes, their CPUs, memory and GPUs, and its end.

Everything here is a frozen value or a pure function; ``lookup`` reads the values from Slurm.
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
    """The part of one node that the allocation holds.

    Parameters
    ----------
    name : str
        Slurm's name of the node (``SLURMD_NODENAME``), not necessarily its host name.
    cpus : int
        CPUs of this node that the allocation holds.
    memory : int
        Memory of this node that the allocation holds, in bytes. Default: 0, which means unknown.
    gpus : int
        GPUs of this node that the allocation holds. Default: 0.
    """

    name: str
    cpus: int
    memory: int = 0
    gpus: int = 0


@dataclass(frozen=True)
class Allocation:
    """The nodes that a cluster may use.

    Parameters
    ----------
    job_id : str or None
        Slurm's job id; None for processes on this machine.
    nodes : tuple of Node
        The nodes, in the order of Slurm's node list.
    end_time : datetime.datetime or None
        When the allocation ends, in local time without a zone. Default: None, which means that it
        has no limit or that the end is unknown.
    shared : bool
        Whether the job may hold only a part of its nodes, as after ``salloc`` without
        ``--exclusive``. Default: False.
    """

    job_id: str | None
    nodes: tuple[Node, ...]
    end_time: datetime.datetime | None = None
    shared: bool = False

    def __str__(self) -> str:
        return f"Slurm job {self.job_id}" if self.job_id else "this machine"

    def node(self, name: str) -> Node:
        """Return the node with a name.

        Parameters
        ----------
        name : str
            Slurm's name of the node.

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
        """Return the seconds until the allocation ends; None when it has no known end."""
        if self.end_time is None:
            return None
        # Through seconds since the epoch: right also when daylight saving time begins or ends
        return self.end_time.timestamp() - time.time()


def selected(allocation: Allocation, nodelist: str | Sequence[str]) -> Allocation:
    """Return the allocation reduced to the nodes of a list, in the order of that list.

    The list is one of Slurm's node lists, such as ``"n[1-3]"``, or a sequence of names. Raises
    ``ClusterError`` if the list does not parse, is empty, names a node twice, or names a node that
    the allocation lacks.
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
    """Return how many portions of ``size`` GPUs each node has.

    Raises ``ClusterError`` if nodes hold different numbers of GPUs, hold none, or hold a number
    that ``size`` does not divide.
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
    """Return names joined for a message: the first ``most``, then the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _quoted(nodelist: str | Sequence[str]) -> str:
    text = repr(nodelist)
    return text if len(text) <= 60 else f"{text[:57]}..."
