"""Expand Slurm's node lists, such as ``n[1-3,07],login1``, up to a limit.

Lists come from users, from the environment and from logs that tasks can write to. The size of a
list is computed before any name is made, so that ``n[1-999999999]`` costs nothing.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator

__all__ = ["MOST_NAMES", "count_numbers", "expand_hostlist"]

MOST_NAMES = 65536
"""Limit of names in a list: more nodes than any cluster has, and Slurm's own limit of one range."""

_BRACKET = re.compile(r"\[([^\[\]]*)\]")
_WORD = re.compile(r"(?:\[[^\[\]]*\]|[^\s,\[\]])+")
_PIECE = re.compile(r"\[([^\[\]]*)\]|([^\[\]]+)")
_RANGE = re.compile(r"\s*([0-9]{1,18})\s*(?:-\s*([0-9]{1,18})\s*)?")

_Ranges = list[tuple[int, int, int]]  # first, last, and the least number of digits


def expand_hostlist(hostlist: str, most: int = MOST_NAMES) -> list[str]:
    """Return the names in one of Slurm's node lists, such as ``"n[1-3,07],login1"``.

    The syntax is that of ``scontrol show hostlist`` (scontrol(1)): zero-padding is kept, a name may
    have several brackets, and blanks separate names as commas do. Raises ``ValueError`` if the list
    does not parse or has more than ``most`` names; the text of the error fits the end of a
    sentence.
    """
    if re.search(r"[\[\]]", _BRACKET.sub("", hostlist)):
        raise ValueError("a bracket is not closed, or not opened")
    names: list[list[str | _Ranges]] = [
        [text or _ranges(inside) for inside, text in _PIECE.findall(word)]
        for word in _WORD.findall(hostlist)
    ]
    count = sum(
        math.prod(_size(piece) for piece in name if not isinstance(piece, str)) for name in names
    )
    if count > most:
        raise ValueError(f"it names more than {most} node(s)")
    return ["".join(texts) for name in names for texts in itertools.product(*map(_texts, name))]


def count_numbers(ranges: str) -> int:
    """Return how many numbers a list such as ``"0-1,4"`` has, or raise ``ValueError``."""
    return _size(_ranges(ranges))


def _ranges(text: str) -> _Ranges:
    found = []
    for item in text.split(","):
        match = _RANGE.fullmatch(item)
        if match is None:
            raise ValueError(f"{item.strip()!r} is not a number or a range, such as 1-4")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {item.strip()} ends before it begins")
        found.append((first, last, len(match[1])))
    return found


def _size(ranges: _Ranges) -> int:
    return sum(last - first + 1 for first, last, _ in ranges)


def _texts(piece: str | _Ranges) -> Iterator[str]:
    if isinstance(piece, str):
        yield piece
        return
    for first, last, width in piece:
        for number in range(first, last + 1):
            yield f"{number:0{width}d}"
