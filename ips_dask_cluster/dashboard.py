"""Where a browser finds the dashboard."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address

import dask
from distributed.utils import format_dashboard_link

__all__ = ["Dashboard"]

_DEFAULT = "{scheme}://{host}:{port}/status"
_EVERYWHERE = ("", "*", "0.0.0.0", "::")


@dataclass(frozen=True)
class Dashboard:
    """Where a scheduler's dashboard listens, and where from one looks at it.

    A link that the user has configured (``distributed.dashboard.link``) is left as it is. Behind
    JupyterHub (``JUPYTERHUB_SERVICE_PREFIX`` is set) the way is jupyter-server-proxy, which reaches
    a port of the notebook's own node as ``proxy/PORT`` and other nodes as ``proxy/HOST:PORT``
    (https://jupyter-server-proxy.readthedocs.io).

    Parameters
    ----------
    listens : str
        Address it listens on; empty, ``*``, ``0.0.0.0`` or ``::`` for all of its node.
    port : int
        Its port.
    address : str
        Address of its node on the network.
    node : str
        Slurm's name of its node; empty for this machine, where the browser is too.
    driver_is_there : bool
        Whether this process runs on that node.
    """

    listens: str
    port: int
    address: str
    node: str
    driver_is_there: bool

    @property
    def host(self) -> str:
        """The host to ask for it."""
        return self.address if self.listens in _EVERYWHERE else self.listens

    @property
    def on_loopback(self) -> bool:
        """Whether only processes of its own node reach it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def link(self, environ: Mapping[str, str] | None = None) -> str:
        """Return its address for a browser.

        Parameters
        ----------
        environ : mapping of str to str, optional
            Default: the environment of this process.
        """
        prefix = _proxy_prefix(os.environ if environ is None else environ)
        if prefix is None:
            return str(format_dashboard_link(self.host, self.port))
        # The loopback of another node needs a tunnel, which ends at the same port of this one
        near = self.driver_is_there or self.on_loopback
        where = str(self.port) if near else f"{self.host}:{self.port}"
        return f"{prefix.rstrip('/')}/proxy/{where}/status"

    def tunnel(self, environ: Mapping[str, str] | None = None) -> str:
        """Return the command without which the link leads nowhere; empty where none is needed.

        It is for the browser's machine; behind JupyterHub, for the notebook's.

        Parameters
        ----------
        environ : mapping of str to str, optional
            Default: the environment of this process.
        """
        environ = os.environ if environ is None else environ
        proxied = _proxy_prefix(environ) is not None and self.driver_is_there
        if not self.node or not self.on_loopback or proxied or _is_configured():
            return ""
        return f"ssh -N -L {self.port}:127.0.0.1:{self.port} {self.node}"


def _is_configured() -> bool:
    return bool(dask.config.get("distributed.dashboard.link") != _DEFAULT)


def _proxy_prefix(environ: Mapping[str, str]) -> str | None:
    return None if _is_configured() else environ.get("JUPYTERHUB_SERVICE_PREFIX")
