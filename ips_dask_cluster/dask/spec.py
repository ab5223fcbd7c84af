"""Represent the steps to distributed's ``SpecCluster``: a scheduler, and one entry for each node.

The classes implement ``ProcessInterface``; the processes behind them belong to ``steps``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any

from distributed.comm import get_address_host
from distributed.core import Status
from distributed.deploy.spec import ProcessInterface

from ips_dask_cluster.errors import ClusterError, ClusterStartError
from ips_dask_cluster.jobqueue import Job
from ips_dask_cluster.slurm import lookup
from ips_dask_cluster.steps.launcher import Steps
from ips_dask_cluster.steps.step import Step

__all__ = ["SrunNode", "SrunScheduler"]


async def _announced(scheduler: Step) -> str:
    """Return the address that scheduler.sh prints, ignoring other output.

    Raises ``StepError`` if the step ends first.
    """
    assert scheduler.process is not None
    assert scheduler.process.stdout is not None
    async for line in scheduler.process.stdout:
        mark, _, address = line.decode(errors="replace").strip().partition(" ")
        if mark == "ips-dask-scheduler":
            return address
    await scheduler.process.wait()
    raise scheduler.error()


async def _discard_output(scheduler: Step) -> None:
    """Read and discard the scheduler's output, so that its prints never block on a full pipe."""
    assert scheduler.process is not None
    assert scheduler.process.stdout is not None
    while await scheduler.process.stdout.read(2**16):
        pass


class SrunScheduler(ProcessInterface):  # type: ignore[misc]  # distributed is untyped
    """The scheduler as ``SpecCluster`` sees it: a step that announces its address.

    The cluster has started the step before, with the scheduler's options in its command line;
    further keywords are therefore ignored. ``before_workers`` is awaited with the scheduler's
    address before any worker receives the address.
    """

    def __init__(
        self,
        steps: Steps,
        before_workers: Callable[[str], Awaitable[None]] | None = None,
        **_options: Any,
    ) -> None:
        super().__init__()
        self.steps = steps
        self._before_workers = before_workers
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Wait for the address of the scheduler step and send it to the worker steps.

        Raises ``StepError`` if the step ends first, ``ClusterStartError`` if no address comes
        within ``start_timeout``, and ``ClusterError`` if other nodes cannot reach the address.
        """
        step = self.steps.scheduler
        assert step is not None
        seconds = self.steps.settings.start_timeout
        try:
            self.address = await asyncio.wait_for(_announced(step), seconds)
        except TimeoutError:
            cause = self.steps.symptom()
            raise ClusterStartError(0, 1, seconds, step.nodes, step.tail(), cause) from None
        self._refuse_loopback(step)
        self._reader = asyncio.ensure_future(_discard_output(step))
        if self._before_workers is not None:
            await self._before_workers(self.address)
        await self.steps.announce(self.address)
        await super().start()

    def _refuse_loopback(self, step: Step) -> None:
        host = get_address_host(self.address)
        if ip_address(host).is_loopback and not lookup.on_one_host(self.steps.allocation):
            raise ClusterError(
                f"the scheduler on node {step.nodes[0]} listens on {host}, where no other node "
                "reaches it; pass interface= with a network that the nodes share, such as hsn0 or "
                "ib0 (ip -brief address lists those of a node)"
            )

    async def close(self) -> None:
        """Stop reading the scheduler's output; :meth:`Steps.close` ends the process."""
        if self._reader is not None:
            self._reader.cancel()
        await super().close()


class SrunNode(Job):  # type: ignore[misc]  # dask-jobqueue is untyped
    """One node of the cluster as ``SpecCluster`` sees it; the nodes of a round share one srun.

    The scheduler's address reaches the node through the input of its step, and not through
    dask-jobqueue's ``Job``, which takes the further keywords.
    """

    config_name = "slurm-allocation"
    submit_command = "srun"
    cancel_command = "scancel"

    def __init__(
        self,
        scheduler: Any = None,
        name: str | None = None,
        steps: Steps | None = None,
        **job_options: Any,
    ) -> None:
        super().__init__(scheduler=scheduler, name=name, **job_options)
        self.job_header = ""
        self.steps = steps

    async def start(self) -> None:
        """Start the node's worker, in one step with the others of this round.

        Raises ``StepError`` if the step has ended already, and ``NotEnoughNodesError`` if the
        allocation has no free node left.
        """
        assert self.steps is not None
        await self.steps.join(self.name)
        await ProcessInterface.start(self)

    async def close(self) -> None:
        """Give the node back as soon as it is drained; the other nodes of its step continue."""
        if self.status in (Status.closing, Status.closed):  # type: ignore[has-type]
            return
        self.status = Status.closing
        steps, cluster = self.steps, getattr(self, "_cluster", lambda: None)()
        if steps is not None:
            steps.expect_leave(self.name)
            if cluster is not None and cluster.status == Status.running:
                # In the background: the tasks there may take hours, and the cluster may grow
                steps.release_after(self.name, cluster.drain(steps.members(self.name)))
            else:
                await steps.release(self.name)
        await ProcessInterface.close(self)
