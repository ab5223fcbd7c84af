"""Look up the installed version."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["ips_core_version"]


def ips_core_version() -> str:
    """Return the version of the installed package, or ``unknown`` for a bare checkout."""
    try:
        return version("ips-dask-cluster")
    except PackageNotFoundError:
        return "unknown"
