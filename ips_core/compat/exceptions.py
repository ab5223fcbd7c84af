"""IPS-framework's exceptions under their own names, so that ``except`` clauses keep catching.

Each is the error that is raised here for the same reason.
"""

from __future__ import annotations

from ips_core import errors

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


def _ours(name: str) -> type[Exception]:
    """Return the error of that name, with or without the suffix; else the one for what can never
    be had.
    """
    for known in (name, name.removesuffix("Exception")):
        if known in errors.__all__:
            found: type[Exception] = getattr(errors, known)
            return found
    return errors.BadResourceRequest


class BlockedMessageException(errors.IPSError):
    """Never raised: what cannot be had yet is waited for."""


BadResourceRequestException = errors.BadResourceRequest
GPUResourceRequestMismatchException = _ours("GPUResourceRequestMismatchException")
IncompleteCallException = errors.IncompleteCallException
InsufficientResourcesException = errors.InsufficientResources
InvalidResourceSettingsException = errors.ConfigError
ResourceRequestMismatchException = _ours("ResourceRequestMismatchException")
ResourceRequestUnequalPartitioningException = _ours("ResourceRequestUnequalPartitioningException")
