"""Offer the framework's services to components as ``ServicesProxy``, a facade without policy."""

from ips_core.services.proxy import ServicesProxy

__all__ = ["ServicesProxy"]
