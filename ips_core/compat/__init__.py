"""Make ``import ipsframework`` give this package.

Components written for IPS-framework have ``from ipsframework import Component``. This works inside
a simulation and, elsewhere, after :func:`install_ipsframework_alias`. A name with a counterpart
here gives the counterpart; for any other name of IPS-framework, the ImportError says what to use
instead.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

from ips_core.compat.names import INSTEAD, NAMES

__all__ = ["install_ipsframework_alias"]


class _Alias(ModuleType):
    """A module of IPS-framework; it looks its names up in this package on first use."""

    def __getattr__(self, name: str) -> object:
        _, _, submodule = self.__name__.partition(".")
        if name in NAMES[submodule]:
            module, _, attribute = NAMES[submodule][name].partition(":")
            return getattr(import_module(module), attribute)
        if name in INSTEAD:
            # `from ... import` turns an AttributeError into an ImportError without the hint.
            raise ImportError(f"ips_core has no {self.__name__}.{name}: {INSTEAD[name]}")
        raise AttributeError(f"ips_core has no {self.__name__}.{name}, neither has IPS-framework")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *NAMES[self.__name__.partition(".")[2]]})


def install_ipsframework_alias() -> None:
    """Make ``ipsframework`` and its submodules importable names of this package.

    The alias hides an installed IPS-framework from this process.
    """
    package = _Alias("ipsframework", "IPS-framework's names, as ips_core has them")
    package.__dict__["__path__"] = []
    sys.modules["ipsframework"] = package
    for name in filter(None, NAMES):
        module = _Alias(f"ipsframework.{name}", f"ipsframework.{name}, as ips_core has it")
        sys.modules[module.__name__] = module
        setattr(package, name, module)
