"""Services that save what a simulation needs to be restarted, and get it back."""

from __future__ import annotations

from ips_core.services.base import ServicesBase

__all__ = ["RestartServices"]


class RestartServices(ServicesBase):
    """Checkpoints and restart files."""
