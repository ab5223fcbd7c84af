"""Render the scripts of the steps from templates; callers quote every value for the shell."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from string import Template

__all__ = ["render", "words"]


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
