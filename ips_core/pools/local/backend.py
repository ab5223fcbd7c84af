"""Run pools without Dask on cores that the framework assigns, started by ``MPIRUN``."""

from __future__ import annotations

from ips_core.ipc.link import FrameworkLink
from ips_core.pools.executor import Executor
from ips_core.pools.local.local_executor import LocalExecutor
from ips_core.resources.allocation_end import JobEnd
from ips_core.resources.nodes import Reservation
from ips_core.tasks.demand import demand_of
from ips_core.tasks.launcher import TaskLauncher
from ips_core.tasks.runner import Runner
from ips_core.tasks.task import Task

__all__ = ["LocalBackend"]


class LocalBackend:
    """Backend of pools without Dask.

    ``slots`` is the number of cores of all nodes, ``whole_nodes`` the default of the tasks, and
    ``end`` the end of the allocation.
    """

    launch_event = "IPS_LAUNCH_TASK_POOL"
    in_parts = True
    in_container = False

    def __init__(
        self,
        link: FrameworkLink,
        launcher: TaskLauncher,
        slots: int,
        whole_nodes: bool = False,
        end: JobEnd | None = None,
    ) -> None:
        self._link = link
        self._launcher = launcher
        self._slots = slots
        self._whole_nodes = whole_nodes
        self._end = end

    def executor(self, run: str) -> Executor:
        """Return the executor of the run of this name."""
        return LocalExecutor(
            run,
            Runner("local", threads=self._slots),
            self._slots,
            self._allocate,
            self._release,
            self._launcher.command,
            self._end,
            self._launcher.finish,
            self._launcher.why_not,
        )

    def release(self, run: str) -> None:
        """Do nothing: each task releases its own cores."""

    def _allocate(self, task: Task) -> Reservation:
        allocation: Reservation = self._link.ask(
            "allocate", *demand_of(task, self._whole_nodes), True
        )
        return allocation

    def _release(self, allocation: Reservation) -> None:
        self._link.ask("release", allocation.id)
