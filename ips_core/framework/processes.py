"""The operating-system side of components: one process each, started and ended here."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from typing import IO

from ips_core.errors import ComponentError
from ips_core.ipc.messages import PIPE_CLOSED, Channel, ComponentID, Start
from ips_core.ipc.outbox import Outbox
from ips_core.tasks.process import describe_exit

__all__ = ["ComponentHandle"]

_REAP_SECONDS = 2.0
# Modules in the launch directory are found, but hide no others: a user's random.py is not Python's
_BOOT = """
import sys
sys.path.append(sys.path.pop(0))
from ips_core.framework.component_process import main
main()
"""


def _output_of(start: Start) -> IO[bytes] | None:
    """Open where the simulation's components write to (OUT_REDIRECT); None: where we do."""
    file = start.simulation.out_redirect
    if not file:
        return None
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
        return open(file, "ab")
    except OSError as error:
        raise ComponentError(start.name, "OUT_REDIRECT", str(error)) from None


class ComponentHandle:
    """The framework's end of a component.

    Parameters
    ----------
    start : Start
        Who it is; sent to the process at once.
    """

    def __init__(self, start: Start) -> None:
        self.component_id: ComponentID = start.component_id
        self.name = start.name
        self.alive = True
        ours, theirs = socket.socketpair()
        output = _output_of(start)
        try:
            # Not a fork: a script or a notebook without a main guard can run a simulation. Its own
            # session: Ctrl-C in the terminal is for the framework, which ends all in order.
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd=start.launch_directory,
                stdout=output,
                stderr=output,
            )
        finally:
            theirs.close()
            if output is not None:
                output.close()
        self.channel = Channel(ours.detach())
        self._outbox = Outbox(self.channel)
        with contextlib.suppress(OSError):  # died at once: noticed by its end-of-file
            self._outbox.send(start)

    def send(self, message: object) -> None:
        """Send a message; a process that is gone is noticed by its end-of-file instead."""
        with contextlib.suppress(OSError):
            self._outbox.send(message)

    def how_it_ended(self) -> str:
        """Return in words how the process ended; what it left in its session is ended, too."""
        code = self._reap()
        if code is None or code == PIPE_CLOSED:
            return "its process closed the pipe to the framework"
        if (how := describe_exit(code)).startswith("crashed"):
            return f"its process {how}"
        if code < 0:
            return f"its process was killed by signal {-code} ({signal.Signals(-code).name})"
        return f"its process ended with exit code {code}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and what it started in its session."""
        if self.process.returncode is None:  # not reaped: nobody else can have its number
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def close(self) -> None:
        """End what is left of the process and of its session."""
        self.alive = False  # for us: one that not even SIGKILL ends, in a hung file system, say
        self._reap()
        self.channel.close()

    def _reap(self) -> int | None:
        """Return the exit code, None if the process had not ended by itself."""
        deadline = time.monotonic() + _REAP_SECONDS
        while not (ended := self._has_ended()) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.signal(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_REAP_SECONDS)
        return self.process.returncode if ended else None

    def _has_ended(self) -> bool:
        if self.process.returncode is not None:
            return True
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT  # looks, but does not reap
        with contextlib.suppress(ChildProcessError):  # who started us ignores SIGCHLD
            return os.waitid(os.P_PID, self.process.pid, flags) is not None
        return True
