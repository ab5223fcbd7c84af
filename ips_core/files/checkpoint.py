"""When a checkpoint is due, and which are kept: section [CHECKPOINT] as pure decisions.

Clocks and directories are the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ips_core.errors import ConfigError
from ips_core.files.copies import file_names

__all__ = [
    "CHECKPOINT_MODES",
    "CHECKPOINT_VALUES",
    "CheckpointHistory",
    "CheckpointPlan",
    "Moment",
    "checkpoint_name",
    "kept_checkpoints",
    "read_plan",
]

#: What each mode of [CHECKPOINT] needs besides.
CHECKPOINT_VALUES = {
    "WALLTIME_REGULAR": "WALLTIME_INTERVAL",
    "WALLTIME_EXPLICIT": "WALLTIME_VALUES",
    "PHYSTIME_REGULAR": "PHYSTIME_INTERVAL",
    "PHYSTIME_EXPLICIT": "PHYSTIME_VALUES",
}
CHECKPOINT_MODES = ("ALL", *CHECKPOINT_VALUES)


@dataclass(frozen=True)
class Moment:
    """A point of both times.

    Parameters
    ----------
    wall : float
        Seconds since the simulation started.
    phys : float
        The simulated time.
    """

    wall: float
    phys: float


@dataclass(frozen=True)
class CheckpointPlan:
    """Section [CHECKPOINT].

    Parameters
    ----------
    mode : str
        MODE.
    keep : int
        NUM_CHECKPOINT: so many are kept; 0: none is made; less: all are kept.
    values : tuple of float
        The mode's interval, or the times at which one is due.
    protect_every : int
        PROTECT_FREQUENCY: every such checkpoint is never removed. 0: none.
    """

    mode: str = "ALL"
    keep: int = -1
    values: tuple[float, ...] = ()
    protect_every: int = 0

    def is_due(self, now: Moment, last: Moment) -> bool:
        """Tell whether a checkpoint is to be made.

        Parameters
        ----------
        now : Moment
            This moment.
        last : Moment
            When the last checkpoint was made, or from when on the first is counted.
        """
        if self.mode == "ALL" or self.keep == 0:
            return self.keep != 0
        clock = "wall" if self.mode.startswith("WALLTIME") else "phys"
        time, before = getattr(now, clock), getattr(last, clock)
        if self.mode.endswith("REGULAR"):
            return _reached(time - before, self.values[0])
        return any(_reached(time, value) and not _reached(before, value) for value in self.values)


def _reached(time: float, value: float) -> bool:
    """Tell whether a time is as late; steps of 0.1 add up to a little less than they should."""
    return time >= value or math.isclose(time, value, rel_tol=1e-9, abs_tol=1e-12)


@dataclass
class CheckpointHistory:
    """The checkpoints that one component has made, or has had made, in this run.

    Attributes
    ----------
    last : Moment or None
        When the last one was; None before the first.
    """

    last: Moment | None = None
    _own: dict[str, None] = field(default_factory=dict)
    _protected: set[str] = field(default_factory=set)
    _count: int = 0

    def note(self, name: str) -> None:
        """Take note that this run has saved something at a time."""
        self._own[name] = None

    def add(self, name: str, moment: Moment, plan: CheckpointPlan, protect: bool) -> None:
        """Take note of a checkpoint that is complete; `protect`: it is never removed."""
        self.note(name)
        self.last = moment
        self._count += 1
        if protect or (plan.protect_every and self._count % plan.protect_every == 0):
            self._protected.add(name)

    def obsolete(self, existing: Iterable[str], keep: int) -> list[str]:
        """Return which checkpoints are to be removed.

        Those of earlier runs go first, by their times; then those of this run, in the order in
        which they were made. Protected ones stay, and do not count.

        Parameters
        ----------
        existing : iterable of str
            The names of those that are there, by time.
        keep : int
            How many may stay.
        """
        there = set(existing)
        earlier = sorted(there - self._own.keys(), key=float)
        own = [name for name in self._own if name in there and name not in self._protected]
        return [*earlier, *own][: max(0, len(earlier) + len(own) - keep)]


def checkpoint_name(time_stamp: Any) -> str:
    """Return the name of a checkpoint's directory, such as ``3.000``.

    Raises
    ------
    ValueError
        The time stamp is no number.
    """
    try:
        return f"{float(time_stamp):.3f}"
    except (TypeError, ValueError):
        raise ValueError(f"time stamp {time_stamp!r}: expected a number") from None


def kept_checkpoints(file: str, section: Mapping[str, Any]) -> int:
    """Return NUM_CHECKPOINT.

    Raises
    ------
    KeyError
        It is missing.
    ConfigError
        It is no whole number.
    """
    return _whole(file, section, "NUM_CHECKPOINT")


def read_plan(file: str, section: Mapping[str, Any]) -> CheckpointPlan:
    """Return the plan that a section is.

    Parameters
    ----------
    file : str
        The simulation file, for messages.
    section : mapping
        Of the simulation file.

    Raises
    ------
    KeyError
        MODE, NUM_CHECKPOINT or what the mode needs is missing.
    ConfigError
        A value makes no sense.
    """
    mode = _get(section, "MODE")
    if mode not in CHECKPOINT_MODES:
        problem = f"Invalid MODE = {mode} in checkpoint configuration: expected one of "
        raise ConfigError(file, [problem + ", ".join(CHECKPOINT_MODES)])
    protect = _whole(file, section, "PROTECT_FREQUENCY") if "PROTECT_FREQUENCY" in section else 0
    if protect < 0:
        raise ConfigError(file, [f"[CHECKPOINT] PROTECT_FREQUENCY = {protect}: expected 1 or more"])
    values = _values(file, section, mode) if mode in CHECKPOINT_VALUES else ()
    return CheckpointPlan(mode, kept_checkpoints(file, section), values, protect)


def _get(section: Mapping[str, Any], key: str) -> Any:
    if key not in section:
        raise KeyError(f"[CHECKPOINT] {key} is missing")
    return section[key]


def _whole(file: str, section: Mapping[str, Any], key: str) -> int:
    value = _get(section, key)
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ConfigError(
            file, [f"[CHECKPOINT] {key} = {value}: expected a whole number"]
        ) from None


def _values(file: str, section: Mapping[str, Any], mode: str) -> tuple[float, ...]:
    key = CHECKPOINT_VALUES[mode]
    value = _get(section, key)
    try:
        numbers = tuple(map(float, file_names(value)))
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or (mode.endswith("REGULAR") and len(numbers) > 1):
        wanted = "a number" if mode.endswith("REGULAR") else "numbers"
        raise ConfigError(file, [f"[CHECKPOINT] {key} = {value}: expected {wanted}"])
    return numbers
