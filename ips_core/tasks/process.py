"""Start one child process in a new session, serve its pipes, and end it.

This module imports only the standard library and ``tasks.output``, because Dask workers get it by
value (see ``tasks.runner.BY_VALUE``). It knows nothing of tasks and records.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from ips_core.tasks.output import Lines

__all__ = ["Child", "Pipes", "describe_exit", "open_process_descriptor"]

_CHUNK = 65536
_MOST_LEFT = 16  # Chunks read after the process has ended; a grandchild may write on without end.
_PATIENCE = 1.0  # Seconds until an unfinished line is passed on.
_LONGEST_WAIT = 1e6  # Seconds; poll() takes at most 24 days.
# Seconds between two looks at a process without a descriptor.
_SHORTEST_LOOK, _LONGEST_LOOK = 0.001, 0.05
_SYS_PIDFD_OPEN = 434  # On all architectures but Alpha, see pidfd_open(2).
_DEATH_SECONDS = 10.0  # Seconds after SIGKILL; a process may hang in the kernel.
#: Signals that end a process after an error in compiled code (signal(7)).
_CRASHES = (signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV)


def describe_exit(code: int) -> str:
    """Return how a process ended, in words; a negative exit code is a signal."""
    if -code in _CRASHES:
        return f"crashed ({signal.Signals(-code).name}) in compiled code"
    return f"ended by signal {-code}" if code < 0 else f"exit code {code}"


def open_process_descriptor(pid: int) -> int | None:
    """Return a descriptor that is readable once a child has ended, or None if the system has none.

    Conda's Python lacks ``os.pidfd_open`` on kernels that have it:
    https://github.com/python-trio/trio/issues/2855
    """
    with contextlib.suppress(OSError):
        if hasattr(os, "pidfd_open"):
            return os.pidfd_open(pid)
        with contextlib.suppress(AttributeError):  # The C library has no syscall().
            found = ctypes.CDLL(None).syscall(_SYS_PIDFD_OPEN, pid, 0)
            return found if found >= 0 else None
    return None


class Pipes:
    """Hold this process's ends of pipes to a child, and the handler of each; `close` closes all."""

    def __init__(self) -> None:
        # A handler returns False at the end of its data.
        self._ready: dict[int, Callable[[int], bool]] = {}
        self._events: dict[int, int] = {}
        self._theirs: list[int] = []

    def __bool__(self) -> bool:
        """Return whether this process still has an open end."""
        return bool(self._ready)

    def reader(self, take: Callable[[bytes], object]) -> int:
        """Return a descriptor for the child to write to; ``take`` gets what the child writes."""

        def read(descriptor: int) -> bool:
            data = os.read(descriptor, _CHUNK)
            if data:
                take(data)
            return bool(data)

        ours, theirs = self._pipe()
        self._add(ours, select.POLLIN, read)
        return theirs

    def writer(self, data: bytes) -> int:
        """Return a descriptor from which the child reads ``data``."""
        rest = memoryview(data)

        def write(descriptor: int) -> bool:
            nonlocal rest
            try:
                rest = rest[os.write(descriptor, rest[:_CHUNK]) :]
            except BlockingIOError:
                return True
            except OSError:  # The child has closed its end.
                return False
            return bool(rest)

        theirs, ours = self._pipe(theirs_first=True)
        os.set_blocking(ours, False)
        self._add(ours, select.POLLOUT, write)
        return theirs

    def _pipe(self, theirs_first: bool = False) -> tuple[int, int]:
        ends = os.pipe()
        self._theirs.append(ends[0] if theirs_first else ends[1])
        return ends

    def _add(self, descriptor: int, events: int, ready: Callable[[int], bool]) -> None:
        self._ready[descriptor], self._events[descriptor] = ready, events

    def started(self) -> None:
        """Close the child's ends, which the child has inherited."""
        while self._theirs:
            os.close(self._theirs.pop())

    def watch(self, poll: select.poll) -> None:
        """Register the open ends with a poll object."""
        for descriptor, events in self._events.items():
            poll.register(descriptor, events)

    def serve(self, events: Sequence[tuple[int, int]], poll: select.poll) -> bool:
        """Handle the events of a poll; return whether any was for a pipe."""
        served = False
        for descriptor, _ in events:
            if descriptor in self._ready:
                served = True
                if not self._ready[descriptor](descriptor):
                    poll.unregister(descriptor)
                    del self._ready[descriptor], self._events[descriptor]
                    os.close(descriptor)
        return served

    def close(self) -> None:
        """Close all ends that are open in this process."""
        self.started()
        while self._ready:
            os.close(self._ready.popitem()[0])
        self._events.clear()


class Child:
    """Start a process that leads its own session and process group.

    ``env`` is the whole environment, ``streams`` are the descriptors of stdin, stdout and stderr,
    and ``others`` are further descriptors to inherit. ``pipes`` serves those descriptors that are
    pipes, and the caller closes it; ``lines`` takes the output that comes through a pipe. Raises
    OSError or ValueError as :class:`subprocess.Popen` does.
    """

    def __init__(
        self,
        argv: Sequence[str],
        cwd: str | None,
        env: Mapping[bytes, bytes],
        streams: Sequence[int],
        others: Sequence[int],
        pipes: Pipes,
        lines: Lines,
    ) -> None:
        stdin, stdout, stderr = streams
        self._lock = threading.Lock()  # Held while the process is signalled or reaped.
        self._pipes = pipes
        self._lines = lines
        self._look = _SHORTEST_LOOK
        self._process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=others,
            # A separate process group, so that all descendants can be ended. preexec_fn would turn
            # off vfork.
            start_new_session=True,
        )
        self._descriptor = open_process_descriptor(self._process.pid)
        self._poll = self._poll_of_end()
        pipes.started()
        pipes.watch(self._poll)

    def _poll_of_end(self) -> select.poll:
        poll = select.poll()
        if self._descriptor is not None:
            poll.register(self._descriptor, select.POLLIN)
        return poll

    @property
    def pid(self) -> int:
        """Process id, which is also the id of the process group."""
        return self._process.pid

    def follow(self, seconds: float | None = None) -> bool:
        """Serve the pipes until the process ends or time is over; return whether it has ended."""
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        while True:
            events = self._poll.poll(self._milliseconds(deadline))
            ended = self._has_ended(events)
            self._pipes.serve(events, self._poll)
            now = time.monotonic()
            if self._lines.since is not None and now - self._lines.since >= _PATIENCE:
                self._lines.flush()
            if ended:
                self._serve_what_is_left()
                return True
            if now >= deadline:
                return False

    def _milliseconds(self, deadline: float) -> int | None:
        wait = deadline - time.monotonic()
        if self._lines.since is not None:
            wait = min(wait, self._lines.since + _PATIENCE - time.monotonic())
        if self._descriptor is None:
            wait = min(wait, self._look)
            self._look = min(2 * self._look, _LONGEST_LOOK)
        if wait == math.inf:
            return None
        return math.ceil(1000 * min(max(wait, 0.0), _LONGEST_WAIT))

    def _has_ended(self, events: Sequence[tuple[int, int]]) -> bool:
        if self._descriptor is not None:
            return any(descriptor == self._descriptor for descriptor, _ in events)
        try:  # WNOWAIT looks without reaping.
            flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self._process.pid, flags) is not None
        except ChildProcessError:  # Other code in this process has reaped the child.
            return True

    def _serve_what_is_left(self) -> None:
        """Read the rest of the output; descendants may keep the pipes open."""
        for _ in range(_MOST_LEFT):
            if not (self._pipes and self._pipes.serve(self._poll.poll(0), self._poll)):
                break

    def signal(self, number: int) -> None:
        """Send a signal to the process group, unless the process has been reaped."""
        with self._lock, contextlib.suppress(ProcessLookupError, PermissionError):
            # The number of a reaped process may belong to another one.
            if self._process.returncode is None:
                os.killpg(self._process.pid, number)

    def close(self, kill: bool) -> int:
        """Reap the process and return its exit code, negative for a signal.

        With ``kill``, first kill its process group, even if the process still runs.
        """
        try:
            if kill:
                self.signal(signal.SIGKILL)
                try:
                    self.follow(_DEATH_SECONDS)
                except BaseException:  # The output cannot be taken any more; only wait for the end.
                    self._poll = self._poll_of_end()
                    self.follow(_DEATH_SECONDS)
            with self._lock:
                # A later Popen reaps a process that hangs in the kernel.
                code = self._process.poll()
        finally:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
        return -signal.SIGKILL if code is None else code
