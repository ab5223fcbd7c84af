"""Read platform files, which describe the machine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ips_core.config.reading import environment, interpolated, parse, word, word_of
from ips_core.config.values import PlatformConfig, SimulationConfig
from ips_core.errors import ConfigError

__all__ = ["ALLOCATION_MODES", "overridden", "read_platform"]

ALLOCATION_MODES = ("EXCLUSIVE", "SHARED")
_LAUNCHERS = ("eval", "srun", "mpirun", "mpiexec")
_DETECTIONS = ("manual", "slurm_env")
_RETIRED_DETECTIONS = ("pbs_env", "qstat", "qstat2", "checkjob")
_NUMBERS = (
    "CORES_PER_NODE",
    "SOCKETS_PER_NODE",
    "PROCS_PER_NODE",
    "NODES",
    "TOTAL_PROCS",
    "GPUS_PER_NODE",
)
#: Keys of the machine; a simulation file that sets one overrides the platform file.
_MACHINE = ("MPIRUN", "NODE_DETECTION", "NODE_ALLOCATION_MODE", *_NUMBERS)


def read_platform(file: str | None) -> PlatformConfig:
    """Return a platform file, checked, or only defaults if `file` is None.

    Names that the file does not set are looked up in the environment. Raise ConfigError with every
    problem.
    """
    if file is None:
        return PlatformConfig(values=_with_defaults({}))
    values, problems = interpolated(parse(file), [environment()])
    platform = _checked(file, values, problems)
    if problems:
        raise ConfigError(file, problems)
    return replace(platform, values=_with_defaults(platform.values))


def overridden(platform: PlatformConfig, simulations: Iterable[SimulationConfig]) -> PlatformConfig:
    """Return the platform with the values that simulation files set for the machine.

    The last file takes precedence. Raise ConfigError if the values are invalid together.
    """
    for simulation in simulations:
        said = {key: simulation.values[key] for key in _MACHINE if key in simulation.values}
        problems: list[str] = []
        if said:
            platform = _checked(platform.file, platform.values | said, problems)
        if problems:
            raise ConfigError(simulation.file, problems)
    return platform


def _checked(file: str, values: Mapping[str, Any], problems: list[str]) -> PlatformConfig:
    """Return the platform that the values describe, and append their problems to `problems`."""
    numbers = {key: _number(values, key, problems) for key in _NUMBERS if key in values}
    cores, sockets = (numbers.get(key, 0) for key in ("CORES_PER_NODE", "SOCKETS_PER_NODE"))
    if cores and sockets and cores % sockets:
        problems.append(
            f"SOCKETS_PER_NODE = {sockets}: expected a divisor of CORES_PER_NODE = {cores}"
        )
    mpirun = word_of(values, "MPIRUN", _LAUNCHERS, problems)
    mode = word_of(values, "NODE_ALLOCATION_MODE", ALLOCATION_MODES, problems)
    if values.get("NODE_DETECTION") in _RETIRED_DETECTIONS:
        detection = ""
        problems.append(
            f"NODE_DETECTION = {values['NODE_DETECTION']}: the nodes of a job are asked of Slurm "
            "only; use slurm_env, or manual with NODES and PROCS_PER_NODE"
        )
    else:
        detection = word_of(values, "NODE_DETECTION", _DETECTIONS, problems)
    word(values, "HOST", problems, required=False)
    return PlatformConfig(file, mpirun or None, {**values, **numbers}, mode, detection)


def _number(values: Mapping[str, Any], key: str, problems: list[str]) -> int:
    try:
        number = int(values[key] or 0)
    except (TypeError, ValueError):
        number = -1
    if number < 0:
        problems.append(f"{key} = {values[key]}: expected a whole number, 0 or more")
    return max(number, 0)


def _with_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Add the keys that components can read in IPS-framework even if the file does not set them."""
    accurate = str(values.get("USE_ACCURATE_NODES", "")).upper() not in ("OFF", "FALSE")
    return (
        dict.fromkeys(_NUMBERS, 0)
        | {"MPIRUN_VERSION": "OpenMPI-generic", "USER": os.environ.get("USER", "")}
        | values
        | {"HOST": values.get("HOST") or os.uname().nodename, "USE_ACCURATE_NODES": accurate}
    )
