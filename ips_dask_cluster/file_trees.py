"""Copy a directory tree, or write it into a tar file, while other processes write in the tree.

This module needs only the standard library. A file that cannot be read or written costs only that
file: an :class:`Outcome` records it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

__all__ = ["Copier", "Entries", "Outcome", "Stopped", "private_file", "scan", "write_tar"]

_BLOCK = 2**20
_NAMED_FILES = 3  # Failed files that a report names.
_NO_FILE = "neither a file, a directory nor a link"


class Stopped(Exception):
    """Raised in the work when its stop event is set."""


@dataclass
class Outcome:
    """Count what one round over the files did."""

    source: str = ""  #: ``source`` and ``target`` as they are on this node.
    target: str = ""
    files: int = 0  #: Files written.
    unchanged: int = 0  #: Files that the target had already.
    bytes: int = 0  #: Bytes of content written.
    #: Reasons by path below the source; "." stands for the whole source.
    failed: dict[str, str] = field(default_factory=dict)

    def fail(self, path: str, error: OSError | str) -> None:
        """Record why something could not be done."""
        reason = error if isinstance(error, str) else error.strerror or str(error)
        # Reports cannot carry the surrogates of names that are not UTF-8.
        self.failed[path.encode(errors="backslashreplace").decode()] = reason

    def problem(self) -> str:
        """Return the failures in one sentence; empty if there are none."""
        whole = self.failed.get(".")
        parts = {path: reason for path, reason in self.failed.items() if path != "."}
        first = list(parts.items())[:_NAMED_FILES]
        named = "; ".join(f"{path} ({reason})" for path, reason in first)
        more = f"; and {len(parts) - _NAMED_FILES} more" if len(parts) > _NAMED_FILES else ""
        sentences = [whole] if whole else []
        if parts:
            sentences.append(f"{len(parts)} of the entries of {self.source} failed: {named}{more}")
        return "; ".join(sentences)


def _check_stop(stop: threading.Event) -> None:
    if stop.is_set():
        raise Stopped


def scan(top: str, outcome: Outcome) -> Iterator[tuple[str, os.stat_result]]:
    """Yield path and status of every entry below a directory, parents first.

    An entry that vanishes meanwhile is skipped; one that cannot be read goes to ``outcome``. Raises
    OSError if the directory itself cannot be read.
    """
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            names = sorted(os.listdir(os.path.join(top, folder)))
        except OSError as error:
            if not folder:
                raise
            if not isinstance(error, FileNotFoundError):
                outcome.fail(folder, error)
            continue
        for name in names:
            path = os.path.join(folder, name)
            try:
                status = os.lstat(os.path.join(top, path))
            except FileNotFoundError:
                continue
            except OSError as error:
                outcome.fail(path, error)
                continue
            yield path, status
            if stat.S_ISDIR(status.st_mode):
                waiting.append(path)


def private_file(path: str) -> IO[bytes]:
    """Open a new file for writing that no other user can read; replaces one with that path."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return open(path, "wb", opener=lambda name, flags: os.open(name, flags | os.O_EXCL, 0o600))


@dataclass(frozen=True)
class Copier:
    """Copy a tree; each file appears complete under its name, or not at all.

    ``part`` is the path of a temporary file on the target's file system. ``stop`` ends the work
    when it is set.
    """

    source: str
    target: str
    part: str
    stop: threading.Event

    def copy(self, outcome: Outcome) -> None:
        """Copy all entries that the target does not have with the same size and time.

        Raises Stopped if ``stop`` is set, and OSError if the source cannot be read or the target
        cannot be made.
        """
        os.makedirs(self.target, exist_ok=True)
        try:
            for path, status in scan(self.source, outcome):
                _check_stop(self.stop)
                try:
                    self._copy_entry(path, status, outcome)
                except FileNotFoundError as error:
                    if error.filename != os.path.join(self.source, path):
                        outcome.fail(path, error)
                except OSError as error:
                    outcome.fail(path, error)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(self.part)

    def _copy_entry(self, path: str, status: os.stat_result, outcome: Outcome) -> None:
        source, target = os.path.join(self.source, path), os.path.join(self.target, path)
        if stat.S_ISDIR(status.st_mode):
            os.makedirs(target, exist_ok=True)
            with contextlib.suppress(OSError):
                os.chmod(target, status.st_mode & 0o777 | 0o700)
        elif _is_same(source, status, target):
            outcome.unchanged += 1
        elif stat.S_ISLNK(status.st_mode):
            link = os.readlink(source)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.part)
            os.symlink(link, self.part)
            os.replace(self.part, target)
            outcome.files += 1
        elif stat.S_ISREG(status.st_mode):
            self._copy_file(source, target, path, outcome)
        else:
            outcome.fail(path, _NO_FILE)

    def _copy_file(self, source: str, target: str, path: str, outcome: Outcome) -> None:
        with open(source, "rb") as reader, private_file(self.part) as writer:
            before = os.fstat(reader.fileno())
            # No more than this, because a log may grow faster than it is copied.
            left = before.st_size
            while left and (block := reader.read(min(left, _BLOCK))):
                _check_stop(self.stop)
                writer.write(block)
                left -= len(block)
            after = os.fstat(reader.fileno())
        with contextlib.suppress(OSError):  # Some file systems have no modes and times.
            os.chmod(self.part, before.st_mode & 0o777)
            os.utime(self.part, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(self.part, target)
        outcome.files += 1
        outcome.bytes += before.st_size - left
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            outcome.fail(path, "changed while it was copied")


def _is_same(source: str, status: os.stat_result, target: str) -> bool:
    try:
        there = os.lstat(target)
        if stat.S_ISLNK(status.st_mode) and stat.S_ISLNK(there.st_mode):
            return os.readlink(source) == os.readlink(target)
    except FileNotFoundError:
        return False
    return (
        stat.S_ISREG(status.st_mode)
        and stat.S_ISREG(there.st_mode)
        and (status.st_size, status.st_mtime_ns) == (there.st_size, there.st_mtime_ns)
    )


class _Padded:
    """Read exactly the file's first size, which tar has already written to the header."""

    def __init__(self, file: IO[bytes], stop: threading.Event) -> None:
        self.file = file
        self.stop = stop
        self.trouble: OSError | str | None = None

    def read(self, size: int) -> bytes:
        _check_stop(self.stop)
        try:
            block = self.file.read(size)
        except OSError as error:
            self.trouble, block = error, b""
        if len(block) < size:
            self.trouble = self.trouble or "shrank while it was archived: padded with zeros"
            block += bytes(size - len(block))
        return block


#: The entries that :func:`scan` yields.
Entries = list[tuple[str, os.stat_result]]


def write_tar(
    file: IO[bytes], source: str, entries: Entries, compress: bool, outcome: Outcome, stop: Any
) -> None:
    """Write a tree into an open binary file as a tar archive, below the source's own name.

    ``entries`` come from :func:`scan`; ``compress`` is gzip at its fastest level. ``outcome``
    records what was written and what could not be read. Raises Stopped if ``stop`` is set, and
    OSError if the file cannot be written.
    """
    options: dict[str, Any] = {"mode": "w:gz", "compresslevel": 1} if compress else {"mode": "w"}
    options["copybufsize"] = _BLOCK
    top = os.path.basename(source)
    with tarfile.open(fileobj=file, **options) as tar:
        for path, status in entries:
            _check_stop(stop)
            full, name = os.path.join(source, path), os.path.join(top, path)
            if stat.S_ISREG(status.st_mode):
                try:
                    reader = open(full, "rb")  # noqa: SIM115
                except FileNotFoundError:
                    continue
                except OSError as error:
                    outcome.fail(path, error)
                    continue
                with reader:
                    padded: Any = _Padded(reader, stop)
                    tar.addfile(tar.gettarinfo(arcname=name, fileobj=reader), padded)
                outcome.files += 1
                outcome.bytes += status.st_size
                if padded.trouble is not None:
                    outcome.fail(path, padded.trouble)
            elif stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
                with contextlib.suppress(FileNotFoundError):
                    tar.addfile(tar.gettarinfo(full, arcname=name))
            else:
                outcome.fail(path, _NO_FILE)
