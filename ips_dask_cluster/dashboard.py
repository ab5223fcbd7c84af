"""Find the address at which a browser reaches the dashboard."""

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
    """The place where a scheduler's dashboard listens, and the links to it.

    A link that the user has configured (``distributed.dashboard.link``) is left unchanged. Under
    JupyterHub (``JUPYTERHUB_SERVICE_PREFIX`` is set) links use jupyter-server-proxy, which reaches
    a port of the notebook's own node as ``proxy/PORT`` and other nodes as ``proxy/HOST:PORT``
    (https://jupyter-server-proxy.readthedocs.io).
    """

    #: Address that it listens on; empty, ``*``, ``0.0.0.0`` or ``::`` for all of its node.
    listens: str
    port: int
    #: Address of its node on the network.
    address: str
    #: Slurm's name of its node; empty for this machine, where the browser runs too.
    node: str
    #: Whether this process runs on that node.
    driver_is_there: bool

    @property
    def host(self) -> str:
        """The host name or address under which other programs reach the dashboard."""
        return self.address if self.listens in _EVERYWHERE else self.listens

    @property
    def on_loopback(self) -> bool:
        """Whether only processes of its own node reach the dashboard."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def link(self, environ: Mapping[str, str] | None = None) -> str:
        """Return the dashboard's address for a browser; ``environ`` defaults to this process's."""
        prefix = _proxy_prefix(os.environ if environ is None else environ)
        if prefix is None:
            return str(format_dashboard_link(self.host, self.port))
        # The loopback of another node needs a tunnel, which begins at the same port of this node
        near = self.driver_is_there or self.on_loopback
        where = str(self.port) if near else f"{self.host}:{self.port}"
        return f"{prefix.rstrip('/')}/proxy/{where}/status"

    def tunnel(self, environ: Mapping[str, str] | None = None) -> str:
        """Return the ssh command that the link needs to work; empty if the link needs none.

        Run the command on the browser's machine, or under JupyterHub on the notebook's.
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
