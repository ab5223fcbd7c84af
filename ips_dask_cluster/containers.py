"""Containers that a site's users run programs in: what stands before a command line.

A container is a value; it knows its command prefix and nothing of clusters or scripts.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Container", "Shifter", "shifter_arguments"]


class Container(Protocol):
    """Anything with a command prefix."""

    def prefix(self) -> list[str]:
        """Return the words that stand before the command to run inside."""
        ...


def shifter_arguments(arguments: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return Shifter's arguments as separate words.

    Parameters
    ----------
    arguments : str or sequence of str or None
        One string is split as a shell would; the items of a sequence are left alone.
    """
    if arguments is None:
        return ()
    if isinstance(arguments, str):
        return tuple(shlex.split(arguments))
    return tuple(str(argument) for argument in arguments)


@dataclass(frozen=True)
class Shifter:
    """A Shifter container.

    Parameters
    ----------
    image : str, optional
        ``--image=``. Leave it out when the job itself was submitted with an image: Shifter then
        takes that one (its manual page, ``SLURM_SPANK_SHIFTER_IMAGE``).
    volumes : tuple of str
        ``--volume=`` each, such as ``"/scratch/me:/data"``.
    arguments : tuple of str
        Further words, passed as they are.
    """

    image: str | None = None
    volumes: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()

    def prefix(self) -> list[str]:
        """Return ``shifter`` and its options."""
        image = [f"--image={self.image}"] if self.image else []
        volumes = [f"--volume={volume}" for volume in self.volumes]
        return ["shifter", *image, *volumes, *self.arguments]
