"""Describe this machine as an allocation, for use without Slurm."""

from __future__ import annotations

import os

from ips_dask_cluster.devices import visible_devices
from ips_dask_cluster.slurm.allocation import Allocation, Node

__all__ = ["local_allocation"]


def local_allocation(nodes: int = 1, cpus: int | None = None) -> Allocation:
    """Return this machine as an allocation of one or more "nodes", each for a worker process.

    ``cpus`` is for each "node"; by default they share the CPUs that this process may use evenly.
    The GPUs are those of ``CUDA_VISIBLE_DEVICES``, and each "node" sees all of them.
    """
    usable = len(os.sched_getaffinity(0))
    each = cpus or max(1, usable // nodes)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // nodes
    gpus = len(visible_devices(os.environ.get("CUDA_VISIBLE_DEVICES", "")))
    host = os.uname().nodename
    names = [host] if nodes == 1 else [f"{host}-{number}" for number in range(nodes)]
    return Allocation(None, tuple(Node(name, each, memory, gpus) for name in names))
