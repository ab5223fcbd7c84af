"""Start and end the processes of components."""

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
# Search the launch directory last: a user's random.py must not hide Python's.
_BOOT = """
import sys
sys.path.append(sys.path.pop(0))
from ips_core.framework.component_process import main
main()
"""


def _output_of(start: Start) -> IO[bytes] | None:
    """Open the OUT_REDIRECT file of a simulation; return None to share the framework's output."""
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

    The constructor starts the process and sends it `start`.
    """

    def __init__(self, start: Start) -> None:
        self.component_id: ComponentID = start.component_id
        self.name = start.name
        self.alive = True
        ours, theirs = socket.socketpair()
        output = _output_of(start)
        try:
            # No fork, so that a script or notebook without a main guard can run a simulation. A
            # new session, so that Ctrl-C reaches only the framework, which ends all in order.
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
        with contextlib.suppress(OSError):  # it died at once: its end of file reports it
            self._outbox.send(start)

    def send(self, message: object) -> None:
        """Send a message; if the process is gone, the end of file on its pipe reports it."""
        with contextlib.suppress(OSError):
            self._outbox.send(message)

    def how_it_ended(self) -> str:
        """Return in words how the process ended, and kill the rest of its process group."""
        code = self._reap()
        if code is None or code == PIPE_CLOSED:
            return "its process closed the pipe to the framework"
        if (how := describe_exit(code)).startswith("crashed"):
            return f"its process {how}"
        if code < 0:
            return f"its process was killed by signal {-code} ({signal.Signals(-code).name})"
        return f"its process ended with exit code {code}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and all others in its process group."""
        if self.process.returncode is None:  # not reaped, so its pid is not reused
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def close(self) -> None:
        """Kill what is left of the process group, and close the pipe."""
        self.alive = False  # even if a hung file system keeps SIGKILL from ending it
        self._reap()
        self.channel.close()

    def _reap(self) -> int | None:
        """Kill the process group and return the exit code; None if the process had not ended."""
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
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT  # look without reaping
        with contextlib.suppress(ChildProcessError):  # with SIGCHLD ignored, the kernel reaps
            return os.waitid(os.P_PID, self.process.pid, flags) is not None
        return True
