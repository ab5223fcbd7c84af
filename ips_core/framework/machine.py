"""Find the resources of the machine, from Slurm if the platform wants that."""

from __future__ import annotations

import os
from dataclasses import replace

from ips_core.config import PlatformConfig
from ips_core.pools.dask.cluster_adapter import read_allocation
from ips_core.resources.allocation_end import JobEnd
from ips_core.resources.nodes import Resources, detect, uses_job

__all__ = ["find_resources"]


def find_resources(platform: PlatformConfig, nodes: int = 0, ppn: int = 0) -> Resources:
    """Return the resources that simulations may use here.

    `nodes` and `ppn` are ``--nodes`` and ``--ppn`` of the command line, 0 if not given. Raise
    ConfigError as :func:`~ips_core.resources.nodes.detect` does.
    """
    allocation, end = read_allocation() if uses_job(platform, os.environ) else (None, JobEnd())
    return replace(detect(platform, allocation, nodes, ppn), end=end)
