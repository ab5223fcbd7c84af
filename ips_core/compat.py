"""``import ipsframework`` gives this package.

Components written for IPS-framework say ``from ipsframework import Component``. Inside a
simulation that works; elsewhere after :func:`install_ipsframework_alias`.
"""

from __future__ import annotations

import sys
from types import ModuleType

import ips_core
from ips_core import component, errors
from ips_core.version import ips_core_version

__all__ = ["install_ipsframework_alias"]


class _Alias(ModuleType):
    """A module whose names are those of ``ips_core``, the heavy ones on first use."""

    def __getattr__(self, name: str) -> object:
        return getattr(ips_core, name)


def install_ipsframework_alias() -> None:
    """Make ``ipsframework`` and its submodules importable names of this package.

    An installed IPS-framework is hidden from this process by it.
    """
    package = _Alias("ipsframework", "IPS-framework's names, as ips_core has them")
    package.__dict__.update(__path__=[], __version__=ips_core_version())
    submodules = {"component": component, "ipsExceptions": errors}
    for name, module in submodules.items():
        setattr(package, name, module)
        sys.modules[f"ipsframework.{name}"] = module
    sys.modules["ipsframework"] = package
