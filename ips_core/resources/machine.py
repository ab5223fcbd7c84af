"""What a run finds on the machine where it is: asks Slurm, if the platform wants that."""

from __future__ import annotations

import os
from dataclasses import replace

from ips_core.config import PlatformConfig
from ips_core.pools.dask.cluster_adapter import read_allocation
from ips_core.resources.allocation_end import JobEnd
from ips_core.resources.nodes import Resources, detect, uses_job

__all__ = ["find_resources"]


def find_resources(platform: PlatformConfig, nodes: int = 0, ppn: int = 0) -> Resources:
    """Return what simulations may use here.

    Parameters
    ----------
    platform : PlatformConfig
        The platform, with what simulation files say instead.
    nodes, ppn : int
        ``--nodes`` and ``--ppn`` of the command line; 0 when not given.

    Raises
    ------
    ConfigError
        As :func:`~ips_core.resources.nodes.detect`.
    """
    allocation, end = read_allocation() if uses_job(platform, os.environ) else (None, JobEnd())
    return replace(detect(platform, allocation, nodes, ppn), end=end)
