"""Render the scripts of the steps from templates; callers quote every value for the shell."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from string import Template

__all__ = ["call_source", "render", "words"]


def words(items: Iterable[object]) -> str:
    """Return items as words of a shell command, quoted where necessary."""
    return shlex.join(str(item) for item in items)


def render(name: str, values: Mapping[str, str], directory: Path | None = None) -> str:
    """Return a template, such as ``"worker.sh"``, with its values filled in.

    The values are already quoted for the shell. ``directory`` has a site's own templates; the
    default is the package's. Raises ``KeyError`` if the template names a value that is not given,
    and ``FileNotFoundError`` if the site's directory lacks the template.
    """
    folder = directory or resources.files("ips_dask_cluster") / "templates"
    return Template((folder / name).read_text(encoding="utf-8")).substitute(values)


def call_source(function: Callable[..., None], *arguments: object) -> str:
    """Return Python source that calls a function in a process that may lack this package.

    The function has no single quote in its text and uses no name from outside; its arguments are
    written as JSON. So the source can stand between two single quotes of a script.
    """
    given = ", ".join(map(json.dumps, arguments)).replace("'", "\\u0027")
    name = function.__name__
    return f"{inspect.getsource(function)}{name}({given})\ndel {name}\n"
