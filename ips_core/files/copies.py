"""Copy files: expand wildcards, and replace each target in one step.

A copy is written beside its target and then renamed, so that a reader sees the old file or the new
one, and a copy that fails leaves the old one.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable

__all__ = ["copy_file", "copy_files", "matching_files", "unused_name"]


def matching_files(directory: str, names: Iterable[str], skip_missing: bool = False) -> list[str]:
    """Return the files of a directory that match names, each once.

    Wildcards are expanded in names that are not files as they stand. Raise FileNotFoundError if a
    name matches nothing, unless `skip_missing`.
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
    """Copy one file, create the target's directory and replace the target in one step.

    If both paths are the same file, nothing happens; if the target is a link, the file behind it is
    replaced. Raise OSError with both paths and the reason; the target is then unchanged.
    """
    target = os.path.realpath(target)
    try:
        if os.path.exists(target) and os.path.samefile(source, target):
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        _copy_beside(source, target)
    except OSError as error:
        text = f"cannot copy {source} to {target}: {error.strerror or error}"
        # OSError(errno, text) makes the same subclass.
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
    """Copy files from one directory to another; a copy is called `prefix` and the base name.

    Without a prefix, copying a directory to itself does nothing. Raise FileNotFoundError, before
    the first copy, if a name matches nothing, and OSError if a file cannot be copied.
    """
    if os.path.realpath(source_dir) == os.path.realpath(target_dir) and not prefix:
        return
    for source in matching_files(source_dir, names):
        copy_file(source, os.path.join(target_dir, prefix + os.path.basename(source)))


def unused_name(path: str) -> str:
    """Return a path; append ``.0``, ``.1`` and so on if it exists."""
    candidates = itertools.chain([path], (f"{path}.{number}" for number in itertools.count()))
    return next(name for name in candidates if not os.path.lexists(name))
