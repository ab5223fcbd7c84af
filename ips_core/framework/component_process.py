"""Run one component in its process: load its class, then run the methods that are called.

There are two threads. The reader takes messages off the pipe at all times, so that the framework
never blocks on this process and the framework's end is noticed at once; the main thread runs the
component's code. End of file means that the framework is gone: the process leaves, in order if
possible.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import queue
import signal
import sys
import threading
import time
import traceback
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

import cloudpickle

from ips_core import component as component_module
from ips_core.compat import install_ipsframework_alias
from ips_core.component import Component
from ips_core.config import ComponentConfig
from ips_core.errors import ConfigError, describe
from ips_core.ipc.link import FrameworkLink
from ips_core.ipc.messages import (
    PIPE_CLOSED,
    Broadcast,
    Channel,
    Failure,
    Invoke,
    Reply,
    Returned,
    Start,
    Terminate,
    pack,
    unpack,
)
from ips_core.services import ServicesProxy

__all__ = ["ComponentProcess", "main"]

_LEAVE_SECONDS = 8.0


class _Interrupted(SystemExit):
    """Raised in the main thread when the component must leave in the middle of a method."""


class _PipeClosed(SystemExit):
    """Raised in the main thread when sending fails; the exit code reports it.

    Either the framework is gone or the component has closed the descriptor itself.
    """


class ComponentProcess:
    """The component that `start` describes, and its `channel` to the framework."""

    def __init__(self, channel: Channel, start: Start) -> None:
        self._channel = channel
        self._start = start
        self._inbox: queue.SimpleQueue[Invoke | Terminate] = queue.SimpleQueue()
        self._busy = False
        self._link = FrameworkLink(start, channel)
        self._services = ServicesProxy(start, self._link)
        self._component: Component | None = None

    def run(self) -> None:
        """Construct the component, run the methods that are called, and leave on request."""
        signal.signal(signal.SIGTERM, self._interrupt)
        threading.Thread(target=self._read, name="ips-reader", daemon=True).start()
        ok = False
        try:
            with contextlib.suppress(_Interrupted):
                if self._construct():
                    ok = self._serve()
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self._leave(ok)

    def _read(self) -> None:
        try:
            while True:
                self._take(self._channel.receive())
        except (EOFError, OSError):
            pass
        except BaseException:  # a bug: without a reader, no request would return
            self._services.exception("the reader of messages failed")
        self._link.hang_up()
        # The framework is gone and cannot kill this process if it does not leave in order.
        killer = threading.Timer(_LEAVE_SECONDS, os._exit, (1,))
        killer.daemon = True
        killer.start()
        self._inbox.put(Terminate(ok=False))
        self._stop_method()

    def _take(self, message: Any) -> None:
        if isinstance(message, Reply):
            self._link.deliver(message)
        elif isinstance(message, Broadcast):
            self._services.hear(message)
        else:
            self._inbox.put(message)
            if isinstance(message, Terminate):
                self._stop_method()

    def _stop_method(self) -> None:
        if self._busy:
            os.kill(os.getpid(), signal.SIGTERM)

    def _interrupt(self, number: int, frame: Any) -> None:
        raise _Interrupted(1)

    def _construct(self) -> bool:
        start = self._start
        config = start.simulation.components.get(start.section) or _internal(start.section)
        self._busy = True
        try:
            class_ = _load_class(config)
            self._component = class_(self._services, dict(config.values))
            self._services.component_ref = self._component
            os.chdir(start.work_directory)
        except _Interrupted:
            raise
        except BaseException as error:
            self._services.exception("constructor of %s failed", start.section)
            self._send(Returned(start.call_id, failure=_failure(error)))
            return False
        finally:
            self._busy = False
        self._send(Returned(start.call_id))
        return True

    def _serve(self) -> bool:
        while True:
            message = self._inbox.get()
            if isinstance(message, Terminate):
                return message.ok
            self._send(self._invoke(message))

    def _send(self, message: Returned) -> None:
        try:
            self._channel.send(message)
        except OSError:
            raise _PipeClosed(PIPE_CLOSED) from None

    def _invoke(self, call: Invoke) -> Returned:
        component = self._component
        assert component is not None
        self._busy = True
        self._services.span = call.span
        try:
            args, kwargs = unpack(call.payload)
            component._begin_call(call.call_id, call.method, args, time.time())
            method = getattr(component, call.method, None)
            if not callable(method):
                raise AttributeError(f"{type(component).__name__} has no method {call.method}")
            value = pack(method(*args, **kwargs))
        except _Interrupted:
            raise
        except BaseException as error:  # also a component's sys.exit()
            self._services.exception("%s failed", call.method)
            return Returned(call.call_id, failure=_failure(error))
        finally:
            self._busy = False
        return Returned(call.call_id, value)

    def _leave(self, ok: bool) -> None:
        try:
            if self._component is not None:
                self._component.terminate(0 if ok else 1)
        except BaseException:
            self._services.exception("terminate failed")
        finally:
            self._services.cleanup(ok)


def _failure(error: BaseException) -> Failure:
    """Return the exception that is being handled, in the form that the framework gets."""
    text = describe(error)
    if isinstance(error, SyntaxError):
        text = f"{error.filename}, line {error.lineno}: {error.msg}"
    elif isinstance(error, SystemExit):
        text = f"it called sys.exit({'' if error.code is None else repr(error.code)})"
    return Failure(text, traceback.format_exc())


def _internal(section: str) -> ComponentConfig:
    """Return the description of an internal component, which no simulation file has."""
    module, _, name = section.partition(":")
    return ComponentConfig(section, "FWK", "COMP", name, "", module, {})


def _load_class(config: ComponentConfig) -> type[Component]:
    module = _load_script(config.script) if config.script else _load_module(config.module)
    class_ = getattr(module, config.name, None)
    if isinstance(class_, type) and issubclass(class_, Component):
        return class_
    problem = "is not derived from Component" if isinstance(class_, type) else "is not there"
    raise ConfigError(
        config.script or config.module,
        [f"the class {config.name}, which is NAME of section [{config.section}], {problem}"],
    )


class _ScriptLoader(SourceFileLoader):
    """Loads a script without writing a ``__pycache__`` beside the user's files."""

    def set_data(self, path: Any, data: Any, *, _mode: int = 0o666) -> None:
        pass


def _load_script(path: str) -> ModuleType:
    """Load a SCRIPT by its path and return its module.

    Dataclasses and pickle look modules up by name, so the module is registered, under a name that
    hides no module of the same stem. Its definitions travel to workers by value.
    """
    stem = os.path.splitext(os.path.basename(path))[0]
    name = f"ips_script_{stem}"
    loader = _ScriptLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    cloudpickle.register_pickle_by_value(module)
    loader.exec_module(module)
    return module


def _load_module(name: str) -> ModuleType:
    """Import a MODULE; like a SCRIPT, one in the launch directory travels to workers by value.

    Workers search PYTHONPATH and the installed packages, but not that directory.
    """
    module = importlib.import_module(name)
    package = sys.modules[name.partition(".")[0]]
    folder = os.path.dirname(getattr(package, "__file__", None) or "")
    if hasattr(package, "__path__"):
        folder = os.path.dirname(folder)
    searched = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    ours = package.__name__ == "ips_core"  # our checkout may be the launch directory
    if folder == os.getcwd() and folder not in searched and not ours:
        cloudpickle.register_pickle_by_value(package)
    return module


def main() -> None:
    """Run the component that the framework describes on the pipe whose number is the argument."""
    handle = int(sys.argv[1])
    os.set_inheritable(handle, False)  # a child with the pipe would hide our end
    channel = Channel(handle)
    os.register_at_fork(after_in_child=channel.close)
    # Flush each line, so that a batch log shows a component's output without delay.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    install_ipsframework_alias()
    cloudpickle.register_pickle_by_value(component_module)
    try:
        start = channel.receive()
    except (EOFError, OSError):  # the framework is gone already
        return
    try:
        process = ComponentProcess(channel, start)
    except Exception as error:  # for example, LOG_FILE cannot be written
        channel.send(Returned(start.call_id, failure=_failure(error)))
        return
    process.run()
