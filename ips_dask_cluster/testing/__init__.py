"""Run a private, real Slurm of several nodes on this machine, for tests and experiments.

Use `LocalSlurm` in Python; ``python -m ips_dask_cluster.testing`` runs a command beside one. Both
work as root or as an ordinary user. They need only the standard library, so that projects without
Dask can use them.
"""

from ips_dask_cluster.testing.local_slurm import LocalSlurm, LocalSlurmError, missing_programs

__all__ = ["LocalSlurm", "LocalSlurmError", "missing_programs"]
