"""The operating-system side of components: one process each, started and ended here."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys

from ips_core.messages import Channel, ComponentID, Start

__all__ = ["ComponentHandle"]

_REAP_SECONDS = 2.0


class ComponentHandle:
    """The framework's end of a component.

    Parameters
    ----------
    start : Start
        Who it is; sent to the process at once.
    name : str
        How messages call it, ``CLASS_SUBCLASS_NAME_number``.
    """

    def __init__(self, start: Start, name: str) -> None:
        self.component_id: ComponentID = start.component_id
        self.name = name
        self.alive = True
        ours, theirs = socket.socketpair()
        try:
            # Not a fork: a script or a notebook without a main guard can run a simulation. Its own
            # session: Ctrl-C in the terminal is for the framework, which ends all in order.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ips_core.component_process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd=start.launch_directory,
            )
        finally:
            theirs.close()
        self.channel = Channel(ours.detach())
        with contextlib.suppress(OSError):  # died at once: noticed by its end-of-file
            self.channel.send(start)

    def send(self, message: object) -> None:
        """Send a message; a process that is gone is noticed by its end-of-file instead."""
        with contextlib.suppress(OSError):
            self.channel.send(message)

    def how_it_ended(self) -> str:
        """Return in words how the process ended."""
        try:
            code = self.process.wait(_REAP_SECONDS)
        except subprocess.TimeoutExpired:
            return "its process closed the pipe to the framework"
        if code < 0:
            return f"its process was killed by signal {-code} ({signal.Signals(-code).name})"
        return f"its process ended with exit code {code}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and what it started in its session."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def close(self) -> None:
        """Take note of the process's end; it has been seen out or killed before."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_REAP_SECONDS)
        self.channel.close()
