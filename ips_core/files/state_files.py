"""The state files that components share: one writer at a time, and merges of partial states.

IPS-framework copies all state files in one process, one service after the other; components here
copy in theirs, so that they need a lock for the same guarantee: who stages several files gets
them as one update left them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence

from ips_core.errors import IPSError
from ips_core.files.copies import copy_file
from ips_core.tasks.guard import TaskGuard

__all__ = ["MERGE_SECONDS", "merge_state", "state_lock"]

#: How long a merge may take; it is a matter of seconds, and all components wait for it.
MERGE_SECONDS = 3600.0
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_REAP_SECONDS = 5.0


@contextlib.contextmanager
def state_lock(directory: str, exclusive: bool) -> Iterator[None]:
    """Keep other components from changing, or also from reading, a directory's state files.

    The wait ends, since the lock goes with its holder, who only copies or merges. The lock is a
    file of this machine, where all components are: shared file systems may know no locks.

    Parameters
    ----------
    directory : str
        STATE_WORK_DIR.
    exclusive : bool
        True: to write; False: to read.
    """
    digest = hashlib.sha256(os.fsencode(os.path.realpath(directory))).hexdigest()[:16]
    path = os.path.join(tempfile.gettempdir(), f"ips-state-{os.getuid()}-{digest}.lock")
    descriptor = _locked(path, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
    try:
        yield
    finally:
        _give_back(descriptor, path)


def _locked(path: str, operation: int) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            with _where_there_are_locks():
                fcntl.flock(descriptor, operation)
            if _is_still(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder has removed it meanwhile: a lock on nothing


def _give_back(descriptor: int, path: str) -> None:
    """Unlock, and remove the file unless others use it."""
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(descriptor, path):
                os.unlink(path)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _where_there_are_locks() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def _is_still(descriptor: int, path: str) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def merge_state(
    binary: str,
    state_file: str,
    partial: str,
    directory: str,
    logfile: str | None = None,
    seconds: float = MERGE_SECONDS,
) -> None:
    """Merge a partial state into the state that all share, and get a copy of what has become of it.

    The program runs as ``binary -input STATE -updates PARTIAL`` on a copy of the state, which takes
    the place of the state if it went well.

    Parameters
    ----------
    binary : str
        Path of the program.
    state_file, partial : str
        The state, and what is to be merged into it.
    directory : str
        Where the program runs, and where the merged state is copied to.
    logfile : str, optional
        What the program writes; relative to `directory`. Default: where this process writes.
    seconds : float
        After which the program is ended.

    Raises
    ------
    IPSError
        The program failed or took too long; the state is as before.
    OSError
        A file cannot be read or written, or the program not be started.
    """
    shared, name = os.path.split(state_file)
    with (
        state_lock(shared, exclusive=True),
        # Of the same name: a program may go by the extension
        tempfile.TemporaryDirectory(prefix=".ips-merge-", dir=shared) as folder,
    ):
        merged = os.path.join(folder, name)
        copy_file(state_file, merged)
        argv = [binary, "-input", merged, "-updates", partial]
        outcome = _outcome(argv, directory, logfile, seconds)
        if outcome:
            where = f"; its output is in {os.path.join(directory, logfile)}" if logfile else ""
            raise IPSError(
                f"Error merging update {partial} into current plasma state file {name}: "
                f"{binary} {outcome}{where}"
            )
        copy_file(merged, state_file)
        copy_file(merged, os.path.join(directory, name))


def _outcome(argv: Sequence[str], directory: str, logfile: str | None, seconds: float) -> str:
    """Run a program and return what went wrong; it leaves nothing behind, whatever happens."""
    with contextlib.ExitStack() as stack:
        output = None
        if logfile is not None:
            output = stack.enter_context(open(os.path.join(directory, logfile), "wb"))
        with contextlib.closing(TaskGuard()) as guard:
            process = subprocess.Popen(
                argv,
                cwd=directory,
                env=os.environ | guard.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,
            )
            # after the guard has ended it
            stack.callback(_reap, process)
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                return f"was ended after {seconds:g} s"
        return f"exited with code {code}" if code else ""


def _reap(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_REAP_SECONDS)
