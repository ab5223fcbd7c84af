"""Define IPS-framework's exceptions under its names, so that ``except`` clauses work.

Each is the error that this package raises for the same reason.
"""

from __future__ import annotations

from ips_core.errors import (
    BadResourceRequestException,
    ConfigError,
    GPUResourceRequestMismatchException,
    IncompleteCallException,
    InsufficientResourcesException,
    IPSError,
    ResourceRequestMismatchException,
    ResourceRequestUnequalPartitioningException,
)

__all__ = [
    "BadResourceRequestException",
    "BlockedMessageException",
    "GPUResourceRequestMismatchException",
    "IncompleteCallException",
    "InsufficientResourcesException",
    "InvalidResourceSettingsException",
    "ResourceRequestMismatchException",
    "ResourceRequestUnequalPartitioningException",
]

InvalidResourceSettingsException = ConfigError


class BlockedMessageException(IPSError):
    """Never raised here: services wait where IPS-framework raises it."""
