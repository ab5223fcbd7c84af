"""IPS-framework's exceptions under their own names, so that ``except`` clauses keep catching.

Each is the error that is raised here for the same reason.
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
    """Never raised: what cannot be had yet is waited for."""
