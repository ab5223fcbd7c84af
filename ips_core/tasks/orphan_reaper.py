"""Ends the tasks of a component that dies without doing so: a process that outlives it for that.

Tasks have sessions of their own, so that one can be ended without the others; nothing else would
end them when their component is killed. Run as a script, this module is that process, which is why
it imports nothing of ours.
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
_SECONDS = 8.0  # for all of it: ten are promised
_PERIOD = 0.05


class OrphanReaper:
    """Ends what carries a mark as soon as this process has died, or closes the guard.

    Attributes
    ----------
    environment : dict of str to str
        The mark; tasks get it, and what they start inherits it.
    """

    def __init__(self) -> None:
        self.environment = {_VARIABLE: uuid.uuid4().hex}
        # Below a task of another simulation, it is not to be ended with that, but after it
        environ = {name: value for name, value in os.environ.items() if name != _VARIABLE}
        # its input ends when this process does, in whatever way
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
        """End what is left, also what has left its process group; return when that is so."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_SECONDS + _GRACE)


def marked_processes(mark: str) -> list[int]:
    """Return the processes with a variable, ``NAME=VALUE``, in their environment.

    Those of other users, and those that have ended, are not seen.
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
    """End all that carries the mark: TERM once, a grace, then KILL until there is nothing left."""
    begin = time.monotonic()
    asked: set[int] = set()
    while (left := marked_processes(mark)) and time.monotonic() < begin + _SECONDS:
        late = time.monotonic() > begin + _GRACE
        for pid in left:
            if late or pid not in asked:
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        asked.update(left)
        time.sleep(_PERIOD)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    _end_marked(sys.argv[1])
