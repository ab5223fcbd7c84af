"""Task pools: their tasks, the runs that work them off, and the keeper of the Dask clusters."""

from ips_core.pools.pool import TaskPool
from ips_core.tasks.task import Task

__all__ = ["Task", "TaskPool"]
