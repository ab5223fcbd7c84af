"""The class ``Component`` and nothing else.

It imports nothing of ours: a bound method of a component travels by value to workers that do not
have this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Component"]


class Component:
    """Base of drivers and other components.

    Parameters
    ----------
    services : ServicesProxy
        What the component may ask of the framework.
    config : mapping
        The component's section of the simulation file; each key becomes an attribute of the same
        name. Values are strings, lists of strings or, for subsections, dicts.

    Notes
    -----
    The constructor runs in the directory the simulation was launched from, all other methods in
    the component's work directory. A copy (``copy.copy``), and what reaches a Dask worker of a
    bound method, has the same attributes, but its ``services`` are None.
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
        """What the component may ask of the framework; None in a copy and on a worker."""
        return self.__services

    @property
    def config(self) -> Mapping[str, Any]:
        """The component's section of the simulation file."""
        return self.__config

    @property
    def component_id(self) -> Any:
        """Who this is: ``simulation@class@number``."""
        return self.__services.component_id if self.__services else None

    @property
    def start_time(self) -> float:
        """When the method that runs now was called, in seconds since the epoch."""
        return self.__start_time

    @property
    def call_id(self) -> int:
        """Number of the call that runs now."""
        return self.__call[0]

    @property
    def method_name(self) -> str:
        """Name of the method that runs now."""
        return self.__call[1]

    @property
    def args(self) -> tuple[Any, ...]:
        """Arguments of the method that runs now."""
        return self.__call[2]

    def init(self, timestamp: float = 0.0, **keywords: Any) -> Any:
        """Prepare; called once, before the first step."""

    def restart(self, timestamp: float = 0.0, **keywords: Any) -> Any:
        """Prepare from restart files; called instead of ``init`` in a restarted simulation."""

    def step(self, timestamp: float = 0.0, **keywords: Any) -> Any:
        """Do the work."""

    def finalize(self, timestamp: float = 0.0, **keywords: Any) -> Any:
        """Tidy up; called once, after the last step."""

    def checkpoint(self, timestamp: float = 0.0, **keywords: Any) -> Any:
        """Save what ``restart`` needs."""

    def terminate(self, status: int) -> None:
        """Leave; called at the end of the simulation, whatever its outcome.

        Parameters
        ----------
        status : int
            0 after a simulation that went well, else 1.
        """
