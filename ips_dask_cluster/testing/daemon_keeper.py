"""End the daemons of a `LocalSlurm`, even if its owner dies.

`testing.LocalSlurm` runs this file as a program. Each daemon has a *keeper* as its parent; a keeper
ends its daemon and exits on SIGTERM, or when the owner is gone, however the owner died. One
*sweeper* waits for the end of the owner and removes the folder. The file imports nothing else of
the package, so that it starts fast.

A keeper is a child subreaper: everything that its daemon starts stays below the keeper, even a
process that forks twice, starts a session or drops its environment, as slurmstepd and jobs do. To
end a node, the keeper kills its own descendants; this needs no control group, no process name
pattern and no privilege.

The owner cancels jobs in an orderly way before that. Messages of clients such as srun are not
handled here.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["KEEPER_VARIABLE", "keep", "kill_session", "remove", "sweep"]

_PR_SET_CHILD_SUBREAPER = 36
#: Seconds between two checks of a keeper that its owner is alive. A check is one system call.
_OWNER_POLL = 0.25
#: Seconds for killed processes to be gone.
_KILL_DEADLINE = 5.0
#: Only in the environment of keepers and sweepers, which it tells from the daemons.
KEEPER_VARIABLE = "IPS_LOCAL_SLURM_KEEPER"


def keep(owner: int, argv: list[str]) -> int:
    """Run a daemon until it ends, the owner is gone or SIGTERM comes; leave no descendant.

    ``owner`` is the process id of the owner, which must be the parent of this process. The daemon
    must stay in the foreground; it inherits standard input and output. Return 0 if the daemon was
    still running, else its exit code (128 + N after signal N).
    """
    _become_subreaper()
    daemon = _spawn(argv)
    code = 0
    while os.getppid() == owner:
        received = signal.sigtimedwait({signal.SIGTERM, signal.SIGCHLD}, _OWNER_POLL)
        if received is not None and received.si_signo == signal.SIGTERM:
            break
        status = _reap().get(daemon)
        if status is not None:
            exit_code = os.waitstatus_to_exitcode(status)
            code = exit_code if exit_code >= 0 else 128 - exit_code
            break
    _kill_descendants()
    return code


def sweep(owner: int, config_file: str) -> int:
    """Wait for the end of the owner, then call `remove`; return 0 if nothing is left, else 1.

    ``owner`` is the process id of the owner, which must be the parent of this process.
    """
    while os.getppid() == owner:
        time.sleep(_OWNER_POLL)
    return 0 if remove(config_file) else 1


def remove(config_file: str) -> bool:
    """Kill the users of a slurm.conf and remove its folder; return whether nothing is left.

    Users are all processes with this ``SLURM_CONF`` in their environment, such as an salloc that
    lost its parent, except this process. Keepers are not killed, because that would release their
    descendants; they end by themselves, and this function waits for them.
    """
    deadline = time.monotonic() + 2 * _KILL_DEADLINE
    while time.monotonic() < deadline:
        users = dict(_users_of(config_file))
        _kill(pid for pid, is_keeper in users.items() if not is_keeper)
        if not users:
            break
        time.sleep(0.02)
    folder = Path(config_file).parent
    shutil.rmtree(folder, ignore_errors=True)
    return not users and not folder.exists()


def kill_session(session: int) -> None:
    """Kill all processes of a session, which may outlive their leader.

    ``session`` is the process id of the leader.
    """
    deadline = time.monotonic() + _KILL_DEADLINE
    while time.monotonic() < deadline:
        members = [pid for pid, _, sid, state in _processes() if sid == session and state != b"Z"]
        if not members:
            return
        _kill(members)
        time.sleep(0.01)


def _become_subreaper() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _spawn(argv: list[str]) -> int:
    """Start the daemon without the signal mask of this program."""
    environment = {k: v for k, v in os.environ.items() if k != KEEPER_VARIABLE}
    return os.posix_spawnp(argv[0], argv, environment, setsigmask=[], setsigdef=[signal.SIGPIPE])


def _kill_descendants() -> None:
    """Kill descendants until none is left, because one may fork between two looks."""
    deadline = time.monotonic() + _KILL_DEADLINE
    while time.monotonic() < deadline:
        _kill(_descendants(os.getpid()))
        try:
            if not _reap():
                signal.sigtimedwait({signal.SIGCHLD}, 0.02)
        except ChildProcessError:
            return


def _reap() -> dict[int, int]:
    """Return the wait status, by process id, of the children that have ended.

    Raises ChildProcessError if there is no child, whether running or ended.
    """
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            if ended:
                return ended
            raise
        if pid == 0:
            return ended
        ended[pid] = status


def _descendants(ancestor: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for pid, parent, _, _ in _processes():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    waiting = [ancestor]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _processes() -> Iterator[tuple[int, int, int, bytes]]:
    """Yield process id, parent, session and state of every process."""
    for pid, stat in _proc_files("stat"):
        # The second field is the program's name in parentheses, which may contain blanks.
        state, parent, _, session, *_ = stat.rpartition(b")")[2].split()
        yield pid, int(parent), int(session), state


def _users_of(config_file: str) -> Iterator[tuple[int, bool]]:
    """Yield the other processes with this ``SLURM_CONF``, and whether each is a keeper."""
    mark = os.fsencode(f"SLURM_CONF={config_file}")
    keeper_mark = os.fsencode(f"{KEEPER_VARIABLE}=1")
    for pid, environment in _proc_files("environ"):
        if pid != os.getpid() and mark in environment:
            variables = environment.split(b"\0")
            if mark in variables:
                yield pid, keeper_mark in variables


def _proc_files(name: str) -> Iterator[tuple[int, bytes]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            # The process may have ended, or belong to another user.
            with contextlib.suppress(OSError):
                yield int(entry), Path("/proc", entry, name).read_bytes()


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _main() -> int:
    # Signals are blocked and fetched by sigtimedwait, so that none is lost. A SIGTERM before this
    # line ends a keeper that has started nothing yet.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    parser = argparse.ArgumentParser()
    parser.add_argument("--owner", type=int, required=True)
    parser.add_argument("--sweep", metavar="CONFIG_FILE")
    parser.add_argument("argv", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.sweep:
        return sweep(arguments.owner, arguments.sweep)
    return keep(arguments.owner, arguments.argv)


if __name__ == "__main__":
    raise SystemExit(_main())
