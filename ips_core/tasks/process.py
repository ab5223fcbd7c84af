"""One child process in a session of its own: started, fed, listened to and ended.

Standard library only, and nothing of ours but ``tasks.output``: it arrives on workers by value,
see ``tasks.runner.BY_VALUE``. What a task is, and what its record says, is not known here.
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
_MOST_LEFT = 16  # chunks read after the end: what a grandchild goes on writing is not waited for
_PATIENCE = 1.0  # of a line without an end
_LONGEST_WAIT = 1e6  # poll takes 24 days at most
_SHORTEST_LOOK, _LONGEST_LOOK = 0.001, 0.05  # where only looking tells whether a process has ended
_SYS_PIDFD_OPEN = 434  # on every architecture but Alpha, see pidfd_open(2)
_DEATH_SECONDS = 10.0  # after KILL; a process may hang in the kernel for good
#: By these a process ends when compiled code in it goes wrong (signal(7)).
_CRASHES = (signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV)


def describe_exit(code: int) -> str:
    """Return in words how a process ended, from its exit code, negative for a signal."""
    if -code in _CRASHES:
        return f"crashed ({signal.Signals(-code).name}) in compiled code"
    return f"ended by signal {-code}" if code < 0 else f"exit code {code}"


def open_process_descriptor(pid: int) -> int | None:
    """Return a descriptor that is readable once a child has ended; None where there is no such.

    Conda's Python lacks ``os.pidfd_open`` on kernels that have it:
    https://github.com/python-trio/trio/issues/2855
    """
    with contextlib.suppress(OSError):
        if hasattr(os, "pidfd_open"):
            return os.pidfd_open(pid)
        with contextlib.suppress(AttributeError):  # a C library without syscall
            found = ctypes.CDLL(None).syscall(_SYS_PIDFD_OPEN, pid, 0)
            return found if found >= 0 else None
    return None


class Pipes:
    """The ends of pipes on this side, and what is to be done with them.

    They are closed with :meth:`close`, also those that were handed out for the child.
    """

    def __init__(self) -> None:
        self._ready: dict[int, Callable[[int], bool]] = {}  # False: nothing more to come
        self._events: dict[int, int] = {}
        self._theirs: list[int] = []

    def __bool__(self) -> bool:
        """Tell whether any of them is open on this side."""
        return bool(self._ready)

    def reader(self, take: Callable[[bytes], object]) -> int:
        """Return a descriptor for the child to write to; what it writes is given to ``take``."""

        def read(descriptor: int) -> bool:
            data = os.read(descriptor, _CHUNK)
            if data:
                take(data)
            return bool(data)

        ours, theirs = self._pipe()
        self._add(ours, select.POLLIN, read)
        return theirs

    def writer(self, data: bytes) -> int:
        """Return a descriptor for the child to read some data from."""
        rest = memoryview(data)

        def write(descriptor: int) -> bool:
            nonlocal rest
            try:
                rest = rest[os.write(descriptor, rest[:_CHUNK]) :]
            except BlockingIOError:
                return True
            except OSError:  # it does not want it
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
        """Close the child's ends, which it has by now."""
        while self._theirs:
            os.close(self._theirs.pop())

    def watch(self, poll: select.poll) -> None:
        """Let a poll object look at them."""
        for descriptor, events in self._events.items():
            poll.register(descriptor, events)

    def serve(self, events: Sequence[tuple[int, int]], poll: select.poll) -> bool:
        """Do what a poll says can be done; return whether there was anything."""
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
        """Close whatever is open."""
        self.started()
        while self._ready:
            os.close(self._ready.popitem()[0])
        self._events.clear()


class Child:
    """A process that has been started; it is the leader of its session and of its process group.

    Parameters
    ----------
    argv : sequence of str
        What to run.
    cwd : str or None
        Where; None: here.
    env : mapping of bytes to bytes
        Its whole environment.
    streams : sequence of int
        Descriptors of its stdin, stdout and stderr.
    others : sequence of int
        Descriptors that it has besides.
    pipes : Pipes
        Those of the descriptors that are pipes to here. They are the caller's to close.
    lines : Lines
        Its output, as far as it comes through a pipe.

    Raises
    ------
    OSError, ValueError
        It could not be started; from :class:`subprocess.Popen`.
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
        self._lock = threading.Lock()  # while it is held nobody else reaps it
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
            # its own group, so that all it starts can be ended; no preexec_fn: keeps vfork
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
        """Its number, and that of its process group."""
        return self._process.pid

    def follow(self, seconds: float | None = None) -> bool:
        """Serve its pipes until it has ended, or some time is over; return whether it has ended."""
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
        try:  # looks, but does not reap
            flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self._process.pid, flags) is not None
        except ChildProcessError:  # somebody has
            return True

    def _serve_what_is_left(self) -> None:
        """Read what it wrote before it ended; its children may keep the pipes open for long."""
        for _ in range(_MOST_LEFT):
            if not (self._pipes and self._pipes.serve(self._poll.poll(0), self._poll)):
                break

    def signal(self, number: int) -> None:
        """Send a signal to the whole process group; nothing happens once it was reaped."""
        with self._lock, contextlib.suppress(ProcessLookupError, PermissionError):
            if self._process.returncode is None:  # else its number may be another's
                os.killpg(self._process.pid, number)

    def close(self, kill: bool) -> int:
        """Reap the process, and return its exit code, negative for a signal.

        Parameters
        ----------
        kill : bool
            End what is left of its process group before; so it is done with a process, too, that
            has not ended.
        """
        try:
            if kill:
                self.signal(signal.SIGKILL)
                try:
                    self.follow(_DEATH_SECONDS)
                except BaseException:  # nobody can take its output; its end is waited for
                    self._poll = self._poll_of_end()
                    self.follow(_DEATH_SECONDS)
            with self._lock:
                # what hangs in the kernel is reaped by a later Popen
                code = self._process.poll()
        finally:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
        return -signal.SIGKILL if code is None else code
