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

from configobj import ConfigObj, ConfigObjError, MissingInterpolationOption, Section
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
        found = "this is a directory" if Path(file).is_dir() else "there is no such file"
        raise ConfigError(file, [found])
    try:
        return ConfigObj(file, interpolation=interpolation, file_error=True, encoding="utf-8")
    except ConfigObjError as error:
        # The first one only: ConfigObj reads on, and what it finds often follows from that
        first, *_ = getattr(error, "errors", None) or [error]
        raise ConfigError(file, [str(first)]) from None
    except UnicodeDecodeError:
        raise ConfigError(file, ["this is no text file (in UTF-8)"]) from None
    except OSError as error:
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
        except (TypeError, ValueError):
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
    values = _read_values(file, parsed, own_keys)
    problems: list[str] = []
    name, root, log_file = (_one(values, key, problems) for key in _SIMULATION_KEYS)
    if "/" in name:
        problems.append(f"SIM_NAME = {name}: files are named after it, so it cannot have a /")
    level = _level(values, problems) or "WARNING"
    ports = dict(_ports(values, problems))
    components = {
        section: component
        for section in dict.fromkeys(ports.values())
        if (component := _component(file, section, values, problems)) is not None
    }
    if problems:
        raise ConfigError(file, problems)
    return SimulationConfig(
        file=os.path.abspath(file),
        name=name,
        root=os.path.abspath(root),
        log_file=os.path.abspath(log_file),
        log_level=level,
        ports=ports,
        components=components,
        values=values,
        environment=environment,
    )


def _read_values(file: str, parsed: ConfigObj, keys: list[str]) -> dict[str, Any]:
    """Return these keys with every $NAME replaced.

    Raises
    ------
    ConfigError
        Some cannot be: then nothing else is checked, since all else would follow from that.
    """
    unreadable: dict[str, str] = {}
    values = _plain({key: parsed[key] for key in keys if _readable(parsed, key, unreadable)})
    if unreadable:
        problems = [f"{where}: {problem}" for problem, where in unreadable.items()]
        for key in _SIMULATION_KEYS:  # which others often refer to
            _one(values, key, problems, required=False)
        raise ConfigError(file, problems)
    return values


def _readable(section: Section, key: str, problems: dict[str, str]) -> bool:
    """Tell whether a value, or all of a section, can be read; note each cause where it shows."""
    try:
        value = section[key]
    except MissingInterpolationOption as error:
        name = str(error).partition('"')[2].partition('"')[0]
        problem = f"${name} is set neither in the file nor in the environment"
    except ConfigObjInterpolationError as error:
        problem = str(error)
    except TypeError:  # ConfigObj puts only text into text
        problem = "a $NAME in it is a list or a section"
    else:
        if not isinstance(value, Section):
            return True
        found = [_readable(value, inner, problems) for inner in value]  # looks at all of them
        return all(found)
    problems.setdefault(problem, f"[{section.name}] {key}" if section.name else key)
    return False


def _one(
    values: Mapping[str, Any],
    key: str,
    problems: list[str],
    where: str = "",
    required: bool = True,
) -> str:
    """Return a value that is one text; note what else it is."""
    value = values.get(key)
    if isinstance(value, list):
        problems.append(
            f"{where}{key} = {', '.join(value)}: expected one value; quote it if it has a comma"
        )
    elif isinstance(value, dict):
        problems.append(f"{where}{key} is a section: expected one value")
    elif required and not value:
        problems.append(f"{where}{key} is {'missing' if value is None else 'empty'}")
    return value if isinstance(value, str) else ""


def _level(values: Mapping[str, Any], problems: list[str], where: str = "") -> str:
    level = _one(values, "LOG_LEVEL", problems, where, required=False)
    # of a name it gives the number, of anything else a name
    if level and not isinstance(logging.getLevelName(level), int):
        problems.append(
            f"{where}LOG_LEVEL = {level}: expected a level of Python's logging, such as INFO"
        )
    return level


def _plain(section: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _plain(value) if isinstance(value, Mapping) else value
        for key, value in section.items()
    }


def _ports(values: dict[str, Any], problems: list[str]) -> Iterator[tuple[str, str]]:
    ports = values.get("PORTS")
    if not isinstance(ports, dict):
        problems.append("section [PORTS] is missing")
        return
    names = ports.get("NAMES", "")
    names = names if isinstance(names, list) else str(names).split()
    if "DRIVER" not in names:
        problems.append("[PORTS] NAMES has no DRIVER: nothing would run")
    for name in names:
        port = ports.get(name)
        if not isinstance(port, dict) or "IMPLEMENTATION" not in port:
            problems.append(
                f"[PORTS] port {name} has no IMPLEMENTATION: add [[{name}]] with "
                "IMPLEMENTATION = the section of a component"
            )
        elif section := _one(
            port, "IMPLEMENTATION", problems, f"[PORTS] [[{name}]] ", required=False
        ):
            yield name, section
        elif name == "DRIVER" and not port["IMPLEMENTATION"]:
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
    where = f"[{section}] "
    class_, name = (_one(own, key, problems, where) for key in _COMPONENT_KEYS)
    sub_class, script, module, threads = (
        _one(own, key, problems, where, required=False)
        for key in ("SUB_CLASS", "SCRIPT", "MODULE", "PROCS_PER_NODE")
    )
    _level(own, problems, where)
    if threads and not threads.isdecimal():
        problems.append(f"{where}PROCS_PER_NODE = {threads}: expected a whole number")
    if not own.get("SCRIPT") and not own.get("MODULE"):
        problems.append(f"{where}needs a SCRIPT (a Python file) or a MODULE")
    if script:
        script = _find_script(file, script)
        if not os.path.isfile(script):
            problems.append(f"{where}SCRIPT = {script}: there is no such file")
    inherited: dict[str, Any] = {
        key: values[key]
        for key in ("INPUT_DIR", "IPS_ROOT", "BIN_DIR", "BIN_PATH")
        if key in values and key not in own
    }
    inherited.setdefault("INPUT_DIR", os.path.dirname(os.path.abspath(file)))
    return ComponentConfig(section, class_, sub_class, name, script, module, inherited | own)


def _find_script(file: str, script: str) -> str:
    """Return a SCRIPT's absolute path: from the launch directory, else from the file's own."""
    beside = os.path.join(os.path.dirname(os.path.abspath(file)), script)
    return (
        beside if not os.path.isfile(script) and os.path.isfile(beside) else os.path.abspath(script)
    )
