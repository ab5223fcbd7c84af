"""The processes that end a `LocalSlurm` when its owner cannot.

Run as a program by `testing.LocalSlurm`: every daemon has one *keeper* as its parent, which
leaves when told (SIGTERM) and when the owner is gone, however it died. One *sweeper* waits for
the latter and removes the folder. It needs nothing but its own file, so that it starts fast.

A keeper is a child subreaper: whatever its daemon starts stays below it, also what forks twice,
starts a session or drops its environment, as slurmstepd and the jobs do. So "end this node" is
"kill my descendants", without a control group, a process name pattern or a privilege.

Not responsible for: orderly cancelling of jobs (the owner does that first), or for what a client
such as srun prints.
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
#: How often a keeper looks whether its owner still lives, in seconds. A look is one system call.
_OWNER_POLL = 0.25
#: How long killed processes may take to be gone, in seconds.
_KILL_DEADLINE = 5.0
#: In the environment of keepers and sweepers only, to tell them from the daemons.
KEEPER_VARIABLE = "IPS_LOCAL_SLURM_KEEPER"


def keep(owner: int, argv: list[str]) -> int:
    """Run a daemon until it ends, the owner is gone, or SIGTERM asks; leave no descendant.

    Parameters
    ----------
    owner : int
        Process id of the owner, which must be the parent of this process.
    argv : list of str
        The daemon, which has to stay in the foreground; it inherits standard input and output.

    Returns
    -------
    int
        0 when told to leave, else the exit code of the daemon (128 + N after signal N).
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
    """Wait for the end of the owner, then remove what the keepers do not.

    Parameters
    ----------
    owner : int
        Process id of the owner, which must be the parent of this process.
    config_file : str
        As of `remove`.

    Returns
    -------
    int
        0 when nothing is left.
    """
    while os.getppid() == owner:
        time.sleep(_OWNER_POLL)
    return 0 if remove(config_file) else 1


def remove(config_file: str) -> bool:
    """Kill what uses a configuration and remove the folder it lies in.

    That is every process with `config_file` as SLURM_CONF in its environment (clients, such as
    an salloc that lost its parent) except this one. Waits for keepers, which end by themselves:
    to kill one would set its descendants free.

    Parameters
    ----------
    config_file : str
        The slurm.conf.

    Returns
    -------
    bool
        Whether nothing is left.
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
    """Kill all processes of a session, which outlive the process that leads it.

    Parameters
    ----------
    session : int
        Process id of the leader.
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
    """Start the daemon, with the signals unblocked that this program blocks."""
    environment = {k: v for k, v in os.environ.items() if k != KEEPER_VARIABLE}
    return os.posix_spawnp(argv[0], argv, environment, setsigmask=[], setsigdef=[signal.SIGPIPE])


def _kill_descendants() -> None:
    """Kill until nothing is left: a process may have forked since the last look."""
    deadline = time.monotonic() + _KILL_DEADLINE
    while time.monotonic() < deadline:
        _kill(_descendants(os.getpid()))
        try:
            if not _reap():
                signal.sigtimedwait({signal.SIGCHLD}, 0.02)
        except ChildProcessError:
            return


def _reap() -> dict[int, int]:
    """Wait status by process id of the children that have ended.

    Raises
    ------
    ChildProcessError
        When there is no child, ended or not.
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
    """Process id, parent, session and state of every process."""
    for pid, stat in _proc_files("stat"):
        # The second field is the program's name in parentheses and may hold blanks.
        state, parent, _, session, *_ = stat.rpartition(b")")[2].split()
        yield pid, int(parent), int(session), state


def _users_of(config_file: str) -> Iterator[tuple[int, bool]]:
    """Other processes with that SLURM_CONF; the second item says whether it is a keeper."""
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
            # The process may have ended, or belong to someone else.
            with contextlib.suppress(OSError):
                yield int(entry), Path("/proc", entry, name).read_bytes()


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _main() -> int:
    # Blocked and fetched by sigtimedwait, so that none is lost. Before this line, SIGTERM ends a
    # keeper that has started nothing yet.
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
