"""Define the errors that ``ips_dask_cluster`` raises.

::

    ClusterError(RuntimeError)      anything that stops a cluster ├── NotEnoughNodesError
    more nodes requested than are free in the allocation ├── SlurmCommandError           a Slurm
    program is missing or failed ├── StepError                   a scheduler or worker step ended
    unexpectedly ├── ClusterStartError           the scheduler or workers did not connect in time
    └── WorkerPluginError           a worker plugin could not be set up

Wrong arguments are a ``TypeError`` or ``ValueError``. Each error stores its plain arguments and
builds its text in ``__str__``, so that it survives pickling between processes.
"""

from __future__ import annotations

__all__ = [
    "ClusterError",
    "ClusterStartError",
    "NotEnoughNodesError",
    "SlurmCommandError",
    "StepError",
    "WorkerPluginError",
]


class ClusterError(RuntimeError):
    """Base class of all errors of this package."""


class NotEnoughNodesError(ClusterError):
    """More nodes were requested than are free.

    Parameters
    ----------
    wanted : int
        Number of nodes requested.
    free : int
        Number of nodes that run no worker of this or another cluster and are not lost.
    held : int
        Number of nodes in the allocation.
    where : str
        The allocation as a text, such as ``"Slurm job 17"``.
    lost : str
        Lost nodes, which are no longer used, such as ``"n3,n4"``. Default: ``""``.
    """

    def __init__(self, wanted: int, free: int, held: int, where: str, lost: str = "") -> None:
        super().__init__(wanted, free, held, where, lost)

    def __str__(self) -> str:
        wanted, free, held, where, lost = self.args
        in_use = held - free - len(lost.split(",") if lost else [])
        but = f", of which {in_use} already run a worker" if in_use else ""
        but += f"{' and' if but else ', of which'} {lost} was lost" if lost else ""
        remedy = (
            "ask for fewer, or for a larger allocation (salloc -N)"
            if where.startswith("Slurm")
            else "nodes= of the constructor says how many there are without Slurm"
        )
        return f"{wanted} node(s) asked for, but {where} has {held}{but}; {remedy}"


class SlurmCommandError(ClusterError):
    """A Slurm program is missing or failed.

    Parameters
    ----------
    command : str
        The command line.
    reason : str
        The cause, in the program's own words if it printed any.
    remedy : str
        What to do about it. Default: ``""``.
    """

    def __init__(self, command: str, reason: str, remedy: str = "") -> None:
        super().__init__(command, reason, remedy)

    def __str__(self) -> str:
        command, reason, remedy = self.args
        return f"{command}: {reason}" + (f"; {remedy}" if remedy else "")


class StepError(ClusterError):
    """A step of the cluster ended unexpectedly or could not start.

    Parameters
    ----------
    role : str
        ``"scheduler"`` or ``"worker"``.
    nodes : str
        Nodes of the step, in Slurm's notation.
    exit_code : int or None
        Exit code of ``srun`` (or of the local process); None while it still runs.
    cause : str
        What happened and what to do, in one sentence (:mod:`ips_dask_cluster.slurm.diagnosis`).
    log_tail : str
        The last lines of the step's log.
    log_path : str
        Path of the step's log.
    """

    def __init__(
        self,
        role: str,
        nodes: str,
        exit_code: int | None,
        cause: str,
        log_tail: str,
        log_path: str,
    ) -> None:
        super().__init__(role, nodes, exit_code, cause, log_tail, log_path)

    @property
    def cause(self) -> str:
        """What happened and what to do, in one sentence."""
        return str(self.args[3])

    def __str__(self) -> str:
        role, nodes, exit_code, cause, log_tail, log_path = self.args
        how = "gave up" if exit_code is None else f"ended with exit code {exit_code}"
        quoted = "".join(f"\n    {line}" for line in log_tail.splitlines())
        return (
            f"the {role} step on {nodes} {how}: {cause}\n  end of its log ({log_path}):{quoted}"
            if quoted
            else f"the {role} step on {nodes} {how}: {cause} (log: {log_path})"
        )


class ClusterStartError(ClusterError):
    """The scheduler or workers did not connect before the deadline.

    Parameters
    ----------
    arrived : int
        Number of workers that are connected.
    wanted : int
        Number of workers that were awaited.
    seconds : float
        Length of the wait, in seconds.
    missing : tuple of str
        Names of the nodes whose worker is not connected; the scheduler's node if it has not
        started.
    log_tail : str
        The last lines of the steps' logs.
    cause : str
        What happened and what to do, in one sentence, if a log has a known symptom. Default:
        ``""``.
    """

    def __init__(
        self,
        arrived: int,
        wanted: int,
        seconds: float,
        missing: tuple[str, ...],
        log_tail: str,
        cause: str = "",
    ) -> None:
        super().__init__(arrived, wanted, seconds, missing, log_tail, cause)

    def __str__(self) -> str:
        arrived, wanted, seconds, missing, log_tail, cause = self.args
        nodes = f"; none yet from {', '.join(missing)}" if missing else ""
        nodes += f": {cause}" if cause else ""
        quoted = "".join(f"\n    {line}" for line in log_tail.splitlines())
        return f"{arrived} of {wanted} workers arrived within {seconds:g} s{nodes}{quoted}"


class WorkerPluginError(ClusterError):
    """A worker plugin could not be set up.

    Parameters
    ----------
    plugin : str
        Name of the plugin.
    workers : str
        Names of the workers, or of the first of them and the number of the others.
    reason : str
        The error that the plugin's ``setup`` raised, or that it was not done in time.
    """

    def __init__(self, plugin: str, workers: str, reason: str) -> None:
        super().__init__(plugin, workers, reason)

    def __str__(self) -> str:
        plugin, workers, reason = self.args
        return (
            f"the worker plugin {plugin!r} could not be set up on {workers}: {reason}; the log of "
            "the worker has the traceback"
        )
