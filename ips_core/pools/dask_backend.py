"""Runs a component's pools on the Dask clusters of the keeper.

It decides which cluster a pool asks for, holds the component's connections to clusters, and knows
which runs are under way. How tasks are worked off is the dispatcher's business.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ips_core.dask_cluster import ClusterRequest, shifter_arguments
from ips_core.errors import DaskClusterError, IPSError, TaskPoolError
from ips_core.link import FrameworkLink
from ips_core.messages import Start, pack, unpack
from ips_core.pools.dispatcher import Dispatcher, Policy
from ips_core.pools.pool import TaskPool
from ips_core.pools.pool_events import SubmissionEvents
from ips_core.pools.results import Results
from ips_core.pools.task_source import TaskSource

if TYPE_CHECKING:
    from ips_core.pools.dask_executor import DaskExecutor

__all__ = ["DaskBackend"]


@dataclass(frozen=True)
class _Run:
    """A submission that is under way, and the cluster that it uses."""

    address: str
    request: ClusterRequest
    executor: DaskExecutor
    dispatcher: Dispatcher


class DaskBackend:
    """What a component's process has to do with Dask.

    Parameters
    ----------
    start : Start
        Who the component is, and what the simulation may use.
    link : FrameworkLink
        To the framework, and through it to the keeper.
    logger : logging.Logger
        For what is worth a warning.
    """

    def __init__(self, start: Start, link: FrameworkLink, logger: logging.Logger) -> None:
        self._start = start
        self._link = link
        self._logger = logger
        self._clients: dict[str, Any] = {}  # by the scheduler's address
        self._runs: dict[str, _Run] = {}  # by their names
        self._lost: dict[str, str] = {}  # why, by the scheduler's address

    def request(
        self,
        pool: str,
        nodes: int,
        threads: int | None,
        use_shifter: bool,
        shifter_args: str | Sequence[str] | None,
        per_gpu: bool,
    ) -> ClusterRequest:
        """Return what a pool needs; parameters as for ``ServicesProxy.submit_tasks``.

        Raises
        ------
        TaskPoolError
            The simulation does not have it.
        """
        resources = self._start.resources
        if nodes > resources.nodes:
            if not resources.flexible:
                raise TaskPoolError(
                    f"pool {pool}: dask_nodes = {nodes}, but there are only {resources.nodes}"
                )
            message = f"pool {pool}: dask_nodes = {nodes} on a single machine: one worker is used"
            self._logger.warning(message)
            print(f"{message} (--nodes {nodes} makes {nodes} of it)")
            nodes = 1
        shifter = None
        if use_shifter:
            if shutil.which("shifter") is None:
                raise TaskPoolError(f"pool {pool}: use_shifter=True, but shifter is not on PATH")
            shifter = shifter_arguments(shifter_args)
        own = self._start.simulation.values.get(self._start.section, {}).get("PROCS_PER_NODE")
        cores = int(own or self._start.platform.get("PROCS_PER_NODE") or 0)
        return ClusterRequest(nodes, threads, cores or None, resources.launcher, shifter, per_gpu)

    def submit(
        self,
        pool: TaskPool,
        source: TaskSource,
        names: Sequence[str],
        request: ClusterRequest,
        plugin: Any,
        policy: Policy,
        events: SubmissionEvents,
    ) -> Dispatcher:
        """Start working off tasks, on a cluster that is started if there is none like it.

        Parameters
        ----------
        pool : TaskPool
            Whose they are.
        source : TaskSource
            What to run.
        names : sequence of str
            The tasks that are known already, in the order of adding.
        request : ClusterRequest
            As :meth:`request` returned it.
        plugin : WorkerPlugin or None
            Lives on the workers as long as the run.
        policy : Policy
            What to do about failures and time.
        events : SubmissionEvents
            Hears of starts and ends.

        Raises
        ------
        DaskClusterError
            The cluster could not start.
        """
        asked = self._link.post("keeper", "acquire", pack(((request, self._start.name), {})))
        # While the cluster starts: what this process needs to use it
        import distributed  # noqa: F401

        from ips_core.pools.dask_executor import DaskExecutor

        try:
            reached = unpack(self._link.answer(asked))
        except IPSError as error:
            raise DaskClusterError(str(error)) from None
        # On a shared cluster: not the pool of that name of another component, or an earlier one
        name = ascii(f"{self._start.name} {pool.name} {events.begin}")
        try:
            client = self._client(reached)
            journal = Path(reached.run_directory)
            topic = _topic(client)
            executor = DaskExecutor(name, client, topic, reached.slots, None, journal, plugin)
            events.on_finished = lambda: self._finished(name)
            dispatcher = Dispatcher(name, source, executor, Results(names), events, policy)
            self._runs[name] = _Run(reached.address, request, executor, dispatcher)
            dispatcher.start()
            if reached.address in self._lost:  # while this was on its way
                executor.lose(self._lost[reached.address])
        except BaseException:
            self._runs.pop(name, None)
            self._release(request)
            raise
        return dispatcher

    def _client(self, reached: Any) -> Any:
        """Return the client for a cluster; one serves all pools of the component."""
        from distributed import Client

        client = self._clients.get(reached.address)
        if client is not None:
            return client
        client = Client(
            reached.address, security=reached.security, set_as_default=False, timeout=60
        )
        client.subscribe_topic(_topic(client), self._hear)
        self._clients[reached.address] = client
        return client

    def _hear(self, event: tuple[float, dict[str, Any]]) -> None:
        run = self._runs.get(event[1]["run"])
        if run is not None:
            run.executor.hear_event(event[1])

    def _finished(self, name: str) -> None:
        self._release(self._runs.pop(name).request)

    def _release(self, request: ClusterRequest) -> None:
        with contextlib.suppress(IPSError):  # the simulation is ending
            self._link.ask("keeper", "release", pack(((request,), {})))

    def lose_cluster(self, address: str, reason: str) -> None:
        """Tell the runs on a cluster that it is lost, also one that is about to begin."""
        self._lost[address] = reason
        for run in list(self._runs.values()):
            if run.address == address:
                run.executor.lose(reason)

    def lose_all(self, reason: str) -> None:
        """Tell every run that its cluster is lost."""
        for address in list(self._clients):
            self.lose_cluster(address, reason)

    def close(self) -> int:
        """End the runs that are under way, leave the clusters and return how many they were."""
        running = list(self._runs.values())
        for run in running:
            run.dispatcher.cancel()
        for client in self._clients.values():
            client.close(timeout=2)
        return len(running)


def _topic(client: Any) -> str:
    """Return under which topic workers tell their news to a client."""
    return f"ips-{client.id}"
