"""Define every error that ``ips_core`` raises on purpose.

::

    IPSError(Exception)
    ├── ConfigError                 a simulation file, platform file or option is invalid
    ├── ComponentError              a component raised, died or could not be loaded
    ├── IncompleteCallException     wait_call(block=False) while the call still runs
    ├── TaskPoolError               a task pool or one of its tasks is invalid
    ├── DaskClusterError            the Dask cluster of a pool cannot start or is lost
    ├── TaskLaunchError             launch_task cannot start a program
    ├── BadResourceRequest          more cores, GPUs or nodes than the simulation has
    ├── ResourceRequestMismatch     the processes would need more nodes than there are
    ├── ResourceRequestUnequalPartitioning  whole nodes, but a different number of processes on one
    ├── GPUResourceRequestMismatch  more GPUs than a node has
    ├── InsufficientResources       the resources are in use and the caller does not wait
    └── TaskError                   one task of a pool failed; a value in the pool's results

Errors without a Parameters section take one argument, the message. Each error keeps its constructor
arguments and builds its text in ``__str__``, so that it survives pickling. Names that end with
``Exception`` are IPS-framework's names of the same classes, so that ``except`` clauses of existing
components work.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BadResourceRequest",
    "BadResourceRequestException",
    "ComponentError",
    "ConfigError",
    "DaskClusterError",
    "GPUResourceRequestMismatch",
    "GPUResourceRequestMismatchException",
    "IPSError",
    "IncompleteCallException",
    "InsufficientResources",
    "InsufficientResourcesException",
    "ResourceRequestMismatch",
    "ResourceRequestMismatchException",
    "ResourceRequestUnequalPartitioning",
    "ResourceRequestUnequalPartitioningException",
    "TaskError",
    "TaskLaunchError",
    "TaskPoolError",
    "describe",
    "did_you_mean",
]


class IPSError(Exception):
    """Base class of all errors of this package."""


class ConfigError(IPSError):
    """A simulation file, a platform file or the command line is invalid.

    Parameters
    ----------
    file : str
        Path of the invalid file; empty for the command line.
    problems : sequence of str
        All problems found, one sentence each.
    """

    def __init__(self, file: str, problems: Sequence[str]) -> None:
        super().__init__(file, tuple(problems))

    def __str__(self) -> str:
        file, problems = self.args
        where = f"{file}: " if file else ""
        return "\n".join(f"{where}{problem}" for problem in problems)


class ComponentError(IPSError):
    """A component raised, died or could not be loaded.

    Parameters
    ----------
    component : str
        Name of the component, such as ``DRIVER__Driver_1``.
    method : str
        Method that failed, or the stage before the first method: ``"staging"``, ``"OUT_REDIRECT"``
        or ``"constructor"``.
    reason : str
        Text of the exception, or how the process ended.
    """

    def __init__(self, component: str, method: str, reason: str) -> None:
        super().__init__(component, method, reason)

    def __str__(self) -> str:
        component, method, reason = self.args
        return f"component {component} failed in {method}: {reason}"


class IncompleteCallException(IPSError):
    """``wait_call(block=False)`` was called while the call still runs.

    Parameters
    ----------
    call_id : int
        Number of the call, as ``call_nonblocking`` returned it.
    """

    def __str__(self) -> str:
        return f"call {self.args[0]} has not finished yet"


class TaskPoolError(IPSError):
    """A task pool, or a task or keyword of it, is invalid, or nothing is left to wait for."""


class DaskClusterError(IPSError):
    """The Dask cluster of a pool cannot start or is lost."""


class TaskLaunchError(IPSError):
    """``launch_task`` cannot start a program."""


class BadResourceRequest(IPSError):
    """A request exceeds the cores, GPUs or nodes of the simulation, or has an invalid number."""


class ResourceRequestMismatch(IPSError):
    """With so few processes on each node, the task would need more nodes than there are."""


class ResourceRequestUnequalPartitioning(IPSError):
    """On whole nodes, the task would not run the same number of processes on each node."""


class GPUResourceRequestMismatch(IPSError):
    """The processes on one node need more GPUs than the node has."""


class InsufficientResources(IPSError):
    """The resources are in use, and the caller asked not to wait (``block=False``)."""


BadResourceRequestException = BadResourceRequest
ResourceRequestMismatchException = ResourceRequestMismatch
ResourceRequestUnequalPartitioningException = ResourceRequestUnequalPartitioning
GPUResourceRequestMismatchException = GPUResourceRequestMismatch
InsufficientResourcesException = InsufficientResources


class TaskError(IPSError):
    """A task of a pool failed; ``get_finished_tasks`` returns this as the task's result.

    Parameters
    ----------
    task_name : str
        Name of the task.
    reason : str
        Type and text of the exception, or what else ended the task.
    traceback : str
        Traceback from the worker. Default: empty.

    Notes
    -----
    ``get_finished_tasks`` returns it instead of raising it, so that one failed task does not cost
    the results of the others. It equals no number, so that a comparison with exit code 0 detects
    the failure.
    """

    def __init__(self, task_name: str, reason: str, traceback: str = "") -> None:
        super().__init__(task_name, reason, traceback)

    def __str__(self) -> str:
        return f"task {self.args[0]} failed: {self.args[1]}"

    def __repr__(self) -> str:
        return f"TaskError({self.args[0]!r}, {self.args[1]!r})"  # the log file has the traceback


def describe(error: BaseException) -> str:
    """Return the text of an exception for a message.

    Parameters
    ----------
    error : BaseException
        Any exception, also one whose ``__str__`` raises.

    Returns
    -------
    str
        The text alone for an :class:`IPSError` or a plain ``Exception``; otherwise the type and the
        text.
    """
    try:
        text = str(error)
    except Exception:  # a component's own class with a broken __str__
        text = ""
    if isinstance(error, IPSError) or (type(error) is Exception and text):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return a suggestion for an unknown word.

    Parameters
    ----------
    word : str
        Unknown word.
    known : sequence of str
        Valid words.

    Returns
    -------
    str
        End of a sentence that names the closest valid word; empty if none is close.
    """
    from difflib import get_close_matches  # lazy: needed only after a typing error

    close = get_close_matches(word, known, 1)
    return f"; did you mean {close[0]}?" if close else ""
