"""Read the simulation files of one run."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from ips_core.config.simulation import read_simulation
from ips_core.config.values import PlatformConfig, SimulationConfig
from ips_core.errors import ConfigError

__all__ = ["read_simulations", "shared_values"]

_log = logging.getLogger(__name__)


def read_simulations(files: Sequence[str], platform: PlatformConfig) -> list[SimulationConfig]:
    """Return the simulations of a run; a single path may stand for a list of one.

    A file that is named twice is read once, with a warning. Each simulation needs its own SIM_NAME,
    SIM_ROOT and LOG_FILE. Raise ConfigError with every problem of every file.
    """
    if isinstance(files, str):  # a loop over a str would take each letter for a file
        files = [files]
    if not files:
        raise ConfigError("", ["no simulation file is named"])
    simulations: list[SimulationConfig] = []
    errors: list[ConfigError] = []
    for file in _once(files):
        try:
            simulations.append(read_simulation(file, platform))
        except ConfigError as error:
            errors.append(error)
    if shared := shared_values(simulations):
        errors.append(ConfigError("", shared))
    errors += [
        ConfigError(each.file, [f"SIM_NAME = {each.name}: only sub-workflows have :: in it"])
        for each in simulations
        if "::" in each.name
    ]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ConfigError("", [line for error in errors for line in str(error).splitlines()])
    return simulations


def _once(files: Sequence[str]) -> list[str]:
    first: dict[str, str] = {}
    for file in files:
        path = os.path.realpath(file)
        if path in first:
            _log.warning("%s is named twice: it runs once", file)
        first.setdefault(path, file)
    return list(first.values())


def shared_values(simulations: Sequence[SimulationConfig]) -> list[str]:
    """Return a problem for each SIM_NAME, SIM_ROOT and LOG_FILE that two simulations share."""
    problems = []
    first: dict[tuple[str, str], SimulationConfig] = {}
    for simulation in simulations:
        own = {
            "SIM_NAME": simulation.name,
            "SIM_ROOT": os.path.realpath(simulation.root),
            "LOG_FILE": os.path.realpath(simulation.log_file),
        }
        for key, value in own.items():
            other = first.setdefault((key, value), simulation)
            if other is not simulation:
                problems.append(
                    f"{simulation.file}: {key} = {value} is that of {other.file} too: "
                    "simulations that run side by side need their own"
                )
    return problems
