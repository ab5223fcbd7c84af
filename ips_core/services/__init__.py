"""What a component may ask of the framework: ``ServicesProxy``, a facade without policy."""

from ips_core.services.proxy import ServicesProxy

__all__ = ["ServicesProxy"]
