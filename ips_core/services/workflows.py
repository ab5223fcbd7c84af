"""Services by which a component runs simulations of its own."""

from __future__ import annotations

from ips_core.services.base import ServicesBase

__all__ = ["WorkflowServices"]


class WorkflowServices(ServicesBase):
    """Sub-workflows and dynamic simulations."""
