"""Build the srun options for the GPUs of a step.

A step without such an option inherits the total of the job: after ``salloc -N2 --gpus=4`` a step on
one of the nodes asks for all four, and srun refuses it ("Invalid generic resource (gres)
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
    """Return the srun options for ``gpus`` GPUs on each node.

    The result is empty if the user's own ``extra_args`` ask for GPUs: ``--gres=none`` would take
    these away, and Slurm 26.05 refuses ``--gres`` beside ``--gpus-per-node``. ``in_total`` is for a
    step on one node that holds more GPUs than others of the job: Slurm 22.05 refuses ``--gres``
    above what the poorest node holds, but not ``--gpus``. Other steps cannot use ``--gpus``:
    several nodes would get uneven shares, and Slurm 24.11 makes such a step wait.
    """
    if any(_asks_for_gpus(word) for word in extra_args):
        return []
    if gpus and in_total:
        return [f"--gpus={gpus}"]
    return [f"--gres=gpu:{gpus}" if gpus else "--gres=none"]


def _asks_for_gpus(word: str) -> bool:
    return word.partition("=")[0] in _REQUESTS or word[:2] == "-G"
