"""Services that copy input, output and state files."""

from __future__ import annotations

from ips_core.services.base import ServicesBase

__all__ = ["StagingServices"]


class StagingServices(ServicesBase):
    """Input, output and state files."""
