"""``ServicesProxy``: all groups of services as one object."""

from __future__ import annotations

from ips_core.services.calls import CallServices
from ips_core.services.configuration import ConfigurationServices
from ips_core.services.logging import LoggingServices
from ips_core.services.pools import PoolServices

__all__ = ["ServicesProxy"]


class ServicesProxy(CallServices, ConfigurationServices, LoggingServices, PoolServices):
    """What a component may ask of the framework, as ``self.services``."""
