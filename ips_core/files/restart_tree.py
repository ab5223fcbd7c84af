"""Where restart files are kept: ROOT/restart/<time stamp>/<component>.

A checkpoint that is being made has a hidden file in it, so that one that was cut short, by the end
of an allocation say, is not taken for the latest.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

__all__ = ["being_made", "checkpoints", "latest_checkpoint", "remove_checkpoint", "restart_path"]

_UNFINISHED = ".unfinished"


def restart_path(root: str, name: str, component: str = "") -> str:
    """Return the directory of a checkpoint, or of one component in it.

    Parameters
    ----------
    root : str
        SIM_ROOT of the simulation that makes it, RESTART_ROOT of the one that starts from it.
    name : str
        The checkpoint, such as ``3.000``.
    component : str, optional
        CLASS_SUB-CLASS_NAME, without a number, which another run may count differently.
    """
    return os.path.join(root, "restart", name, component).rstrip("/")


def checkpoints(root: str) -> list[str]:
    """Return the names of the checkpoints below a root, earliest first, finished or not."""
    folder = os.path.join(root, "restart")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted((name for name in names if _is_checkpoint(folder, name)), key=float)


def _is_checkpoint(folder: str, name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return os.path.isdir(os.path.join(folder, name))


def latest_checkpoint(root: str) -> str | None:
    """Return the latest checkpoint that is whole, what RESTART_TIME = LATEST means."""
    whole = [
        name
        for name in checkpoints(root)
        if not os.path.exists(os.path.join(restart_path(root, name), _UNFINISHED))
    ]
    return whole[-1] if whole else None


@contextlib.contextmanager
def being_made(root: str, name: str) -> Iterator[None]:
    """Mark a checkpoint as unfinished until the end of the context, and for good if that raises.

    Raises
    ------
    OSError
        The directory cannot be written.
    """
    folder = restart_path(root, name)
    mark = os.path.join(folder, _UNFINISHED)
    os.makedirs(folder, exist_ok=True)
    with open(mark, "wb"):
        pass
    yield
    os.unlink(mark)
    with contextlib.suppress(OSError):  # it is not empty, unless no component saves anything
        os.removedirs(folder)


def remove_checkpoint(root: str, name: str) -> None:
    """Remove a checkpoint.

    Raises
    ------
    OSError
        It cannot be removed.
    """
    folder = restart_path(root, name)
    # first, so that what an interruption leaves of it is not taken for a checkpoint
    with open(os.path.join(folder, _UNFINISHED), "wb"):
        pass
    shutil.rmtree(folder)
