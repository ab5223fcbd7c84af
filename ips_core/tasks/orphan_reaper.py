"""End the tasks of a component that has died, in a process that outlives the component.

Tasks have separate sessions, so that each can be ended alone; therefore nothing else ends them when
their component is killed. This module is also the program of that process, so it imports only the
standard library.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid

__all__ = ["OrphanReaper", "marked_processes"]

_VARIABLE = "IPS_TASK_GUARD"
_GRACE = 2.0
_SECONDS = 8.0  # Seconds for all of it; the promise is ten.
_PERIOD = 0.05


class OrphanReaper:
    """End all processes with a mark as soon as this process dies or calls `close`.

    ``environment`` holds the mark; tasks get it, and their children inherit it.
    """

    def __init__(self) -> None:
        self.environment = {_VARIABLE: uuid.uuid4().hex}
        # Without an inherited mark: if this component runs within a task of another simulation, the
        # other simulation's reaper must not kill this one before it has ended its own tasks.
        environ = {name: value for name, value in os.environ.items() if name != _VARIABLE}
        # The pipe closes when this process ends, however it ends.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, f"{_VARIABLE}={self.environment[_VARIABLE]}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environ,
            cwd="/",
            start_new_session=True,
        )

    def close(self) -> None:
        """End all remaining processes with the mark, and wait until they are gone."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_SECONDS + _GRACE)


def marked_processes(mark: str) -> list[int]:
    """Return the ids of processes with a variable, ``NAME=VALUE``, in their environment.

    Processes of other users, and those that have ended, are not visible.
    """
    wanted = mark.encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    found.append(int(entry))
    return found


def _end_marked(mark: str) -> None:
    """Send SIGTERM once to each marked process; after 2 s, send SIGKILL until none is left."""
    begin = time.monotonic()
    asked: set[int] = set()
    while (left := marked_processes(mark)) and time.monotonic() < begin + _SECONDS:
        late = time.monotonic() > begin + _GRACE
        for pid in left:
            if late or pid not in asked:
                with contextlib.suppress(OSError):  # The process has ended meanwhile.
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        asked.update(left)
        time.sleep(_PERIOD)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    _end_marked(sys.argv[1])
