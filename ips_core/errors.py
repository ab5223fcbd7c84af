"""Every error that ``ips_core`` raises on purpose.

::

    IPSError(Exception)
    ├── ConfigError                 a simulation or platform file, or the command line, is wrong
    ├── ComponentError              a component raised, died or could not be loaded
    ├── IncompleteCallException     wait_call(block=False) and the call still runs
    ├── TaskPoolError               a task pool cannot do what is asked of it
    ├── DaskClusterError            the Dask cluster of a pool could not start, or is lost
    ├── TaskLaunchError             launch_task cannot start a program
    ├── BadResourceRequest          more cores, GPUs or nodes than there are
    ├── ResourceRequestMismatch     too few nodes for so few processes on each
    ├── ResourceRequestUnequalPartitioning  whole nodes, and not the same number on each
    ├── GPUResourceRequestMismatch  more GPUs than a node has
    ├── InsufficientResources       they are in use, and waiting was not wanted
    └── TaskError                   one task of a pool failed; a value in its results

Each is built from its plain arguments and makes its text in ``__str__``, so that all of them
survive pickling between processes. Where IPS-framework's name ends with ``Exception``, that is
another name of the same class, so that ``except`` clauses of old components hold.
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
    """Base of all errors of this package."""


class ConfigError(IPSError):
    """What the user wrote cannot be run.

    Parameters
    ----------
    file : str
        The file in question; empty for the command line.
    problems : sequence of str
        One sentence each, all that were found.
    """

    def __init__(self, file: str, problems: Sequence[str]) -> None:
        super().__init__(file, tuple(problems))

    def __str__(self) -> str:
        file, problems = self.args
        where = f"{file}: " if file else ""
        return "\n".join(f"{where}{problem}" for problem in problems)


class ComponentError(IPSError):
    """A component failed.

    Parameters
    ----------
    component : str
        Its name, such as ``DRIVER__Driver_1``.
    method : str
        What it was doing: a method, or ``"constructor"``.
    reason : str
        The exception, or how its process ended.
    """

    def __init__(self, component: str, method: str, reason: str) -> None:
        super().__init__(component, method, reason)

    def __str__(self) -> str:
        component, method, reason = self.args
        return f"component {component} failed in {method}: {reason}"


class IncompleteCallException(IPSError):
    """The call still runs.

    Parameters
    ----------
    call_id : int
        As ``call_nonblocking`` returned it.
    """

    def __str__(self) -> str:
        return f"call {self.args[0]} has not finished yet"


class TaskPoolError(IPSError):
    """A task pool cannot do what is asked of it; the argument is the sentence."""


class DaskClusterError(IPSError):
    """The Dask cluster of a pool could not start, or is lost; the argument is the sentence."""


class TaskLaunchError(IPSError):
    """``launch_task`` cannot start a program; the argument is the sentence."""


class BadResourceRequest(IPSError):
    """What is asked for is more than there is; the argument is the sentence."""


class ResourceRequestMismatch(IPSError):
    """There are cores enough, but not with so few processes on a node; the argument is the text."""


class ResourceRequestUnequalPartitioning(IPSError):
    """Whole nodes would not all run the same number of processes; the argument is the sentence."""


class GPUResourceRequestMismatch(IPSError):
    """The processes of a node want more GPUs than it has; the argument is the sentence."""


class InsufficientResources(IPSError):
    """What is asked for is in use, and waiting was not wanted; the argument is the sentence."""


BadResourceRequestException = BadResourceRequest
ResourceRequestMismatchException = ResourceRequestMismatch
ResourceRequestUnequalPartitioningException = ResourceRequestUnequalPartitioning
GPUResourceRequestMismatchException = GPUResourceRequestMismatch
InsufficientResourcesException = InsufficientResources


class TaskError(IPSError):
    """A task that did not return: what ``get_finished_tasks`` gives for it.

    Parameters
    ----------
    task_name : str
        The task.
    reason : str
        The exception's type and text, or what else ended it.
    traceback : str
        Where it was raised, on the worker.

    Notes
    -----
    It is a value, not an exception that flies, so that one task never costs the results of the
    others. It equals no number: a comparison with an exit code of 0 sees a failure.
    """

    def __init__(self, task_name: str, reason: str, traceback: str = "") -> None:
        super().__init__(task_name, reason, traceback)

    def __str__(self) -> str:
        return f"task {self.args[0]} failed: {self.args[1]}"

    def __repr__(self) -> str:
        return f"TaskError({self.args[0]!r}, {self.args[1]!r})"  # its traceback is in the log file


def describe(error: BaseException) -> str:
    """Return an exception as one would read it: its type is said where it is not ours."""
    try:
        text = str(error)
    except Exception:  # a component's own: what it was raised for is still to be told
        text = ""
    if isinstance(error, IPSError) or (type(error) is Exception and text):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return the end of a sentence about an unknown word: the closest one, if any is close."""
    from difflib import get_close_matches  # here: only who mistyped pays for it

    close = get_close_matches(word, known, 1)
    return f"; did you mean {close[0]}?" if close else ""
