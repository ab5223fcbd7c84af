"""Render the scripts of the steps from templates; every value is quoted for the shell first."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from string import Template

__all__ = ["render", "words"]


def words(items: Iterable[object]) -> str:
    """Return the items as words of a shell command, each quoted where it needs to be."""
    return shlex.join(str(item) for item in items)


def render(name: str, values: Mapping[str, str], directory: Path | None = None) -> str:
    """Return a template with its values filled in.

    Parameters
    ----------
    name : str
        File name, such as ``"worker.sh"``.
    values : mapping of str to str
        One for every ``$name`` of the template, quoted for the shell.
    directory : pathlib.Path, optional
        Where a site keeps its own templates. Default: the package's.

    Raises
    ------
    KeyError
        The template names a value that is not given.
    FileNotFoundError
        The site's directory lacks the template.
    """
    folder = directory or resources.files("ips_dask_cluster") / "templates"
    return Template((folder / name).read_text(encoding="utf-8")).substitute(values)
