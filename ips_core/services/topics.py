"""Services by which components tell each other events: publish and subscribe."""

from __future__ import annotations

from ips_core.services.base import ServicesBase

__all__ = ["TopicServices"]


class TopicServices(ServicesBase):
    """Topics."""
