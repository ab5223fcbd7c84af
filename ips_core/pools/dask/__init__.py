"""Pools on Dask: which cluster, what runs on it, and what is known of it when it is lost."""

__all__: list[str] = []
