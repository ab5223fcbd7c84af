"""Write simulation files of sub-workflows and dynamic simulations.

The services read a file without interpolation, complete it, and write it to the work directory of
the component that called them.
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
    """Return a simulation file with every $NAME left as it is.

    Raise ConfigError if the file is missing or cannot be read or parsed.
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
    """Turn a simulation file into that of a sub-workflow, in place.

    Values that the file does not set come from the top level of `parent`; SIM_NAME becomes
    ``parent_name::name`` and SIM_ROOT a folder ``name`` in `directory`.
    """
    for key, value in parent.items():
        if key not in config and not isinstance(value, Mapping):
            config[key] = _literal(value)
    config.setdefault("INPUT_DIR", _literal(_folder(config)))
    config["SIM_NAME"] = f"{parent_name}::{name}"
    config["SIM_ROOT"] = _literal(os.path.join(directory, name))


def absolute_scripts(config: ConfigObj, launch_directory: str) -> None:
    """Make each SCRIPT absolute that is beside the file and not in the launch directory."""
    for section in config.sections:
        script = config[section].get("SCRIPT")
        beside = os.path.join(_folder(config), script) if isinstance(script, str) else ""
        launched = os.path.join(launch_directory, str(script))
        if script and not os.path.exists(launched) and os.path.isfile(beside):
            config[section]["SCRIPT"] = _literal(beside)


def change(config: ConfigObj, override: Mapping[str, Any]) -> None:
    """Override values of a simulation file, in place; a mapping overrides values of a section."""
    for key, value in override.items():
        if isinstance(value, Mapping):
            section = config.setdefault(key, {})
            section.update({name: _text(each) for name, each in value.items()})
        else:
            config[key] = _text(value)


def direct_inputs(config: ConfigObj, directories: Mapping[str, str]) -> None:
    """Set INPUT_DIR of each section in `directories`, in place."""
    for section, directory in directories.items():
        config[section]["INPUT_DIR"] = _literal(directory)


def write(config: ConfigObj, directory: str) -> str:
    """Write a simulation file under its own name into a directory and return its path.

    If that would overwrite the file that was read, the new name also contains SIM_NAME.
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
    """Return a value with each $ escaped, so that ConfigObj reads it literally."""
    if isinstance(value, list):
        return [_literal(each) for each in value]
    return _text(value).replace("$", "$$") if isinstance(value, str) else _text(value)


def _text(value: Any) -> Any:
    return value if isinstance(value, (str, list)) else str(value)
