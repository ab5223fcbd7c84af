"""Services that write events of the component's own into the simulation log."""

from __future__ import annotations

from ips_core.services.base import ServicesBase

__all__ = ["PortalServices"]


class PortalServices(ServicesBase):
    """Events for the log and the portal."""
