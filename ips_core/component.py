"""Define ``Component``, the class that users subclass.

This module imports nothing of ``ips_core``: a bound method of a component travels by value to
workers where this package is not installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Component"]


class Component:
    """Base class of drivers and other components.

    The methods ``init``, ``restart``, ``step``, ``finalize``, ``checkpoint`` and ``terminate`` do
    nothing here; a component overrides those that it needs. The framework calls ``init``, ``step``
    and ``finalize`` of the INIT and DRIVER ports with ``timestamp`` 0; a driver calls the other
    components with the simulated time.

    Parameters
    ----------
    services : ServicesProxy
        Services of the framework that the component may call.
    config : mapping
        Section of the component in the simulation file; each key becomes an attribute of the same
        name. Values are strings, lists of strings or, for subsections, dicts.

    Notes
    -----
    The constructor runs in the directory that the simulation was launched from; all other methods
    run in the component's work directory. A copy (``copy.copy``) and the instance that a bound
    method brings to a Dask worker have the same attributes, but their ``services`` are None.
    """

    def __init__(self, services: Any, config: Mapping[str, Any]) -> None:
        self.__services = services
        self.__config = config
        self.__start_time = 0.0
        self.__call: tuple[int, str, tuple[Any, ...]] = (0, "", ())
        for key, value in config.items():
            setattr(self, key, value)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_Component__services"] = None
        return state

    def __copy__(self) -> Component:
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__getstate__())
        return copied

    def _begin_call(self, call_id: int, method: str, args: tuple[Any, ...], now: float) -> None:
        self.__call = (call_id, method, args)
        self.__start_time = now

    @property
    def services(self) -> Any:
        """Services of the framework; None in a copy and on a worker."""
        return self.__services

    @property
    def config(self) -> Mapping[str, Any]:
        """Section of the component in the simulation file."""
        return self.__config

    @property
    def component_id(self) -> Any:
        """ID of the component, as text ``simulation@class@number``; None without services."""
        return self.__services.component_id if self.__services else None

    @property
    def start_time(self) -> float:
        """Time of the latest method call, in seconds since the epoch; 0 before the first."""
        return self.__start_time

    @property
    def call_id(self) -> int:
        """Number of the latest method call; 0 before the first."""
        return self.__call[0]

    @property
    def method_name(self) -> str:
        """Name of the latest method called; empty before the first call."""
        return self.__call[1]

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments of the latest method call."""
        return self.__call[2]

    def init(self, timestamp: float = 0.0, **keywords: Any) -> Any:
        """Prepare the component; called once, before the first step."""

    def restart(self, timestamp: float = 0.0, **keywords: Any) -> Any:
        """Prepare from restart files; a driver calls this instead of ``init`` in a restart."""

    def step(self, timestamp: float = 0.0, **keywords: Any) -> Any:
        """Do the work of one step."""

    def finalize(self, timestamp: float = 0.0, **keywords: Any) -> Any:
        """Clean up; called once, after the last step."""

    def checkpoint(self, timestamp: float = 0.0, **keywords: Any) -> Any:
        """Save the files that ``restart`` needs."""

    def terminate(self, status: int) -> None:
        """Release resources; called when the component's process ends in order.

        Parameters
        ----------
        status : int
            0 if the simulation succeeded, else 1.
        """
