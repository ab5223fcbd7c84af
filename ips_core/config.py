"""Simulation and platform files: ConfigObj text in, frozen and checked values out.

Nothing is started or created here. All problems of a file are reported at once, each with its
section and key.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configobj import ConfigObj, ConfigObjError, Section
from configobj import InterpolationError as ConfigObjInterpolationError

from ips_core.errors import ConfigError

__all__ = [
    "ComponentConfig",
    "PlatformConfig",
    "SimulationConfig",
    "read_platform",
    "read_simulation",
]

_LAUNCHERS = ("eval", "srun", "mpirun", "mpiexec")
_PLATFORM_NUMBERS = (
    "CORES_PER_NODE",
    "SOCKETS_PER_NODE",
    "PROCS_PER_NODE",
    "NODES",
    "TOTAL_PROCS",
    "GPUS_PER_NODE",
)
_COMPONENT_KEYS = ("CLASS", "NAME")
_SIMULATION_KEYS = ("SIM_NAME", "SIM_ROOT", "LOG_FILE")


@dataclass(frozen=True)
class PlatformConfig:
    """The machine as the user describes it; empty when there is no platform file.

    Parameters
    ----------
    file : str
        Where it was read from; empty without a platform file.
    mpirun : str or None
        How tasks are launched: ``eval``, ``srun``, ``mpirun`` or ``mpiexec``; None: decided by
        where the simulation runs.
    values : dict
        Every key of the file; the known numbers are ints.
    """

    file: str = ""
    mpirun: str | None = None
    values: dict[str, Any] = field(default_factory=dict)

    def number(self, key: str) -> int:
        """Return a number of the file, 0 when it is absent or empty."""
        return int(self.values.get(key) or 0)


@dataclass(frozen=True)
class ComponentConfig:
    """One component's section.

    Parameters
    ----------
    section : str
        Name of the section.
    class_, sub_class, name : str
        CLASS, SUB_CLASS and NAME; NAME is the Python class.
    script : str
        Absolute path of SCRIPT; empty when MODULE is used.
    module : str
        Importable module; empty when SCRIPT is used.
    values : dict
        Every key of the section, what the component sees as its attributes.
    """

    section: str
    class_: str
    sub_class: str
    name: str
    script: str
    module: str
    values: dict[str, Any]

    def full_id(self, number: int) -> str:
        """Return the name of its directories and the ``code`` of its events."""
        return f"{self.class_}_{self.sub_class}_{self.name}_{number}"


@dataclass(frozen=True)
class SimulationConfig:
    """A simulation file.

    Parameters
    ----------
    file : str
        Its absolute path.
    name, root, log_file : str
        SIM_NAME, and absolute paths of SIM_ROOT and LOG_FILE.
    log_level : str
        LOG_LEVEL.
    ports : dict of str to str
        Section of the component that implements each port, in the order of NAMES.
    components : dict of str to ComponentConfig
        By section.
    values : dict
        The file's top level, with sections as dicts: what ``get_config_param`` answers from.
    environment : dict of str to str
        Environment variables, which count as values that the file does not set.
    """

    file: str
    name: str
    root: str
    log_file: str
    log_level: str
    ports: dict[str, str]
    components: dict[str, ComponentConfig]
    values: dict[str, Any]
    environment: dict[str, str] = field(repr=False)


def _environment() -> dict[str, str]:
    """Return the environment variables that a config may refer to.

    PWD is what the shell said at login when a program was started with another directory; here
    it is the directory that the simulation is launched from.
    """
    usable = {name: value for name, value in os.environ.items() if not set(value) & set("{}()$")}
    return usable | {"PWD": os.getcwd()}


def _parse(file: str, interpolation: str | bool) -> ConfigObj:
    if not Path(file).is_file():
        raise ConfigError(file, ["there is no such file"])
    try:
        return ConfigObj(file, interpolation=interpolation, file_error=True, encoding="utf-8")
    except ConfigObjError as error:
        problems = [str(each) for each in getattr(error, "errors", None) or [error]]
        raise ConfigError(file, problems) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(file, [f"cannot be read: {error}"]) from None


def read_platform(file: str | None) -> PlatformConfig:
    """Return a platform file, checked.

    Parameters
    ----------
    file : str or None
        None gives an empty description.

    Raises
    ------
    ConfigError
        The file cannot be read, or a value in it makes no sense.
    """
    if file is None:
        return PlatformConfig()
    parsed = _parse(file, interpolation="template")
    values: dict[str, Any] = {}
    problems = []
    for key in parsed:
        try:
            value = parsed[key]
            values[key] = int(value or 0) if key in _PLATFORM_NUMBERS else value
        except ValueError:
            problems.append(f"{key} = {value}: expected a whole number")
        except ConfigObjInterpolationError as error:
            problems.append(f"{key}: {error}")
    mpirun = values.get("MPIRUN") or None
    if mpirun is not None and mpirun not in _LAUNCHERS:
        problems.append(f"MPIRUN = {mpirun}: expected one of {', '.join(_LAUNCHERS)}")
    if problems:
        raise ConfigError(file, problems)
    return PlatformConfig(file, mpirun, values)


def read_simulation(file: str, platform: PlatformConfig) -> SimulationConfig:
    """Return a simulation file, interpolated and checked.

    A name that the file does not set is looked up in the environment, then in the platform file.

    Parameters
    ----------
    file : str
        Path of the file.
    platform : PlatformConfig
        As :func:`read_platform` returned it.

    Raises
    ------
    ConfigError
        With every problem that was found.
    """
    parsed = _parse(file, interpolation="template")
    own_keys = list(parsed)
    environment = _environment()
    for key, value in [*environment.items(), *platform.values.items()]:
        if key not in parsed:
            parsed[key] = value if isinstance(value, list) else str(value)
    problems: list[str] = []
    values = _plain({key: parsed[key] for key in own_keys if _readable(parsed, key, problems)})
    for key in _SIMULATION_KEYS:
        if key in own_keys and not values.get(key):
            problems.append(f"{key} is empty")
        elif key not in own_keys:
            problems.append(f"{key} is missing")
    level = values.get("LOG_LEVEL") or "WARNING"
    if not isinstance(getattr(logging, str(level), None), int):
        problems.append(f"LOG_LEVEL = {level}: expected a level of Python's logging, such as INFO")
    ports = dict(_ports(values, problems))
    components = {
        section: component
        for section in ports.values()
        if (component := _component(file, section, values, problems)) is not None
    }
    if problems:
        raise ConfigError(file, problems)
    return SimulationConfig(
        file=os.path.abspath(file),
        name=values["SIM_NAME"],
        root=os.path.abspath(values["SIM_ROOT"]),
        log_file=os.path.abspath(values["LOG_FILE"]),
        log_level=level,
        ports=ports,
        components=components,
        values=values,
        environment=environment,
    )


def _readable(section: Section, key: str, problems: list[str]) -> bool:
    """Tell whether a value, or all of a section, can be interpolated; note what cannot."""
    try:
        value = section[key]
    except ConfigObjInterpolationError as error:
        where = f"[{section.name}] " if section.name else ""
        problems.append(f"{where}{key}: {error}; set it in the file or in the environment")
        return False
    if isinstance(value, Section):
        return all(_readable(value, inner, problems) for inner in value)
    return True


def _plain(section: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _plain(value) if isinstance(value, Mapping) else value
        for key, value in section.items()
    }


def _ports(values: dict[str, Any], problems: list[str]) -> Iterator[tuple[str, str]]:
    section = values.get("PORTS")
    if not isinstance(section, dict):
        problems.append("section [PORTS] is missing")
        return
    names = section.get("NAMES", "")
    names = names if isinstance(names, list) else str(names).split()
    if "DRIVER" not in names:
        problems.append("[PORTS] NAMES has no DRIVER: nothing would run")
    for name in names:
        port = section.get(name)
        if not isinstance(port, dict) or "IMPLEMENTATION" not in port:
            problems.append(
                f"[PORTS] port {name} has no IMPLEMENTATION: add [[{name}]] with "
                "IMPLEMENTATION = the section of a component"
            )
        elif port["IMPLEMENTATION"]:
            yield name, port["IMPLEMENTATION"]
        elif name == "DRIVER":
            problems.append("[PORTS] [[DRIVER]] IMPLEMENTATION is empty: nothing would run")


def _component(
    file: str, section: str, values: dict[str, Any], problems: list[str]
) -> ComponentConfig | None:
    own = values.get(section)
    if not isinstance(own, dict):
        problems.append(
            f"[PORTS] names the component {section}, but there is no section [{section}]"
        )
        return None
    missing = [key for key in _COMPONENT_KEYS if not own.get(key)]
    problems.extend(f"[{section}] {key} is missing" for key in missing)
    script, module = own.get("SCRIPT", ""), own.get("MODULE", "")
    if not script and not module:
        problems.append(f"[{section}] needs a SCRIPT (a Python file) or a MODULE")
    if script:
        script = _find_script(file, script)
        if not os.path.isfile(script):
            problems.append(f"[{section}] SCRIPT = {script}: there is no such file")
    if missing:
        return None
    inherited: dict[str, Any] = {
        key: values[key]
        for key in ("INPUT_DIR", "IPS_ROOT", "BIN_DIR", "BIN_PATH")
        if key in values and key not in own
    }
    inherited.setdefault("INPUT_DIR", os.path.dirname(os.path.abspath(file)))
    return ComponentConfig(
        section,
        own["CLASS"],
        own.get("SUB_CLASS", ""),
        own["NAME"],
        script,
        module,
        inherited | own,
    )


def _find_script(file: str, script: str) -> str:
    """Return a SCRIPT's absolute path: from the launch directory, else from the file's own."""
    beside = os.path.join(os.path.dirname(os.path.abspath(file)), script)
    return (
        beside if not os.path.isfile(script) and os.path.isfile(beside) else os.path.abspath(script)
    )
