"""Are the versions on a node the driver's? Asked there, before scheduler or worker start.

The question travels as source text in the node scripts, since a node need not have this package.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata

__all__ = ["VERSION_MISMATCH", "check_source", "driver_versions"]

VERSION_MISMATCH = 67
"""Exit code of a node's Python whose versions are not the driver's; it is not started again."""

_PACKAGES = ("dask", "distributed", "msgpack", "cloudpickle")


def driver_versions() -> dict[str, str]:
    """Return the versions here of what both sides must agree on, by name, Python first.

    A package without metadata is left out, and so is not compared.
    """
    versions = {"Python": f"{sys.version_info[0]}.{sys.version_info[1]}"}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def check_source(expected: Mapping[str, str], directories: Sequence[str] = ()) -> str:
    """Return Python source that ends the process unless a node is as it should be.

    It has no single quote, so that it may stand between two of them in a script.

    Parameters
    ----------
    expected : mapping of str to str
        As of :func:`driver_versions`; empty: versions are not compared.
    directories : sequence of str
        What must be visible, for containers; the ``--local-directory`` of a worker is added.
    """
    if not expected and not directories:
        return ""
    call = f"_check_node({json.dumps(dict(expected))}, {json.dumps(list(directories))})"
    return inspect.getsource(_check_node) + call.replace("'", "\\u0027") + "\ndel _check_node\n"


def _check_node(expected: dict, directories: list) -> None:
    # Runs on nodes, in any Python 3: no names from outside, and no single quote
    import os
    import sys

    def leave(code: int, sentence: str) -> None:
        node = os.environ.get("IPS_DASK_NODE", "")
        sys.stderr.write(f"ips-dask: node {node}: {sentence}\n")
        sys.exit(code)

    if directories and "--local-directory" in sys.argv:
        directories.append(sys.argv[sys.argv.index("--local-directory") + 1])
    for path in directories:
        if not os.path.isdir(path):
            remedy = "bind it (volumes=), or choose one that containers see"
            leave(66, f"the container does not show the directory {path}; {remedy}")
    here = {"Python": f"{sys.version_info[0]}.{sys.version_info[1]}"}
    if here["Python"] == expected.get("Python"):  # an old one may have no importlib.metadata
        from importlib import metadata

        for name in expected:
            try:
                here.setdefault(name, metadata.version(name))
            except metadata.PackageNotFoundError:  # its import says so, in its own words
                continue
    exact = ("Python", "dask", "distributed")
    differ = [
        name
        for name in expected
        if name in here
        and here[name] != expected[name]
        and (name in exact or here[name].split(".")[0] != expected[name].split(".")[0])
    ]
    if differ:
        theirs = ", ".join(f"{name} {here[name]}" for name in differ)
        ours = ", ".join(f"{name} {expected[name]}" for name in differ)
        remedy = "install the same there, pass python= or container= with one that has them"
        off = "or turn the check off (version_check=False)"
        leave(67, f"{sys.executable} has {theirs}, but the driver has {ours}; {remedy}, {off}")
