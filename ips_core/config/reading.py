"""Parse files in ConfigObj's syntax and replace every $NAME.

The other modules of this package check what the values mean.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from configobj import ConfigObj, ConfigObjError, MissingInterpolationOption, Section
from configobj import InterpolationError as ConfigObjInterpolationError

from ips_core.errors import ConfigError

__all__ = ["file_names", "environment", "interpolated", "parse", "word", "word_of"]


def environment() -> dict[str, str]:
    """Return the environment variables that a file may refer to.

    Variables with any of ``{}()$`` in their values are left out. PWD is the current directory: the
    inherited PWD is wrong if the program was started in another directory than the shell's.
    """
    usable = {name: value for name, value in os.environ.items() if not set(value) & set("{}()$")}
    return usable | {"PWD": os.getcwd()}


def parse(file: str) -> ConfigObj:
    """Return a parsed file; ConfigObj replaces names when a value is read.

    Raise ConfigError if the file cannot be read or parsed.
    """
    if not Path(file).is_file():
        found = "this is a directory" if Path(file).is_dir() else "there is no such file"
        raise ConfigError(file, [found])
    try:
        return ConfigObj(file, interpolation="template", file_error=True, encoding="utf-8")
    except ConfigObjError as error:
        # Report only the first error: ConfigObj parses on, and later errors often follow from it.
        first, *_ = getattr(error, "errors", None) or [error]
        raise ConfigError(file, [str(first)]) from None
    except UnicodeDecodeError:
        raise ConfigError(file, ["this is no text file (in UTF-8)"]) from None
    except OSError as error:
        raise ConfigError(file, [f"cannot be read: {error}"]) from None


def interpolated(parsed: ConfigObj, others: Iterable[Mapping[str, Any]]) -> tuple[dict, list[str]]:
    """Return the values of a file with every $NAME replaced, and a problem for each that fails.

    Names that the file does not set are looked up in `others`, the first mapping first. `parsed` is
    changed.
    """
    own_keys = list(parsed)
    for source in others:
        for key, value in source.items():
            if key not in parsed and not isinstance(value, Mapping):
                # Escape $: only the file itself may refer to names.
                parsed[key] = value if isinstance(value, list) else str(value).replace("$", "$$")
    unreadable: dict[str, str] = {}
    values = _plain({key: parsed[key] for key in own_keys if _readable(parsed, key, unreadable)})
    return values, [f"{where}: {problem}" for problem, where in unreadable.items()]


def _readable(section: Section, key: str, problems: dict[str, str]) -> bool:
    """Return whether a value, or every value of a section, can be interpolated.

    `problems` gets each cause with the first key where it appears.
    """
    try:
        value = section[key]
    except MissingInterpolationOption as error:
        name = str(error).partition('"')[2].partition('"')[0]
        problem = f"${name} is set neither in the file nor in the environment"
    except ConfigObjInterpolationError as error:
        problem = str(error)
    except TypeError:  # ConfigObj interpolates only text
        problem = "a $NAME in it is a list or a section"
    else:
        if not isinstance(value, Section):
            return True
        # A list, so that all values are checked.
        found = [_readable(value, inner, problems) for inner in value]
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
    """Return a value that must be one text, or "" and append a problem.

    `where` precedes the key in the problem. A `required` value may be neither missing nor empty.
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
    """Return the entry of `words` that a value equals in any case; "" if it is unset or invalid."""
    value = word(values, key, problems, where, required=False)
    listed = {each.lower(): each for each in words}
    if value and value.lower() not in listed:
        expected = ", ".join(listed.values())
        problems.append(f"{where}{key} = {value}: expected one of {expected}")
    return listed.get(value.lower(), "")


def file_names(value: Any) -> list[str]:
    """Return file names as a list of strings; a text is split at blanks."""
    return (value or "").split() if isinstance(value, str | None) else [str(name) for name in value]
