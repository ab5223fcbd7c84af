"""Assign nodes, cores, GPUs and Dask clusters to components."""

__all__: list[str] = []
