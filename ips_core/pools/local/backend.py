"""Where pools without Dask run: on cores that the framework hands out, as ``MPIRUN`` says."""

from __future__ import annotations

from ips_core.ipc.link import FrameworkLink
from ips_core.pools.executor import Executor
from ips_core.pools.local.executor import LocalExecutor
from ips_core.resources.allocation_end import JobEnd
from ips_core.resources.nodes import Allocation
from ips_core.tasks.demand import demand_of
from ips_core.tasks.launcher import TaskLauncher
from ips_core.tasks.runner import Runner
from ips_core.tasks.task import Task

__all__ = ["LocalBackend"]


class LocalBackend:
    """Runs pools without Dask.

    Parameters
    ----------
    link : FrameworkLink
        To the framework, which knows who has which cores.
    launcher : TaskLauncher
        Starts programs.
    slots : int
        Cores of all nodes.
    whole_nodes : bool
        Whether tasks take whole nodes that do not say so themselves.
    end : JobEnd, optional
        When the cores are taken away. Default: never.
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
        """Return what runs a submission of that name."""
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
        """Give back what a submission used: nothing, for each task gives back its own."""

    def _allocate(self, task: Task) -> Allocation:
        allocation: Allocation = self._link.ask(
            "allocate", *demand_of(task, self._whole_nodes), True
        )
        return allocation

    def _release(self, allocation: Allocation) -> None:
        self._link.ask("release", allocation.id)
