"""Compare the versions on a node with the driver's, before the scheduler or a worker starts there.

The check is sent as source text in the node scripts, since a node may lack this package.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import metadata

from ips_dask_cluster.scripts import call_source

__all__ = ["VERSION_MISMATCH", "check_source", "driver_versions"]

VERSION_MISMATCH = 67
"""Exit code of a node's Python whose versions differ from the driver's; nothing restarts it."""

_PACKAGES = ("dask", "distributed", "msgpack", "cloudpickle")


def driver_versions() -> dict[str, str]:
    """Return the driver's versions, by name, of Python and the packages that must agree.

    A package without metadata is left out and not compared.
    """
    versions = {"Python": f"{sys.version_info[0]}.{sys.version_info[1]}"}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def check_source(expected: Mapping[str, str], directories: Sequence[str] = ()) -> str:
    """Return Python source that ends the process if a node's versions or directories are wrong.

    ``expected`` are versions as of :func:`driver_versions`; if empty, versions are not compared.
    ``directories`` must be visible, which a container may prevent; a worker's ``--local-directory``
    is checked too. The source has no single quote, so that a script can put it between two of them.
    """
    if not expected and not directories:
        return ""
    return call_source(_check_node, dict(expected), list(directories))


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
