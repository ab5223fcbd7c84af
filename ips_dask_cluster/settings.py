"""Turn checked settings into the common settings of a cluster's steps."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import Any

from ips_dask_cluster.configuration import Configured
from ips_dask_cluster.containers import Container, checked
from ips_dask_cluster.errors import ClusterError
from ips_dask_cluster.tls import tls_arguments

__all__ = ["StepSettings", "make_run_directory", "step_settings"]

_GRACE_SECONDS = 3

#: Without the dashboard's pages there is still a server for metrics, by default on all addresses.
_LOOPBACK = "127.0.0.1:0"
_NO_DASHBOARD = ("--no-dashboard", "--dashboard-address", _LOOPBACK)


@dataclass(frozen=True)
class StepSettings:
    """Hold the settings that all steps of one cluster share."""

    name: str  #: Name of the cluster, part of the names of its workers and steps.
    run_directory: Path  #: Directory that all nodes see, with witness file, certificates and logs.
    log_directory: Path  #: Directory with one log file per node and role.
    python: str  #: Python interpreter on the nodes.
    #: Module whose ``main`` is the worker's command line.
    worker_command: str = "distributed.cli.dask_worker"
    worker_arguments: tuple[str, ...] = ()
    scheduler_arguments: tuple[str, ...] = ()
    #: Workers on a node; with more than one, their names end with ``-0``, ``-1``, ...
    processes: int = 1
    #: GPUs of its node that each worker alone sees; 0: every worker sees all of them.
    gpus_per_worker: int = 0
    #: True: each worker has as many of the Dask resource ``slot`` as it has threads.
    slots: bool = False
    #: Threads of all workers of a node; None: all CPUs that the allocation holds there.
    cores: int | None = None
    #: Bytes for all workers of a node; None: the memory that the allocation holds there.
    memory: int | None = None
    container: Container | None = None  #: Container of scheduler and workers.
    #: True: compare the versions on the nodes with the driver's before anything starts there.
    version_check: bool = True
    #: Variables of the workers, and so of the tasks.
    environment: dict[str, str] = field(default_factory=dict)
    #: Variables of the scheduler.
    scheduler_environment: dict[str, str] = field(default_factory=dict)
    prologue: tuple[str, ...] = ()  #: Shell lines of the user, which run first on every node.
    #: Node-local directory for Dask's spilling; None: a temporary one, removed at the end.
    local_directory: str | None = None
    restarts: int = 3  #: How often a worker that died is restarted on its node.
    start_timeout: float = 120  #: Seconds until the scheduler must have reported its address.
    close_timeout: float = 10  #: Seconds for steps to end by themselves.
    #: Seconds between the order to leave and the end of a node's processes.
    grace: int = _GRACE_SECONDS
    #: ``srun_extra_args`` and ``srun_args_skip`` are as for ``slurm.srun.srun_argv``.
    srun_extra_args: tuple[str, ...] = ()
    srun_args_skip: tuple[str, ...] = ()
    template_directory: Path | None = None  #: Directory of the site's own templates.
    #: Address on which the dashboard listens; empty: all addresses of the scheduler's node; None:
    #: no dashboard.
    dashboard_host: str | None = None
    #: True: the output of tasks goes to this process's standard output; False: to the logs.
    inherit_stdout: bool = False

    @property
    def witness(self) -> Path:
        """File whose presence tells a node that it sees the driver's run directory."""
        return self.run_directory / f"{self.name}.witness"


def make_run_directory(parent: str | os.PathLike[str] | None, name: str) -> Path:
    """Make the hidden directory of a cluster's certificates and logs, and return its path.

    Only the owner can read it. ``parent`` defaults to the current directory. Raises ClusterError if
    the directory exists or cannot be made.
    """
    directory = Path(parent or os.getcwd()).absolute() / f".{name}"
    try:
        directory.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise ClusterError(
            f"the run directory {directory} cannot be made: {error.strerror}; choose another "
            "shared_temp_directory, or another name"
        ) from None
    return directory


def step_settings(
    configured: Configured,
    *,
    name: str,
    run_directory: Path,
    processes: int,
    gpus_per_worker: int,
    teardown_seconds: float,
    container: Container | None,
    environment: Mapping[str, str],
    scheduler_environment: Mapping[str, str],
    scheduler_options: dict[str, Any],
    interface: str | None,
    protocol: str | None,
) -> StepSettings:
    """Return the settings of a cluster's steps; make the log directory and the witness file.

    ``teardown_seconds`` is the time for worker plugins to end, even when workers leave because the
    driver died. ``scheduler_options`` are those that dask-jobqueue has merged, with ``security``;
    ``interface`` and ``protocol`` are those of the workers. Raises ClusterError if the log
    directory cannot be made.
    """
    directory = configured("log-directory")
    log_directory = Path(directory).absolute() if directory else run_directory
    try:
        log_directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClusterError(
            f"the log directory {log_directory} cannot be made: {error.strerror}; choose another "
            "log_directory"
        ) from None
    templates = configured("template-directory")
    security = scheduler_options.pop("security", None)
    tls = {role: tls_arguments(security, role, run_directory) for role in ("scheduler", "worker")}
    bokeh = container is not None or util.find_spec("bokeh") is not None
    dashboard = _dashboard_address(scheduler_options, bokeh)
    settings = StepSettings(
        name=name,
        run_directory=run_directory,
        log_directory=log_directory,
        python=configured("python") or ("python3" if container else sys.executable),
        worker_command=configured("worker-command"),
        worker_arguments=(
            *_worker_arguments(configured, interface, protocol),
            *tls["worker"],
            *configured.words("worker-extra-args"),
        ),
        scheduler_arguments=(
            *tls["scheduler"],
            *_scheduler_arguments(scheduler_options, dashboard),
        ),
        processes=processes,
        gpus_per_worker=gpus_per_worker,
        slots=configured("slots"),
        cores=configured("cores"),
        memory=configured("memory"),
        container=checked(container, os.environ),
        version_check=configured("version-check"),
        environment=dict(environment),
        scheduler_environment=dict(scheduler_environment),
        prologue=configured.lines("job-script-prologue"),
        local_directory=configured("local-directory"),
        restarts=configured("restarts"),
        start_timeout=float(configured("start-timeout")),
        close_timeout=float(configured("close-timeout")),
        grace=_GRACE_SECONDS + math.ceil(teardown_seconds),
        srun_extra_args=configured.words("srun-extra-args"),
        srun_args_skip=configured.words("srun-args-skip"),
        template_directory=Path(templates) if templates else None,
        dashboard_host=dashboard.rpartition(":")[0] if dashboard else None,
        # Otherwise this is a notebook, or output is captured; tasks then print to the log.
        inherit_stdout=sys.stdout is sys.__stdout__,
    )
    settings.witness.touch()
    return settings


def _worker_arguments(
    configured: Configured, interface: str | None, protocol: str | None
) -> list[str]:
    arguments = ["--nanny" if configured("nanny") else "--no-nanny", *_NO_DASHBOARD]
    arguments += ["--death-timeout", str(configured("death-timeout"))]
    interface = configured("worker-interface") or interface
    arguments += ["--interface", interface] if interface else []
    arguments += ["--protocol", protocol] if protocol else []
    return arguments


def _dashboard_address(options: dict[str, Any], bokeh: bool) -> str:
    """Return the address on which the dashboard listens; empty if there is none."""
    wanted = options.pop("dashboard", True)
    address = str(options.pop("dashboard_address", ":8787"))
    if not wanted or not bokeh:
        return ""
    # The loopback address, because a dashboard shows the user's code and data to everyone who
    # reaches it. A free port, because another user of a shared node may have 8787, which
    # dask-jobqueue passes.
    return _LOOPBACK if address == ":8787" else address


def _scheduler_arguments(options: dict[str, Any], dashboard: str) -> list[str]:
    arguments = ["--dashboard-address", dashboard] if dashboard else list(_NO_DASHBOARD)
    for option, value in options.items():
        if value is not None:
            arguments += [f"--{option.replace('_', '-')}", str(value)]
    return arguments
