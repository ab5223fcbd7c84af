"""Define the pipe between the framework and a component's process, and its messages.

Arguments and results travel packed: the framework routes them without unpacking, so that classes of
a component's script need not exist in the framework.
"""

from __future__ import annotations

import os
import select
import threading
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

import cloudpickle

from ips_dask_cluster.by_value import dumps

__all__ = [
    "PIPE_CLOSED",
    "Broadcast",
    "Channel",
    "ComponentID",
    "Emit",
    "Failure",
    "Invoke",
    "Reply",
    "Request",
    "Returned",
    "Start",
    "Terminate",
    "pack",
    "unpack",
]


#: Exit code of a component's process that can no longer send to the framework.
PIPE_CLOSED = os.EX_IOERR


def pack(value: Any) -> bytes:
    """Return a value as bytes; classes of a component's script travel by value."""
    return dumps(value)


def unpack(data: bytes) -> Any:
    """Return the value that :func:`pack` packed."""
    return cloudpickle.loads(data)


@dataclass(frozen=True)
class ComponentID:
    """ID of a component; as text, ``simulation@class@number``.

    Parameters
    ----------
    simulation : str
        Name of the simulation.
    class_name : str
        Name of the component's Python class.
    number : int
        Number of the component in the run, from 1; 0 is the framework.
    """

    simulation: str
    class_name: str
    number: int

    @property
    def root(self) -> str:
        """Simulation that the component ends with; for a sub-workflow, its parent."""
        return self.simulation.partition("::")[0]

    def __str__(self) -> str:
        return f"{self.simulation}@{self.class_name}@{self.number}"

    def get_serialization(self) -> str:
        """Return the text form (IPS-framework's name)."""
        return str(self)

    def get_instance_name(self) -> str:
        """Return the text form (IPS-framework's other name)."""
        return str(self)

    def get_sim_name(self) -> str:
        """Return the name of the simulation."""
        return self.simulation

    def get_class_name(self) -> str:
        """Return the name of the component's Python class."""
        return self.class_name

    def get_seq_num(self) -> int:
        """Return the number of the component."""
        return self.number


@dataclass(frozen=True)
class Failure:
    """An exception on its way: its text, and the traceback for the log.

    ``error`` is the exception itself if the framework raised an IPSError.
    """

    text: str
    traceback: str = ""
    error: Exception | None = None


# -- framework to component --------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """Tell a component's process which component it runs; the first message."""

    #: Number of the constructor's call.
    call_id: int
    component_id: ComponentID
    #: Name in log messages and events, ``CLASS_SUBCLASS_NAME_number``.
    name: str
    #: Section of the simulation file, or ``module:class`` of an internal component.
    section: str
    #: The whole simulation, an ``ips_core.config.SimulationConfig``.
    simulation: Any
    #: Values of the platform file.
    platform: dict[str, Any]
    #: What the simulation may use, an ``ips_core.resources.nodes.Resources``.
    resources: Any
    ports: dict[str, ComponentID]
    #: Where the constructor runs.
    launch_directory: str
    #: Where all other methods run.
    work_directory: str
    #: Portal run id of the simulation.
    run_id: str
    #: Start of the framework, in seconds since the epoch.
    start_time: float
    #: Whether pools skip the tasks that the run before finished.
    resume: bool = False
    #: Whether the simulation was started from a notebook.
    interactive: bool = False


@dataclass(frozen=True)
class Invoke:
    """Call a method; ``payload`` is a packed ``(args, kwargs)``, ``span`` the id of its span."""

    call_id: int
    method: str
    payload: bytes
    span: str = ""


@dataclass(frozen=True)
class Reply:
    """Answer a request."""

    request_id: int
    value: Any = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Terminate:
    """End the process; ``ok`` is whether the simulation succeeded."""

    ok: bool


# -- component to framework --------------------------------------------------------------------


@dataclass(frozen=True)
class Returned:
    """Report the end of a call; ``value`` is packed."""

    call_id: int
    value: bytes = b""
    failure: Failure | None = None


@dataclass(frozen=True)
class Request:
    """Ask the framework for a service; the :class:`Reply` may follow much later."""

    request_id: int
    service: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Emit:
    """Send events for the simulation log, in their order."""

    events: tuple[dict[str, Any], ...] = field(repr=False)


@dataclass(frozen=True)
class Broadcast:
    """Send a message to every component, through the framework."""

    topic: str
    body: Any


class Channel:
    """One end of a pipe; several threads of a process may send on it.

    `handle` is the file descriptor of a connected socket; the channel owns it.
    """

    def __init__(self, handle: int) -> None:
        self._connection = Connection(handle)
        self._sending = threading.Lock()

    def fileno(self) -> int:
        """Return the file descriptor, for use with ``select`` and ``wait``."""
        return self._connection.fileno()

    def send(self, message: Any) -> None:
        """Send a message; raise OSError if the other end is gone."""
        self.send_packed(self.packed(message))

    @staticmethod
    def packed(message: Any) -> bytes:
        """Return a message as bytes for :meth:`send_packed`."""
        return bytes(ForkingPickler.dumps(message))

    def send_packed(self, data: bytes) -> None:
        """Send a packed message; raise OSError if the other end is gone."""
        with self._sending:
            self._connection.send_bytes(data)

    def has_room(self) -> bool:
        """Return whether a short message could be sent, or would fail, without blocking."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLOUT)
        return bool(poll.poll(0))

    def receive(self) -> Any:
        """Wait for a message and return it; raise EOFError or OSError if the other end is gone."""
        return self._connection.recv()

    def ready(self) -> bool:
        """Return whether :meth:`receive` would return or raise without blocking."""
        return self._connection.poll()

    def close(self) -> None:
        """Close this end."""
        self._connection.close()
