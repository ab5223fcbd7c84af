"""One line of the table of symptoms."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Symptom"]


@dataclass(frozen=True)
class Symptom:
    """A text by which a cause is known.

    Parameters
    ----------
    name : str
        For people, and for the file name of its recorded texts.
    pattern : str
        Regular expression; ``^`` and ``$`` match at line ends. The last line of the text is
        ``ips-dask: exit code N``.
    cause : str
        What happened. ``$name`` stands for the pattern's group of that name.
    remedy : str
        What to do about it, likewise.
    """

    name: str
    pattern: str
    cause: str
    remedy: str
