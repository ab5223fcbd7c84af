"""Finds what a task has started, however far it has gone from its process group, by a mark.

The mark is part of an environment variable, which children inherit: a daemon has neither the
session nor the parent by which it could be found. Standard library only, and nothing of ours: it
arrives on Dask workers by value, see ``tasks.runner.BY_VALUE``.
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
    """Makes marks that no other process has."""

    def __init__(self) -> None:
        self._prefix = uuid.uuid4().hex[:12]
        self._numbers = itertools.count(1)
        # of the task that this process is part of: whoever ends that, ends ours
        self._outer = os.environ.get(_VARIABLE, "")

    def next(self) -> tuple[str, dict[str, str]]:
        """Return a new mark, and the environment variables that carry it."""
        mark = f"{self._prefix}-{next(self._numbers)}"
        return mark, {_VARIABLE: f"{self._outer} {mark}".lstrip()}


def tagged_processes(marks: Collection[str]) -> list[int]:
    """Return the processes of this user on this node that carry one of some marks."""
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
    """Send a signal to all that carry one of some marks, but for some process groups."""
    for pid in tagged_processes(marks):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) not in spared:
                os.kill(pid, number)


def end_tagged(marks: Collection[str], seconds: float) -> None:
    """Kill all that carry one of some marks, and those that are born meanwhile.

    What hangs in the kernel is left after ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while tagged_processes(marks) and time.monotonic() < deadline:
        signal_tagged(marks, signal.SIGKILL)
        time.sleep(_LOOK_SECONDS)
