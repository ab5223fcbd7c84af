"""Copies of files, as staging makes them: names with wildcards in, whole files out.

A copy is made beside its target and then put in its place, so that who reads the target sees the
old file or the new one, and a copy that fails leaves the old one.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable
from typing import Any

__all__ = ["copy_file", "copy_files", "file_names", "matching_files", "unused_name"]


def file_names(value: Any) -> list[str]:
    """Return what lists files as a list: a text is split at blanks, anything else is a list."""
    return (value or "").split() if isinstance(value, str | None) else [str(name) for name in value]


def matching_files(directory: str, names: Iterable[str], skip_missing: bool = False) -> list[str]:
    """Return the files of a directory that are meant by some names, each once.

    Parameters
    ----------
    directory : str
        Where names are relative to.
    names : iterable of str
        Wildcards are expanded in those that are no file as they stand.
    skip_missing : bool
        True: leave out what matches nothing.

    Raises
    ------
    FileNotFoundError
        A name matches nothing.
    """
    found: dict[str, None] = {}
    for name in names:
        path = os.path.join(directory, name)
        if os.path.isfile(path):
            found[path] = None
            continue
        matches = sorted(glob.glob(name, root_dir=directory))
        if not matches and not skip_missing:
            raise FileNotFoundError(f"No such file : {path}")
        found |= dict.fromkeys(os.path.join(directory, match) for match in matches)
    return list(found)


def copy_file(source: str, target: str) -> None:
    """Copy one file; its directory is made, what is there is replaced in one step.

    Nothing happens if both are the same file. A link is kept, and what it leads to is replaced.

    Raises
    ------
    OSError
        With both paths and the reason; what was there is as before.
    """
    target = os.path.realpath(target)
    try:
        if os.path.exists(target) and os.path.samefile(source, target):
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        _copy_beside(source, target)
    except OSError as error:
        text = f"cannot copy {source} to {target}: {error.strerror or error}"
        # of the same subclass, which goes by the number
        raise (OSError(error.errno, text) if error.errno else OSError(text)) from error


def _copy_beside(source: str, target: str) -> None:
    descriptor, beside = tempfile.mkstemp(prefix=".ips-", dir=os.path.dirname(target))
    os.close(descriptor)
    try:
        shutil.copy(source, beside)
        os.replace(beside, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def copy_files(
    source_dir: str,
    names: Iterable[str],
    target_dir: str,
    prefix: str = "",
) -> None:
    """Copy files from one directory to another, without the folders that are part of a name.

    Parameters
    ----------
    source_dir, target_dir : str
        The same one twice: nothing is to be done.
    names : iterable of str
        Wildcards are expanded.
    prefix : str
        What the names of the copies begin with.

    Raises
    ------
    FileNotFoundError
        A name matches nothing; nothing was copied.
    OSError
        A file cannot be copied; those before it were.
    """
    if os.path.realpath(source_dir) == os.path.realpath(target_dir) and not prefix:
        return
    for source in matching_files(source_dir, names):
        copy_file(source, os.path.join(target_dir, prefix + os.path.basename(source)))


def unused_name(path: str) -> str:
    """Return a path, with ``.0``, ``.1`` and so on behind it if there is such a file already."""
    candidates = itertools.chain([path], (f"{path}.{number}" for number in itertools.count()))
    return next(name for name in candidates if not os.path.lexists(name))
