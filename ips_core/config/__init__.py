"""Simulation and platform files: ConfigObj text in, frozen and checked values out.

Nothing is started or created here. All problems of a file are reported at once, each with its
section and key.
"""

from ips_core.config.platform import overridden, read_platform
from ips_core.config.several import read_simulations, shared_values
from ips_core.config.simulation import read_simulation
from ips_core.config.values import ComponentConfig, PlatformConfig, SimulationConfig

__all__ = [
    "ComponentConfig",
    "PlatformConfig",
    "SimulationConfig",
    "overridden",
    "read_platform",
    "read_simulation",
    "read_simulations",
    "shared_values",
]
