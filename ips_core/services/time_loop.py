"""Services about the time that is simulated."""

from __future__ import annotations

from ips_core.services.base import ServicesBase

__all__ = ["TimeLoopServices"]


class TimeLoopServices(ServicesBase):
    """The time loop and its present point."""
