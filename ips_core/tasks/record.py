"""What became of a task: the one value that results, iterators, the log and a resumed run share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ips_core.errors import TaskError

__all__ = ["TaskRecord"]


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What became of a task.

    Parameters
    ----------
    name : str
        The task.
    status : str
        ``finished``; ``failed``: it raised, or its exit code is not 0; ``timed_out``;
        ``cancelled``: it was ended, or was about to start, when its pool was; ``lost``: its worker
        was lost, and nobody saw its end; ``result_lost``: it has ended, but its result was lost
        with its worker; ``not_started``: its pool stopped before its turn came.
    exit_status : int or None
        Of a program: its exit code, negative for the signal that ended it, -1 after a time-out,
        126 or 127 if it could not be started. Of a callable: 0, or 1 if it raised. None if nobody
        saw its end.
    value : object
        What a callable returned.
    error, traceback : str
        Why it did not finish, and where it raised; empty if it did.
    output : str
        The last 4 kB of what it wrote, if it did not finish.
    host, worker : str
        The node and the worker it ran on; empty if it did not start.
    attempts : int
        How often it was started.
    start_time : float
        Of its last attempt, in seconds since the epoch; 0 if it did not start.
    elapsed_time : float
        Seconds that its last attempt took.
    slots : int
        Cores that it held meanwhile.
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
        """True if it did what it was asked for: it returned, or its exit code is 0."""
        return self.status == "finished"

    @property
    def result(self) -> Any:
        """What ``get_finished_tasks`` says: an exit code, a return value, or a ``TaskError``."""
        if self.is_program and self.exit_status is not None:
            return self.exit_status
        if self.ok:
            return self.value
        return TaskError(self.name, self.error or self.status, self.traceback)

    @classmethod
    def of(cls, found: Mapping[str, Any], **more: Any) -> TaskRecord:
        """Return the record that ``tasks.runner.Runner.run`` has made, with further fields."""
        fields = {name: found[name] for name in cls.__slots__ if name in found}
        return cls(**(fields | more))
