"""Run pools on Dask clusters."""

__all__: list[str] = []
