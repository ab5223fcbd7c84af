"""From checked settings to what the steps of a cluster have in common."""

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

#: There is a server for metrics without the pages, too, by default on all addresses.
_LOOPBACK = "127.0.0.1:0"
_NO_DASHBOARD = ("--no-dashboard", "--dashboard-address", _LOOPBACK)


@dataclass(frozen=True)
class StepSettings:
    """What the steps of one cluster have in common.

    Parameters
    ----------
    name : str
        The cluster's name; part of every worker's and step's name.
    run_directory : pathlib.Path
        Seen by all nodes: witness file, certificates, logs.
    log_directory : pathlib.Path
        One log file per node and role.
    python : str
        The Python of the nodes.
    worker_command : str
        Module whose ``main`` is the worker's command line.
    worker_arguments : tuple of str
        For every worker's command line.
    scheduler_arguments : tuple of str
        For the scheduler's command line.
    processes : int
        Workers on a node; with more than one, ``-0``, ``-1``, ... end their names.
    gpus_per_worker : int
        GPUs of its node that each worker sees, and no other does; 0: all see all of them.
    slots : bool
        Each worker has as many of the Dask resource ``slot`` as threads.
    cores : int or None
        Threads of all workers of a node; None: every CPU held of it.
    memory : int or None
        Memory limit of all workers of a node in bytes; None: the memory held of it.
    container : Container or None
        What scheduler and workers run in.
    version_check : bool
        Compare the versions of the nodes with the driver's before anything starts there.
    environment, scheduler_environment : dict of str to str
        Set for workers and so for tasks, and for the scheduler.
    prologue : tuple of str
        Shell lines of the user, run first on every node.
    local_directory : str or None
        Node-local directory for Dask's spilling; None: a temporary one, removed at the end.
    restarts : int
        How often a worker that died is started again on its node.
    start_timeout : float
        Seconds until the scheduler must have announced itself.
    close_timeout : float
        Seconds that steps get to end by themselves.
    grace : int
        Seconds between a node's order to leave and the end of its processes.
    srun_extra_args, srun_args_skip : tuple of str
        As for ``slurm.srun.srun_argv``.
    template_directory : pathlib.Path or None
        A site's own templates.
    dashboard_host : str or None
        Where the dashboard listens; empty: on every address of the scheduler's node; None: there
        is none.
    inherit_stdout : bool
        True: what tasks print goes to this process's standard output; False: to the steps' logs.
    """

    name: str
    run_directory: Path
    log_directory: Path
    python: str
    worker_command: str = "distributed.cli.dask_worker"
    worker_arguments: tuple[str, ...] = ()
    scheduler_arguments: tuple[str, ...] = ()
    processes: int = 1
    gpus_per_worker: int = 0
    slots: bool = False
    cores: int | None = None
    memory: int | None = None
    container: Container | None = None
    version_check: bool = True
    environment: dict[str, str] = field(default_factory=dict)
    scheduler_environment: dict[str, str] = field(default_factory=dict)
    prologue: tuple[str, ...] = ()
    local_directory: str | None = None
    restarts: int = 3
    start_timeout: float = 120
    close_timeout: float = 10
    grace: int = _GRACE_SECONDS
    srun_extra_args: tuple[str, ...] = ()
    srun_args_skip: tuple[str, ...] = ()
    template_directory: Path | None = None
    dashboard_host: str | None = None
    inherit_stdout: bool = False

    @property
    def witness(self) -> Path:
        """The file by which a node sees that the run directory is the driver's."""
        return self.run_directory / f"{self.name}.witness"


def make_run_directory(parent: str | os.PathLike[str] | None, name: str) -> Path:
    """Make the directory of a cluster's certificates and logs, for its owner alone.

    Parameters
    ----------
    parent : str, path or None
        Where; None: the current directory.
    name : str
        Name of the cluster; its directory is hidden.

    Raises
    ------
    ClusterError
        It cannot be made, or is there already.
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
    """Return the settings of a cluster's steps; what it names exists afterwards.

    Parameters
    ----------
    configured : Configured
        Keywords and configuration.
    name, run_directory, processes, gpus_per_worker, container, environment, \
    scheduler_environment
        As for :class:`StepSettings`.
    teardown_seconds : float
        What worker plugins get to end, also when workers leave because the driver died.
    scheduler_options : dict
        As dask-jobqueue has merged them, ``security`` among them.
    interface, protocol : str or None
        Of the workers.
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
        # else a notebook or a capture: print to the log
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
    """Return where the dashboard listens, and nothing where there is none."""
    wanted = options.pop("dashboard", True)
    address = str(options.pop("dashboard_address", ":8787"))
    if not wanted or not bokeh:
        return ""
    # On the node's loopback: a dashboard shows the code and data of whoever runs it. A free port,
    # since 8787, which dask-jobqueue passes, belongs to whoever came first on a shared node.
    return _LOOPBACK if address == ":8787" else address


def _scheduler_arguments(options: dict[str, Any], dashboard: str) -> list[str]:
    arguments = ["--dashboard-address", dashboard] if dashboard else list(_NO_DASHBOARD)
    for option, value in options.items():
        if value is not None:
            arguments += [f"--{option.replace('_', '-')}", str(value)]
    return arguments
