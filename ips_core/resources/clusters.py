"""Describe the Dask cluster that a pool requests, and why one could not start."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ClusterRequest", "NodesTaken"]


@dataclass(frozen=True)
class ClusterRequest:
    """Kind of cluster that a pool requests; equal requests share a cluster."""

    nodes: int
    threads: int | None  #: threads of a worker; None: as many as `cores`
    cores: int | None  #: cores of a node for all its workers; None: every core
    launcher: str  #: "srun" for job steps, "local" for processes on this machine
    shifter: tuple[str, ...] | None = None  #: arguments of Shifter; None: no container
    per_gpu: bool = False  #: one worker for each GPU instead of one for each node
    dashboard: bool = False

    @property
    def fresh(self) -> bool:
        """Whether the cluster must be new and may not be used again.

        A ``perNodeCache`` volume of Shifter lives as long as the container, so a cluster that had
        other users would show their files.
        """
        return any("perNodeCache" in word for word in self.shifter or ())


@dataclass(frozen=True)
class NodesTaken:
    """Failure to start a cluster because another driver has a cluster on some of the nodes."""

    nodes: tuple[str, ...]

    def __str__(self) -> str:
        nodes = ", ".join(self.nodes)
        return f"another driver in this Slurm job has a cluster on {nodes}, and too few are left"
