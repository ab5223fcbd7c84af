"""Show a cluster: its text and HTML, its dashboard, its scripts and its logs."""

from __future__ import annotations

import os
from typing import Any

from distributed.comm import get_address_host
from distributed.core import Status
from distributed.deploy.cluster import Cluster
from distributed.utils import Log, Logs

from ips_dask_cluster import display
from ips_dask_cluster.dashboard import Dashboard
from ips_dask_cluster.errors import StepError
from ips_dask_cluster.logs import read_logs
from ips_dask_cluster.reports import Reports
from ips_dask_cluster.slurm.allocation import Allocation
from ips_dask_cluster.steps.failures import Loss
from ips_dask_cluster.steps.launcher import Steps

__all__ = ["Visible"]


class Visible(Cluster):  # type: ignore[misc]  # distributed is untyped
    """The methods of ``SlurmAllocationCluster`` that change nothing."""

    allocation: Allocation
    steps: Steps
    worker_spec: dict[str, Any]
    status: Any
    _reports: Reports

    @property
    def failure(self) -> StepError | None:
        """The error because of which the cluster cannot continue; None while it can."""
        return self._reports.failure

    @property
    def losses(self) -> tuple[Loss, ...]:
        """The workers and nodes that were lost so far, in the order of their loss."""
        return tuple(self._reports.losses)

    def __repr__(self) -> str:
        workers = self.scheduler_info.get("workers", {}).values()
        threads = sum(info["nthreads"] for info in workers)
        used, held = len(self.worker_spec), len(self.allocation.nodes)
        return (
            f"{type(self).__name__}({self.name!r}, {self.scheduler_address!r}, "
            f"on {self.allocation}, nodes={used}/{held}, workers={len(workers)}, threads={threads})"
        )

    def job_script(self) -> str:
        """Return the commands and scripts of the scheduler and worker steps as one shell script."""
        return self.steps.text()

    @property
    def dashboard_link(self) -> str:
        """Address of the dashboard for a browser; empty if there is no dashboard.

        The dashboard listens on the loopback of the scheduler's node, since it shows code and data
        to everyone who can open it. From another machine, use ``ssh -N -L PORT:127.0.0.1:PORT
        NODE`` with the port of the link. Under JupyterHub, the link uses jupyter-server-proxy.
        """
        found = self._dashboard()
        return "" if found is None else found.link()

    def _dashboard(self) -> Dashboard | None:
        port = self.scheduler_info.get("services", {}).get("dashboard")
        if port is None or self.steps.scheduler is None or self.status == Status.closed:
            return None
        listens = self.steps.settings.dashboard_host
        if listens is None:
            return None
        address = get_address_host(self.scheduler_address)
        node = self.steps.scheduler.nodes[0] if self.allocation.job_id else ""
        here = not node or node == os.environ.get("SLURMD_NODENAME")
        return Dashboard(listens, port, address, node, here)

    def _repr_html_(self, cluster_status: str | None = None) -> str:
        dashboard = self._dashboard()
        status = display.Status(
            allocation=str(self.allocation),
            nodes_used=len(self.worker_spec),
            nodes_held=len(self.allocation.nodes),
            seconds_left=self.time_left(),
            tunnel="" if dashboard is None else dashboard.tunnel(),
        )
        return display.cluster_page(
            type(self).__name__,
            self.name,
            self.dashboard_link,
            self.scheduler_info.get("workers", {}),
            self.steps.node_names() if hasattr(self, "steps") else {},
            status.rows() + (cluster_status or ""),
        )

    def time_left(self) -> float | None:
        """Return the seconds until the allocation ends; None when it has no known end.

        A change of the job's limit takes effect here within a minute.
        """
        return self.allocation.time_left()

    def get_logs(self, cluster: bool = True, scheduler: bool = True, workers: Any = True) -> Any:
        """Return the logs of the scheduler, the workers and the steps, also after the end.

        Parameters
        ----------
        cluster : bool
            Whether to return ``"Cluster"``: the losses, and the messages of Slurm and the node
            scripts. Default: True.
        scheduler : bool
            Whether to return the log of the scheduler. Default: True.
        workers : bool or list of str
            Whether to return the logs of the workers, or the addresses of the workers whose logs to
            return while the cluster runs. Default: True.

        Returns
        -------
        dict of str to str
            While the cluster runs, workers go by their addresses, as everywhere in Dask; later by
            the names of their log files, of which the last 100 kB are returned.

        Raises
        ------
        ClusterError
            The log files were removed with the run directory; ``log_directory`` keeps them.
        """
        if self.status == Status.closed and not self.asynchronous:
            return self._logs_of_files(cluster, scheduler, workers)
        return super().get_logs(cluster, scheduler, workers)

    async def _get_logs(
        self, cluster: bool = True, scheduler: bool = True, workers: Any = True
    ) -> Logs:
        if self.status != Status.running or self.failure is not None:  # no process would answer
            return self._logs_of_files(cluster, scheduler, workers)
        logs = await super()._get_logs(False, scheduler, workers)
        return Logs(logs | self._logs_of_files(cluster, False, False))

    def _logs_of_files(self, cluster: bool, scheduler: bool, workers: Any) -> Logs:
        directory = self.steps.settings.log_directory
        logs = read_logs(directory, str(self.name), scheduler, bool(workers))
        if cluster:
            steps = self.steps.all
            tails = [f"{step.role}: {tail}" for step in steps if (tail := step.tail())]
            logs["Cluster"] = Log("\n".join([*map(str, self.losses), *tails]))
        return logs
