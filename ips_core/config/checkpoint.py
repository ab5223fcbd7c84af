"""Read the section [CHECKPOINT] and decide when a checkpoint is due."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ips_core.config.reading import file_names
from ips_core.errors import ConfigError

__all__ = [
    "CHECKPOINT_MODES",
    "CHECKPOINT_VALUES",
    "CheckpointPlan",
    "Moment",
    "kept_checkpoints",
    "read_plan",
]

#: The key that each MODE needs in addition to MODE and NUM_CHECKPOINT.
CHECKPOINT_VALUES = {
    "WALLTIME_REGULAR": "WALLTIME_INTERVAL",
    "WALLTIME_EXPLICIT": "WALLTIME_VALUES",
    "PHYSTIME_REGULAR": "PHYSTIME_INTERVAL",
    "PHYSTIME_EXPLICIT": "PHYSTIME_VALUES",
}
CHECKPOINT_MODES = ("ALL", *CHECKPOINT_VALUES)


@dataclass(frozen=True)
class Moment:
    """A moment in wall-clock time and in simulated time."""

    #: Seconds since the framework started.
    wall: float
    #: Simulated time, in the unit of the simulation.
    phys: float


@dataclass(frozen=True)
class CheckpointPlan:
    """The settings of the section [CHECKPOINT]."""

    mode: str = "ALL"
    #: NUM_CHECKPOINT: how many checkpoints are kept; 0 makes none, a negative number keeps all.
    keep: int = -1
    #: The interval of a REGULAR mode, or the times of an EXPLICIT mode.
    values: tuple[float, ...] = ()
    #: PROTECT_FREQUENCY: every so many checkpoints, one is never removed; 0 protects none.
    protect_every: int = 0

    def is_due(self, now: Moment, last: Moment) -> bool:
        """Return whether a checkpoint is due now.

        `last` is the moment of the last checkpoint or, before the first, the moment from which the
        interval counts.
        """
        if self.mode == "ALL" or self.keep == 0:
            return self.keep != 0
        clock = "wall" if self.mode.startswith("WALLTIME") else "phys"
        time, before = getattr(now, clock), getattr(last, clock)
        if self.mode.endswith("REGULAR"):
            return _reached(time - before, self.values[0])
        return any(_reached(time, value) and not _reached(before, value) for value in self.values)


def _reached(time: float, value: float) -> bool:
    """Return whether a time has reached a value, allowing for rounding in sums of steps of 0.1."""
    return time >= value or math.isclose(time, value, rel_tol=1e-9, abs_tol=1e-12)


def kept_checkpoints(file: str, section: Mapping[str, Any]) -> int:
    """Return NUM_CHECKPOINT.

    Raise KeyError if it is missing and ConfigError if it is not an integer.
    """
    return _whole(file, section, "NUM_CHECKPOINT")


def read_plan(file: str, section: Mapping[str, Any]) -> CheckpointPlan:
    """Return the plan of a [CHECKPOINT] section of the simulation file `file`.

    Raise KeyError if MODE, NUM_CHECKPOINT or the key that the mode needs is missing, and
    ConfigError if a value is invalid.
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
