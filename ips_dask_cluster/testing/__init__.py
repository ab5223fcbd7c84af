"""A private, real Slurm of several nodes on this machine, for tests and for trying things out.

`LocalSlurm` for Python; ``python -m ips_dask_cluster.testing`` runs a command beside one. Works as
root or as an ordinary user. Only the standard library is used, so that it also serves projects that
do not use Dask.
"""

from ips_dask_cluster.testing.local_slurm import LocalSlurm, LocalSlurmError, missing_programs

__all__ = ["LocalSlurm", "LocalSlurmError", "missing_programs"]
