"""Define one entry of the table of symptoms."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Symptom"]


@dataclass(frozen=True)
class Symptom:
    """A pattern in a log, with its cause and remedy."""

    #: For people, and for the file name of the recorded text.
    name: str
    #: Regular expression; ``^`` and ``$`` match at line ends. The last line of the searched text is
    #: ``ips-dask: exit code N``.
    pattern: str
    #: What happened. ``$name`` stands for the group ``name`` of the pattern.
    cause: str
    #: What to do about it, with the same placeholders.
    remedy: str
