"""Find all processes of a task by a mark in their environment, and end them.

Children inherit the mark. A daemon cannot be found otherwise, because it has left its session and
its parent. This module imports only the standard library, because Dask workers get it by value (see
``tasks.runner.BY_VALUE``).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
import uuid
from collections.abc import Collection

__all__ = ["ProcessTag", "end_tagged", "tagged_processes", "signal_tagged"]

_VARIABLE = "IPS_TASK_MARK"
_LOOK_SECONDS = 0.02


class ProcessTag:
    """Make marks that are unique on this host."""

    def __init__(self) -> None:
        self._prefix = uuid.uuid4().hex[:12]
        self._numbers = itertools.count(1)
        # Marks of the task that this process belongs to: ending that task must end the tasks of
        # this process, too.
        self._outer = os.environ.get(_VARIABLE, "")

    def next(self) -> tuple[str, dict[str, str]]:
        """Return a new mark, and the environment variable that carries it."""
        mark = f"{self._prefix}-{next(self._numbers)}"
        return mark, {_VARIABLE: f"{self._outer} {mark}".lstrip()}


def tagged_processes(marks: Collection[str]) -> list[int]:
    """Return the ids of this user's processes on this node that carry one of some marks."""
    wanted = {mark.encode() for mark in marks}
    found = []
    for entry in os.listdir("/proc") if wanted else ():
        if entry.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/environ", "rb") as file:
                _, variable, rest = (b"\0" + file.read()).partition(f"\0{_VARIABLE}=".encode())
                if variable and not wanted.isdisjoint(rest.partition(b"\0")[0].split()):
                    found.append(int(entry))
    return found


def signal_tagged(marks: Collection[str], number: int, spared: Collection[int] = ()) -> None:
    """Send a signal to all processes with one of some marks, except in ``spared`` groups."""
    for pid in tagged_processes(marks):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) not in spared:
                os.kill(pid, number)


def end_tagged(marks: Collection[str], seconds: float) -> None:
    """Kill processes with one of some marks until none is left, for at most ``seconds``."""
    deadline = time.monotonic() + seconds
    while tagged_processes(marks) and time.monotonic() < deadline:
        signal_tagged(marks, signal.SIGKILL)
        time.sleep(_LOOK_SECONDS)
