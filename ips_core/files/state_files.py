"""Lock the state files that components share, and merge partial states into them.

IPS-framework copies all state files in one process, one service call after the other. Here each
component copies in its own process; the lock gives the same guarantee, that a component which
stages several files gets them all as one update left them.
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
from ips_core.tasks.orphan_reaper import OrphanReaper

__all__ = ["MERGE_SECONDS", "merge_state", "state_lock"]

#: Time limit of a merge, which normally takes seconds; all components wait for it.
MERGE_SECONDS = 3600.0
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_REAP_SECONDS = 5.0


@contextlib.contextmanager
def state_lock(directory: str, exclusive: bool) -> Iterator[None]:
    """Lock the state files of a directory (STATE_WORK_DIR) while the context lasts.

    An exclusive lock keeps out all other components, a shared one only those that write. The wait
    for the lock ends: its holder only copies or merges, and the lock ends with the holder's
    process. The lock is a file in this machine's temporary directory, because all components run
    here and shared file systems may not support locks.
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
        # The former holder has removed the file, so that this lock protects nothing: try again.
        os.close(descriptor)


def _give_back(descriptor: int, path: str) -> None:
    """Release a lock, and remove its file unless another process holds it."""
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
    """Merge a partial state into the shared state, and copy the result to `directory`.

    The program runs in `directory` as ``binary -input STATE -updates PARTIAL`` on a copy of the
    state, which replaces the state if the program succeeds. Its output goes to `logfile`, relative
    to `directory`, or to this process's output. Raise IPSError if the program fails or takes longer
    than `seconds`, in which case the state is unchanged, and OSError if the program cannot start or
    a file cannot be read or written.
    """
    shared, name = os.path.split(state_file)
    with (
        state_lock(shared, exclusive=True),
        # The copy keeps the file's name: a program may depend on the extension.
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
    """Run a program and return what went wrong, or ""; none of its processes remains."""
    with contextlib.ExitStack() as stack:
        output = None
        if logfile is not None:
            output = stack.enter_context(open(os.path.join(directory, logfile), "wb"))
        with contextlib.closing(OrphanReaper()) as guard:
            process = subprocess.Popen(
                argv,
                cwd=directory,
                env=os.environ | guard.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,
            )
            # The stack calls this after the guard has killed the process.
            stack.callback(_reap, process)
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                return f"was ended after {seconds:g} s"
        return f"exited with code {code}" if code else ""


def _reap(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_REAP_SECONDS)
