"""The framework: leads simulations and answers their components."""

from ips_core.framework.framework import Framework

__all__ = ["Framework"]
