"""Check [TIME_LOOP] and [CHECKPOINT] before anything runs.

The services evaluate both sections only when a component uses them, which it need not do; therefore
only values that can never work are problems.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ips_core.config.checkpoint import CHECKPOINT_MODES, CHECKPOINT_VALUES
from ips_core.config.reading import word
from ips_core.config.time_loop import arithmetic

__all__ = ["check_checkpoint", "check_time_loop"]


def check_time_loop(values: Mapping[str, Any]) -> list[str]:
    """Return the problems of [TIME_LOOP] in a simulation file; none without that section."""
    section = values.get("TIME_LOOP")
    if not isinstance(section, Mapping):
        return []
    where, problems = "[TIME_LOOP] ", list[str]()
    mode = _mode(section, ("REGULAR", "EXPLICIT"), where, problems)
    if mode == "REGULAR":
        for key in ("START", "FINISH", "NSTEP"):
            text = word(section, key, problems, where)
            if text and not _is_arithmetic(text):
                problems.append(f"{where}{key} = {text}: expected a number, or arithmetic of some")
    elif mode == "EXPLICIT":
        problems += _check_all(section, "VALUES", where, _is_arithmetic)
    return problems


def check_checkpoint(values: Mapping[str, Any]) -> list[str]:
    """Return the problems of [CHECKPOINT] in a simulation file; none without that section."""
    section = values.get("CHECKPOINT")
    if not isinstance(section, Mapping):
        return []
    where, problems = "[CHECKPOINT] ", list[str]()
    mode = _mode(section, CHECKPOINT_MODES, where, problems)
    if needed := CHECKPOINT_VALUES.get(mode):
        problems += _check_all(section, needed, where, _is_number)
    for key in ("NUM_CHECKPOINT", "PROTECT_FREQUENCY"):
        text = word(section, key, problems, where, required=False)
        if text and not _is_whole(text):
            problems.append(f"{where}{key} = {text}: expected a whole number")
    return problems


def _mode(
    section: Mapping[str, Any], modes: tuple[str, ...], where: str, problems: list[str]
) -> str:
    """Return MODE as written, or "" if it is not set, and append a problem if it is unknown.

    The services compare it in the case in which it is written.
    """
    mode = word(section, "MODE", problems, where, required=False)
    if mode and mode not in modes:
        problems.append(f"{where}MODE = {mode}: expected one of {', '.join(modes)}")
    return mode


def _check_all(
    section: Mapping[str, Any], key: str, where: str, fits: Callable[[str], bool]
) -> list[str]:
    """Return the problems of a value that must be one or more numbers."""
    value = section.get(key)
    if not value or isinstance(value, Mapping):
        return [f"{where}{key} is missing, which MODE = {section['MODE']} needs"]
    parts = value if isinstance(value, list) else value.split()
    return [f"{where}{key} has {part}: expected numbers" for part in parts if not fits(part)]


def _is_arithmetic(text: str) -> bool:
    try:
        arithmetic(text)
    except ValueError:
        return False
    return True


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_whole(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True
