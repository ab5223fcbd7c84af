"""Where a browser finds the dashboard."""

from __future__ import annotations

import os
from collections.abc import Mapping

import dask
from distributed.utils import format_dashboard_link

__all__ = ["dashboard_link"]

_DEFAULT = "{scheme}://{host}:{port}/status"


def dashboard_link(
    host: str, port: int, driver_is_there: bool, environ: Mapping[str, str] | None = None
) -> str:
    """Return the address of a dashboard, for a terminal or behind JupyterHub.

    A link that the user has configured (``distributed.dashboard.link``) is left as it is. Behind
    JupyterHub the address goes through jupyter-server-proxy, which reaches a port of the notebook's
    own node as ``proxy/PORT`` and others as ``proxy/HOST:PORT``
    (https://jupyter-server-proxy.readthedocs.io).

    Parameters
    ----------
    host : str
        Where it listens.
    port : int
        Its port.
    driver_is_there : bool
        Whether this process runs on the scheduler's node.
    environ : mapping of str to str, optional
        Default: the environment of this process.
    """
    environ = os.environ if environ is None else environ
    prefix = environ.get("JUPYTERHUB_SERVICE_PREFIX")
    if prefix is None or dask.config.get("distributed.dashboard.link") != _DEFAULT:
        return str(format_dashboard_link(host, port))
    where = str(port) if driver_is_there else f"{host}:{port}"
    return f"{prefix.rstrip('/')}/proxy/{where}/status"
