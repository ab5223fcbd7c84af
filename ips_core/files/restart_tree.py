"""Create and remove the directories of checkpoints."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

from ips_core.config.restart_tree import UNFINISHED, restart_path

__all__ = ["being_made", "remove_checkpoint"]


@contextlib.contextmanager
def being_made(root: str, name: str) -> Iterator[None]:
    """Mark a checkpoint as unfinished during the context; if the context raises, the mark stays.

    Raise OSError if the directory cannot be written.
    """
    folder = restart_path(root, name)
    mark = os.path.join(folder, UNFINISHED)
    os.makedirs(folder, exist_ok=True)
    with open(mark, "wb"):
        pass
    yield
    os.unlink(mark)
    with contextlib.suppress(OSError):  # empty only if no component saved files
        os.removedirs(folder)


def remove_checkpoint(root: str, name: str) -> None:
    """Remove a checkpoint; raise OSError if that fails."""
    folder = restart_path(root, name)
    # The mark comes first: the rest of an interrupted removal must not look like a checkpoint.
    with open(os.path.join(folder, UNFINISHED), "wb"):
        pass
    shutil.rmtree(folder)
