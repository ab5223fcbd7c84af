"""Every error that ``ips_dask_cluster`` raises on purpose.

::

    ClusterError(RuntimeError)      anything that stops a cluster
    ├── NotEnoughNodesError         more nodes asked for than the allocation holds
    ├── SlurmCommandError           a Slurm program is missing or refused to answer
    ├── StepError                   a scheduler or worker step ended when it should not have
    ├── ClusterStartError           workers did not arrive in time
    └── WorkerPluginError           a worker plugin could not be set up

Each is built from its plain arguments and makes its text in ``__str__``, so that all of them
survive pickling between processes.
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
    """Base of all errors of this package."""


class NotEnoughNodesError(ClusterError):
    """More nodes were asked for than are there.

    Parameters
    ----------
    wanted, free, held : int
        Nodes asked for, nodes that run no worker of this or another cluster, and nodes of the
        allocation.
    where : str
        What holds the nodes, such as ``"Slurm job 17"``.
    lost : str
        Nodes that are left out because they were lost, such as ``"n3,n4"``.
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
    """A Slurm program is missing, or answered with an error.

    Parameters
    ----------
    command : str
        The command as one would type it.
    reason : str
        What went wrong, in the program's own words where it has any.
    remedy : str
        What to do about it.
    """

    def __init__(self, command: str, reason: str, remedy: str = "") -> None:
        super().__init__(command, reason, remedy)

    def __str__(self) -> str:
        command, reason, remedy = self.args
        return f"{command}: {reason}" + (f"; {remedy}" if remedy else "")


class StepError(ClusterError):
    """A step of the cluster ended, or could not start.

    Parameters
    ----------
    role : str
        ``"scheduler"`` or ``"worker"``.
    nodes : str
        The nodes of the step, as Slurm writes them.
    exit_code : int or None
        Exit code of ``srun`` (or of the local process); None while it still runs.
    cause : str
        One sentence from :mod:`ips_dask_cluster.slurm.diagnosis`: what happened and what to do.
    log_tail : str
        The last lines of the step's log.
    log_path : str
        The file to open next.
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
    """Workers did not arrive before the deadline.

    Parameters
    ----------
    arrived, wanted : int
        Workers that are connected, and workers waited for.
    seconds : float
        How long the wait was.
    missing : tuple of str
        Names of the nodes whose worker is not there.
    log_tail : str
        The last lines of the steps' logs.
    cause : str
        One sentence from :mod:`ips_dask_cluster.slurm.diagnosis`, if any symptom is in the logs.
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
        Its name.
    workers : str
        The workers, or the first of them and how many more.
    reason : str
        What its ``setup`` raised there.
    """

    def __init__(self, plugin: str, workers: str, reason: str) -> None:
        super().__init__(plugin, workers, reason)

    def __str__(self) -> str:
        plugin, workers, reason = self.args
        return (
            f"the worker plugin {plugin!r} could not be set up on {workers}: {reason}; the log of "
            "the worker has the traceback"
        )
