"""Find restart files: ROOT/restart/<time stamp>/<component>.

A checkpoint holds a hidden file while it is written, so that a checkpoint that was interrupted, for
example by the end of the allocation, is not taken for the latest.
"""

from __future__ import annotations

import os

__all__ = ["UNFINISHED", "checkpoints", "latest_checkpoint", "restart_path"]

#: Name of the hidden file of an unfinished checkpoint.
UNFINISHED = ".unfinished"


def restart_path(root: str, name: str, component: str = "") -> str:
    """Return the directory of a checkpoint such as ``3.000``, or of one component in it.

    `root` is SIM_ROOT when a simulation writes and RESTART_ROOT when it restarts. `component` is
    CLASS_SUBCLASS_NAME without the number, because another run may number components differently.
    """
    return os.path.join(root, "restart", name, component).rstrip("/")


def checkpoints(root: str) -> list[str]:
    """Return the names of all checkpoints below a root, also unfinished ones, earliest first."""
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
    """Return the latest finished checkpoint, meant by RESTART_TIME = LATEST, or None."""
    whole = [
        name
        for name in checkpoints(root)
        if not os.path.exists(os.path.join(restart_path(root, name), UNFINISHED))
    ]
    return whole[-1] if whole else None
