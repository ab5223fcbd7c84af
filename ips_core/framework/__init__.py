"""Start components, route their requests, notice their deaths and shut down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ips_core.framework.framework import Framework

__all__ = ["Framework"]


def __getattr__(name: str) -> Any:
    # Each component's process imports its main program from this package, and never the framework.
    if name == "Framework":
        from ips_core.framework.framework import Framework

        return Framework
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
