"""Start Dask clusters on the nodes of a Slurm allocation that one already holds.

Names are loaded on first use, so that the light parts of the package (``slurm``, ``containers``,
``testing``) do not import distributed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ips_dask_cluster.cluster import SlurmAllocationCluster
    from ips_dask_cluster.containers import Apptainer, Charliecloud, PodmanHPC, Shifter
    from ips_dask_cluster.errors import (
        ClusterError,
        ClusterStartError,
        NotEnoughNodesError,
        SlurmCommandError,
        StepError,
        WorkerPluginError,
    )

__all__ = [
    "Apptainer",
    "Charliecloud",
    "ClusterError",
    "ClusterStartError",
    "NotEnoughNodesError",
    "PodmanHPC",
    "Shifter",
    "SlurmAllocationCluster",
    "SlurmCommandError",
    "StepError",
    "WorkerPluginError",
]

__version__ = "0.1.0"

_LAZY = {
    "SlurmAllocationCluster": "ips_dask_cluster.cluster",
    **dict.fromkeys(
        ("Apptainer", "Charliecloud", "PodmanHPC", "Shifter"), "ips_dask_cluster.containers"
    ),
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(_LAZY.get(name, "ips_dask_cluster.errors")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
