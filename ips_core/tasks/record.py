"""Hold the outcome of a task, for results, iterators, the log and a resumed run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ips_core.errors import TaskError

__all__ = ["TaskRecord"]


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """The outcome of a task.

    Parameters
    ----------
    name : str
        Name of the task.
    status : str
        ``finished``; ``failed``: the callable raised or the exit code is not 0; ``timed_out``;
        ``cancelled``: the pool was cancelled while the task ran or was about to start; ``lost``:
        the worker was lost before the end of the task was recorded; ``result_lost``: the task has
        ended, but its result was lost with the worker; ``not_started``: the pool was stopped before
        the task started.
    exit_status : int or None
        Exit code of a program, negative for the signal that ended it, -1 after a time-out, 126 or
        127 if it could not be started. For a callable: 0, or 1 if it raised. None if the end of the
        task is unknown.
    value : object
        Return value of a callable.
    error, traceback : str
        Reason and traceback of a task that did not finish; empty otherwise.
    output : str
        The last 4 kB of the output of a task that did not finish.
    host, worker : str
        Node and worker on which the task ran; empty if it did not start.
    attempts : int
        Number of times that the task was started.
    start_time : float
        Start of the last attempt, in seconds since the epoch; 0 if the task did not start.
    elapsed_time : float
        Duration of the last attempt in seconds.
    slots : int
        Number of cores that the task held.
    is_program : bool
        True for a program, False for a callable.
    """

    name: str
    status: str
    exit_status: int | None = None
    value: Any = None
    error: str = ""
    traceback: str = ""
    output: str = ""
    host: str = ""
    worker: str = ""
    attempts: int = 0
    start_time: float = 0.0
    elapsed_time: float = 0.0
    slots: int = 1
    is_program: bool = False

    @property
    def ok(self) -> bool:
        """True if the callable returned or the exit code is 0."""
        return self.status == "finished"

    @property
    def result(self) -> Any:
        """The entry of ``get_finished_tasks``: an exit code, a return value or a ``TaskError``."""
        if self.is_program and self.exit_status is not None:
            return self.exit_status
        if self.ok:
            return self.value
        return TaskError(self.name, self.error or self.status, self.traceback)

    @classmethod
    def of(cls, found: Mapping[str, Any], **more: Any) -> TaskRecord:
        """Return the record of a result of ``tasks.runner.Runner.run``, with further fields."""
        fields = {name: found[name] for name in cls.__slots__ if name in found}
        return cls(**(fields | more))
