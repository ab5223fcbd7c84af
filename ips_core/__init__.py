"""Provide the services layer of the Integrated Plasma Simulator.

Through it, drivers and components call each other, launch tasks and fill task pools. Names that
need heavy imports are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ips_core.component import Component
from ips_core.errors import IPSError, TaskError

if TYPE_CHECKING:
    from ips_core.framework import Framework
    from ips_core.log.simulation_log import read_log
    from ips_core.services import ServicesProxy
    from ips_core.tasks.task import Task

__all__ = ["Component", "Framework", "IPSError", "ServicesProxy", "Task", "TaskError", "read_log"]

_LAZY = {
    "Framework": "ips_core.framework",
    "ServicesProxy": "ips_core.services",
    "Task": "ips_core.tasks.task",
    "read_log": "ips_core.log.simulation_log",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
