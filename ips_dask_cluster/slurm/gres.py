"""Say which GPUs a step gets, as an option of srun.

A step that does not say it asks for what the job has in total: after ``salloc -N2 --gpus=4`` a
step on one of the nodes asks for all four, and is refused ("Invalid generic resource (gres)
specification").

Standard library only: every package of the project may import this module.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["gres_options"]

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


def gres_options(gpus: int, extra_args: Sequence[str] = (), *, in_total: bool = False) -> list[str]:
    """Return the srun options for GPUs on each node.

    Parameters
    ----------
    gpus : int
        GPUs of each node; 0: none.
    extra_args : sequence of str
        The user's own options. ``--gres=none`` would take away what they ask for.
    in_total : bool
        True: for a step on one node that holds more GPUs than others of the job. Slurm 22.05
        refuses ``--gres`` above what the poorest node holds, but not ``--gpus``. For other steps
        that is no choice: several nodes get uneven shares, and Slurm 24.11 makes a step wait.
    """
    if not gpus and any(_asks_for_gpus(word) for word in extra_args):
        return []
    if gpus and in_total:
        return [f"--gpus={gpus}"]
    return [f"--gres=gpu:{gpus}" if gpus else "--gres=none"]


def _asks_for_gpus(word: str) -> bool:
    return word.partition("=")[0] in _REQUESTS or word[:2] == "-G"
