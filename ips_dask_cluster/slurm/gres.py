"""Say which GPUs a step gets, as an option of srun.

A step that does not say it asks for what the job has in total: after ``salloc -N2 --gpus=4`` a
step on one of the nodes asks for all four, and is refused ("Invalid generic resource (gres)
specification").

Standard library only: every package of the project may import this module.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["gres_of_node", "gres_options"]

_REQUESTS = frozenset(
    {
        "--gpus",
        "--gpus-per-node",
        "--gpus-per-socket",
        "--gpus-per-task",
        "--gres",
        "--tres-per-task",
    }
)


def gres_of_node(gpus: int) -> str:
    """Return a number of GPUs of each node as ``srun --gres`` takes it."""
    return f"gpu:{gpus}" if gpus else "none"


def gres_options(gpus: int, extra_args: Sequence[str] = ()) -> list[str]:
    """Return the srun options for GPUs on each node.

    Parameters
    ----------
    gpus : int
        GPUs of each node; 0: none.
    extra_args : sequence of str
        The user's own options. ``--gres=none`` would take away what they ask for.
    """
    if not gpus and any(_asks_for_gpus(word) for word in extra_args):
        return []
    return [f"--gres={gres_of_node(gpus)}"]


def _asks_for_gpus(word: str) -> bool:
    return word.partition("=")[0] in _REQUESTS or word[:2] == "-G"
