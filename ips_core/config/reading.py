"""Reading a file of ConfigObj's syntax, with every $NAME replaced.

What the values mean is the business of the modules beside this one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from configobj import ConfigObj, ConfigObjError, MissingInterpolationOption, Section
from configobj import InterpolationError as ConfigObjInterpolationError

from ips_core.errors import ConfigError

__all__ = ["environment", "interpolated", "parse", "word", "word_of"]


def environment() -> dict[str, str]:
    """Return the environment variables that a config may refer to.

    PWD is what the shell said at login when a program was started with another directory; here
    it is the directory that the simulation is launched from.
    """
    usable = {name: value for name, value in os.environ.items() if not set(value) & set("{}()$")}
    return usable | {"PWD": os.getcwd()}


def parse(file: str) -> ConfigObj:
    """Return a file as ConfigObj has it; names are replaced when values are read.

    Raises
    ------
    ConfigError
        It cannot be read, or is no such file.
    """
    if not Path(file).is_file():
        found = "this is a directory" if Path(file).is_dir() else "there is no such file"
        raise ConfigError(file, [found])
    try:
        return ConfigObj(file, interpolation="template", file_error=True, encoding="utf-8")
    except ConfigObjError as error:
        # The first one only: ConfigObj reads on, and what it finds often follows from that
        first, *_ = getattr(error, "errors", None) or [error]
        raise ConfigError(file, [str(first)]) from None
    except UnicodeDecodeError:
        raise ConfigError(file, ["this is no text file (in UTF-8)"]) from None
    except OSError as error:
        raise ConfigError(file, [f"cannot be read: {error}"]) from None


def interpolated(parsed: ConfigObj, others: Iterable[Mapping[str, Any]]) -> tuple[dict, list[str]]:
    """Return the values of a file with every $NAME replaced, and the problems of those that fail.

    Parameters
    ----------
    parsed : ConfigObj
        The file; it is changed.
    others : iterable of mapping
        Where names are looked up that the file does not set, the most important first.
    """
    own_keys = list(parsed)
    for source in others:
        for key, value in source.items():
            if key not in parsed and not isinstance(value, Mapping):
                # a $ in it stands for itself: only the file has names to be replaced
                parsed[key] = value if isinstance(value, list) else str(value).replace("$", "$$")
    unreadable: dict[str, str] = {}
    values = _plain({key: parsed[key] for key in own_keys if _readable(parsed, key, unreadable)})
    return values, [f"{where}: {problem}" for problem, where in unreadable.items()]


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


def _plain(section: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _plain(value) if isinstance(value, Mapping) else value
        for key, value in section.items()
    }


def word(
    values: Mapping[str, Any],
    key: str,
    problems: list[str],
    where: str = "",
    required: bool = True,
) -> str:
    """Return a value that is one text; note what else it is.

    Parameters
    ----------
    values : mapping
        A file or a section.
    key : str
        Which value.
    problems : list of str
        Gets a sentence if there is something wrong.
    where : str
        What stands before the key in that sentence.
    required : bool
        Whether it may neither be missing nor empty.
    """
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


def word_of(
    values: Mapping[str, Any],
    key: str,
    words: Iterable[str],
    problems: list[str],
    where: str = "",
) -> str:
    """Return a value that is one of some words in any case, as listed; empty if it is not set."""
    value = word(values, key, problems, where, required=False)
    listed = {each.lower(): each for each in words}
    if value and value.lower() not in listed:
        expected = ", ".join(listed.values())
        problems.append(f"{where}{key} = {value}: expected one of {expected}")
    return listed.get(value.lower(), "")
