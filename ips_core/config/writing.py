"""Simulation files that components write: a sub-workflow's, and a dynamic simulation's.

A file is read as it stands, completed, and written beside the component that asked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configobj import ConfigObj, ConfigObjError, Section

from ips_core.errors import ConfigError

__all__ = ["absolute_scripts", "change", "complete", "direct_inputs", "read_raw", "write"]


def read_raw(file: str) -> ConfigObj:
    """Return a simulation file without any $NAME replaced.

    Raises
    ------
    ConfigError
        It is not there, or no such file.
    """
    if not Path(file).is_file():
        raise ConfigError(file, ["there is no such file"])
    try:
        return ConfigObj(file, interpolation=False, file_error=True, encoding="utf-8")
    except ConfigObjError as error:
        raise ConfigError(file, [str(error)]) from None
    except UnicodeDecodeError:
        raise ConfigError(file, ["this is no text file (in UTF-8)"]) from None
    except OSError as error:
        raise ConfigError(file, [f"cannot be read: {error}"]) from None


def complete(
    config: ConfigObj, parent: Mapping[str, Any], parent_name: str, name: str, directory: str
) -> None:
    """Make a simulation file one of a sub-workflow.

    Parameters
    ----------
    config : ConfigObj
        As :func:`read_raw` returned it; changed in place.
    parent : mapping
        The top level of the simulation that it becomes part of; its single values fill in what is
        missing.
    parent_name, name : str
        Names of that simulation and of the sub-workflow.
    directory : str
        Where the sub-workflow's own SIM_ROOT is to be.
    """
    for key, value in parent.items():
        if key not in config and not isinstance(value, Mapping):
            config[key] = _literal(value)
    config.setdefault("INPUT_DIR", _literal(_folder(config)))
    config["SIM_NAME"] = f"{parent_name}::{name}"
    config["SIM_ROOT"] = _literal(os.path.join(directory, name))


def absolute_scripts(config: ConfigObj, launch_directory: str) -> None:
    """Name scripts by their whole paths that are found beside the file as it was read.

    Those in the launch directory come first.
    """
    for section in config.sections:
        script = config[section].get("SCRIPT")
        beside = os.path.join(_folder(config), script) if isinstance(script, str) else ""
        launched = os.path.join(launch_directory, str(script))
        if script and not os.path.exists(launched) and os.path.isfile(beside):
            config[section]["SCRIPT"] = _literal(beside)


def change(config: ConfigObj, override: Mapping[str, Any]) -> None:
    """Change values of a simulation file: those of a section by a mapping, else the top level's."""
    for key, value in override.items():
        if isinstance(value, Mapping):
            section = config.setdefault(key, {})
            section.update({name: _text(each) for name, each in value.items()})
        else:
            config[key] = _text(value)


def direct_inputs(config: ConfigObj, directories: Mapping[str, str]) -> None:
    """Set where components find their inputs; ``directories`` are by section."""
    for section, directory in directories.items():
        config[section]["INPUT_DIR"] = _literal(directory)


def write(config: ConfigObj, directory: str) -> str:
    """Write a simulation file into a directory and return its path.

    It has the name of the file that it was read from; of that itself nothing is overwritten.
    """
    source = Path(config.filename)
    target = Path(directory, source.name)
    if target.exists() and target.samefile(source):
        target = target.with_name(f"{source.stem}_{_slug(config)}{source.suffix}")
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    with open(beside, "wb") as file:
        config.write(file)
    os.replace(beside, target)
    return str(target)


def _folder(config: ConfigObj) -> str:
    return os.path.dirname(os.path.abspath(config.filename))


def _slug(config: Section) -> str:
    return str(config.get("SIM_NAME", "copy")).rpartition("::")[2] or "copy"


def _literal(value: Any) -> Any:
    """Return a value in which no $ is taken for the begin of a name."""
    if isinstance(value, list):
        return [_literal(each) for each in value]
    return _text(value).replace("$", "$$") if isinstance(value, str) else _text(value)


def _text(value: Any) -> Any:
    return value if isinstance(value, (str, list)) else str(value)
