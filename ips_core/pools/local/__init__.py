"""Pools without Dask: tasks are processes of the component, or steps of the Slurm job."""

__all__: list[str] = []
