"""Read a simulation file into a checked :class:`SimulationConfig`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ips_core.config.platform import ALLOCATION_MODES
from ips_core.config.reading import environment, interpolated, parse, word, word_of
from ips_core.config.restart_tree import latest_checkpoint
from ips_core.config.sections import check_checkpoint, check_time_loop
from ips_core.config.values import ComponentConfig, PlatformConfig, SimulationConfig
from ips_core.errors import ConfigError

__all__ = ["read_simulation"]

_COMPONENT_KEYS = ("CLASS", "NAME")
_SIMULATION_KEYS = ("SIM_NAME", "SIM_ROOT", "LOG_FILE")
_INHERITED = ("INPUT_DIR", "IPS_ROOT", "BIN_DIR", "BIN_PATH")
_YES = ("true", "yes", "on", "1")
_NO = ("false", "no", "off", "0")
#: Ignored environment variables: a LOG_LEVEL of the shell is meant for other programs.
_NOT_FROM_ENVIRONMENT = ("LOG_LEVEL",)


def read_simulation(file: str, platform: PlatformConfig) -> SimulationConfig:
    """Return a simulation file, interpolated and checked.

    A name or value that the file does not set comes from the environment, else from the platform
    file. Raise ConfigError with every problem found.
    """
    variables = environment()
    values = _read_values(file, variables, platform)
    problems: list[str] = []
    usable = {key: value for key, value in variables.items() if key not in _NOT_FROM_ENVIRONMENT}
    seen = platform.values | usable | values
    name, root, log_file = (word(seen, key, problems) for key in _SIMULATION_KEYS)
    if "/" in name:
        problems.append(f"SIM_NAME = {name}: files are named after it, so it cannot have a /")
    level = _level(seen, problems) or "WARNING"
    values |= _mode(seen, problems)
    ports = dict(_ports(values, problems))
    components = {
        section: component
        for section in dict.fromkeys(ports.values())
        if (component := _component(file, section, values, seen, problems)) is not None
    }
    word_of(values, "NODE_ALLOCATION_MODE", ALLOCATION_MODES, problems)
    problems += check_time_loop(values) + check_checkpoint(values)
    config = SimulationConfig(
        file=os.path.abspath(file),
        name=name,
        root=os.path.abspath(root),
        log_file=os.path.abspath(log_file),
        log_level=level,
        ports=ports,
        components=components,
        values=values,
        environment=variables,
        out_redirect=_out_redirect(seen, name, problems),
        use_portal=word_of(seen, "USE_PORTAL", (*_YES, *_NO), problems) not in _NO,
        portal_url=word(seen, "PORTAL_URL", problems, required=False),
    )
    if problems:
        raise ConfigError(file, problems)
    return config


def _read_values(file: str, variables: dict[str, str], platform: PlatformConfig) -> dict[str, Any]:
    """Return the values of a file with every $NAME replaced.

    If that fails for a value, raise ConfigError at once: other problems would only follow from it.
    """
    values, problems = interpolated(parse(file), [variables, platform.values])
    if problems:
        for key in _SIMULATION_KEYS:  # other values often refer to these
            word(values, key, problems, required=False)
        raise ConfigError(file, problems)
    return values


def _level(values: Mapping[str, Any], problems: list[str], where: str = "") -> str:
    level = word(values, "LOG_LEVEL", problems, where, required=False)
    # getLevelName returns an int for the name of a level and a str for anything else.
    if level and not isinstance(logging.getLevelName(level), int):
        problems.append(
            f"{where}LOG_LEVEL = {level}: expected a level of Python's logging, such as INFO"
        )
    return level


def _out_redirect(values: Mapping[str, Any], name: str, problems: list[str]) -> str:
    wanted = word(values, "OUT_REDIRECT", problems, required=False).strip().lower()
    file = word(values, "OUT_REDIRECT_FNAME", problems, required=False)
    return os.path.abspath(file or f"{name}.out") if wanted and wanted not in _NO else ""


def _mode(values: Mapping[str, Any], problems: list[str]) -> dict[str, str]:
    """Return SIMULATION_MODE and, if a restart asks for LATEST, RESTART_TIME as a time."""
    mode = word_of(values, "SIMULATION_MODE", ("NORMAL", "RESTART"), problems) or "NORMAL"
    if mode == "NORMAL" or values.get("RESTART_TIME") != "LATEST":
        return {"SIMULATION_MODE": mode}
    if not values.get("RESTART_ROOT"):
        problems.append("RESTART_ROOT is missing, which RESTART_TIME = LATEST needs")
    root = word(values, "RESTART_ROOT", problems, required=False)
    latest = latest_checkpoint(root) if root else "0"
    if not latest:
        problems.append(
            f"RESTART_TIME = LATEST: there are no restart files in {root}/restart; "
            "is RESTART_ROOT the SIM_ROOT of the run before?"
        )
    return {"SIMULATION_MODE": mode, "RESTART_TIME": latest or ""}


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
        elif section := word(
            port, "IMPLEMENTATION", problems, f"[PORTS] [[{name}]] ", required=False
        ):
            yield name, section
        elif name == "DRIVER" and not port["IMPLEMENTATION"]:
            problems.append("[PORTS] [[DRIVER]] IMPLEMENTATION is empty: nothing would run")


def _component(
    file: str,
    section: str,
    values: Mapping[str, Any],
    seen: Mapping[str, Any],
    problems: list[str],
) -> ComponentConfig | None:
    """Return the component that a section describes, or None if the section is missing.

    Directories that the section does not set come from `seen`, all values visible to the file.
    """
    own = values.get(section)
    if not isinstance(own, dict):
        problems.append(
            f"[PORTS] names the component {section}, but there is no section [{section}]"
        )
        return None
    where = f"[{section}] "
    class_, name = (word(own, key, problems, where) for key in _COMPONENT_KEYS)
    sub_class, script, module = (
        word(own, key, problems, where, required=False) for key in ("SUB_CLASS", "SCRIPT", "MODULE")
    )
    _level(own, problems, where)
    word_of(own, "NODE_ALLOCATION_MODE", ALLOCATION_MODES, problems, where)
    for key in ("PROCS_PER_NODE", "CPUS_PER_PROC"):
        number = word(own, key, problems, where, required=False)
        if number and not number.isdecimal():
            problems.append(f"{where}{key} = {number}: expected a whole number")
    if not own.get("SCRIPT") and not own.get("MODULE"):
        problems.append(f"{where}needs a SCRIPT (a Python file) or a MODULE")
    inherited: dict[str, Any] = {
        key: seen[key] for key in _INHERITED if key in seen and key not in own
    }
    inherited.setdefault("INPUT_DIR", os.path.dirname(os.path.abspath(file)))
    if "BIN_PATH" not in own and "BIN_DIR" in (found := inherited | own):  # as in IPS-framework
        inherited.setdefault("BIN_PATH", found["BIN_DIR"])
    if script:
        script = _find_script(file, script, inherited | own)
        if not os.path.isfile(script):
            problems.append(f"{where}SCRIPT = {script}: there is no such file")
    return ComponentConfig(section, class_, sub_class, name, script, module, inherited | own)


def _find_script(file: str, script: str, values: Mapping[str, Any]) -> str:
    """Return the absolute path of a SCRIPT.

    It is looked up in the launch directory, beside the simulation file, in BIN_DIR and in BIN_PATH.
    """
    beside = os.path.join(os.path.dirname(os.path.abspath(file)), script)
    programs = [os.path.join(str(values.get(key, "")), script) for key in ("BIN_DIR", "BIN_PATH")]
    found = [path for path in (script, beside, *programs) if os.path.isfile(path)]
    return os.path.abspath(found[0] if found else script)
