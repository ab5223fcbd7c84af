"""Run pools without Dask: each task is a process of the component or a step of the Slurm job."""

__all__: list[str] = []
