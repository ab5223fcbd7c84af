"""Read simulation and platform files into frozen, checked values.

Reading starts and creates nothing. A ConfigError lists every problem found in a file, each with its
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
