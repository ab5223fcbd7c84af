"""Services by which a component runs single programs: launch, wait, kill."""

from __future__ import annotations

from ips_core.services.base import ServicesBase

__all__ = ["TaskServices"]


class TaskServices(ServicesBase):
    """Single tasks."""
