"""What crosses the pipe between the framework and a component's process, and the pipe itself.

Arguments and results travel packed: the framework routes them without looking inside, so that a
class which only a component's script knows does not have to exist in the framework.
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


#: The exit code of a component that can no longer say anything.
PIPE_CLOSED = os.EX_IOERR


def pack(value: Any) -> bytes:
    """Return a value as bytes; classes of a component's script go along by value."""
    return dumps(value)


def unpack(data: bytes) -> Any:
    """Return the value that :func:`pack` was given."""
    return cloudpickle.loads(data)


@dataclass(frozen=True)
class ComponentID:
    """Who a component is; as text, ``simulation@class@number``.

    Parameters
    ----------
    simulation : str
        Name of the simulation.
    class_name : str
        Name of the Python class.
    number : int
        Counts the components of a run from 1; the framework itself is 0.
    """

    simulation: str
    class_name: str
    number: int

    @property
    def root(self) -> str:
        """The simulation that it lives and ends with: a sub-workflow is named ``parent::sub``."""
        return self.simulation.partition("::")[0]

    def __str__(self) -> str:
        return f"{self.simulation}@{self.class_name}@{self.number}"

    def get_serialization(self) -> str:
        """Return the text form (IPS-framework's name for it)."""
        return str(self)

    def get_instance_name(self) -> str:
        """Return the text form (IPS-framework's other name for it)."""
        return str(self)

    def get_sim_name(self) -> str:
        """Return the name of the simulation."""
        return self.simulation

    def get_class_name(self) -> str:
        """Return the name of the Python class."""
        return self.class_name

    def get_seq_num(self) -> int:
        """Return the number."""
        return self.number


@dataclass(frozen=True)
class Failure:
    """An exception as it travels: its text, and the traceback for the log.

    ``error`` is the exception itself where the framework raises one of ours on purpose.
    """

    text: str
    traceback: str = ""
    error: Exception | None = None


# -- framework to component --------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """The first message to a component's process: who it is and where it lives.

    Parameters
    ----------
    call_id : int
        Under which the end of the constructor is reported.
    component_id : ComponentID
        Who it is.
    name : str
        How messages and events call it, ``CLASS_SUBCLASS_NAME_number``.
    section : str
        Its section in the simulation file.
    simulation : ips_core.config.SimulationConfig
        The whole simulation.
    platform : dict
        Settings of the platform file.
    resources : ips_core.resources.nodes.Resources
        What the simulation may use.
    ports : dict of str to ComponentID
        The components by port name.
    launch_directory, work_directory : str
        Where its constructor runs, and where everything else does.
    run_id : str
        The simulation's portal run id.
    start_time : float
        When the framework started, seconds since the epoch.
    resume : bool
        True: what the run before has finished is not run again.
    interactive : bool
        True: the simulation was started from a notebook.
    """

    call_id: int
    component_id: ComponentID
    name: str
    section: str
    simulation: Any
    platform: dict[str, Any]
    resources: Any
    ports: dict[str, ComponentID]
    launch_directory: str
    work_directory: str
    run_id: str
    start_time: float
    resume: bool = False
    interactive: bool = False


@dataclass(frozen=True)
class Invoke:
    """Call a method; ``payload`` is a packed ``(args, kwargs)``."""

    call_id: int
    method: str
    payload: bytes
    span: str = ""


@dataclass(frozen=True)
class Reply:
    """The answer to a request."""

    request_id: int
    value: Any = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Terminate:
    """Leave now; ``ok`` tells how the simulation went."""

    ok: bool


# -- component to framework --------------------------------------------------------------------


@dataclass(frozen=True)
class Returned:
    """A call has ended. ``value`` is packed."""

    call_id: int
    value: bytes = b""
    failure: Failure | None = None


@dataclass(frozen=True)
class Request:
    """Ask the framework for something; a :class:`Reply` follows, perhaps much later."""

    request_id: int
    service: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Emit:
    """Events for the simulation log, in their order."""

    events: tuple[dict[str, Any], ...] = field(repr=False)


@dataclass(frozen=True)
class Broadcast:
    """News for every component: passed on to all of them."""

    topic: str
    body: Any


class Channel:
    """One end of a pipe that several threads of a process may send on.

    Parameters
    ----------
    handle : int
        File descriptor of a connected socket; the channel owns it.
    """

    def __init__(self, handle: int) -> None:
        self._connection = Connection(handle)
        self._sending = threading.Lock()

    def fileno(self) -> int:
        """Return the file descriptor, for waiting on it."""
        return self._connection.fileno()

    def send(self, message: Any) -> None:
        """Send a message.

        Raises
        ------
        OSError
            The other end is gone.
        """
        self.send_packed(self.packed(message))

    @staticmethod
    def packed(message: Any) -> bytes:
        """Return a message as :meth:`send_packed` takes it."""
        return bytes(ForkingPickler.dumps(message))

    def send_packed(self, data: bytes) -> None:
        """Send a message that is packed already; raises as :meth:`send`."""
        with self._sending:
            self._connection.send_bytes(data)

    def has_room(self) -> bool:
        """Tell whether a short message could be sent without waiting, or would fail at once."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLOUT)
        return bool(poll.poll(0))

    def receive(self) -> Any:
        """Wait for a message and return it.

        Raises
        ------
        EOFError, OSError
            The other end is gone.
        """
        return self._connection.recv()

    def ready(self) -> bool:
        """Tell whether :meth:`receive` would return or raise at once."""
        return self._connection.poll()

    def close(self) -> None:
        """Close this end."""
        self._connection.close()
