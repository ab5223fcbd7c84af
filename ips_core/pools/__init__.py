"""Run task pools, on Dask clusters or without Dask."""

from ips_core.pools.pool import TaskPool
from ips_core.tasks.task import Task

__all__ = ["Task", "TaskPool"]
