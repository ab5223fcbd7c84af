"""Run simulations: start components, route their requests, notice deaths and shut down."""

from ips_core.framework.framework import Framework

__all__ = ["Framework"]
