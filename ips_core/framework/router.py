"""Route messages between the framework and component processes, and notice deaths.

One thread waits on all pipes. A request that must wait is answered later; nothing here blocks on a
component.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from dataclasses import replace
from multiprocessing.connection import wait
from typing import Any, Protocol

from ips_core.errors import ComponentError, IPSError, describe
from ips_core.framework.processes import ComponentHandle
from ips_core.ipc.calls import Call, CallTable
from ips_core.ipc.messages import (
    Broadcast,
    ComponentID,
    Emit,
    Failure,
    Invoke,
    Reply,
    Request,
    Returned,
    Start,
)
from ips_core.log.events import span_id

__all__ = ["Listener", "Router", "Service"]

Service = Callable[[Any, Request], None]
"""Answer a component's request: ``service(sender, request)`` sends the reply, perhaps later."""


class Listener(Protocol):
    """A receiver of what components send besides requests."""

    def hear_events(self, sender: ComponentID, events: Iterable[dict[str, Any]]) -> None:
        """Take events for the log."""

    def hear_news(self, sender: ComponentID, news: Broadcast) -> None:
        """Take a broadcast, which all components get, too."""

    def hear_end(self, component_id: ComponentID, reason: str) -> None:
        """Take the end of a component's process, and how it ended."""


class Router:
    """The component processes of a run; `listener` gets what is not a request."""

    def __init__(self, listener: Listener) -> None:
        self.calls = CallTable()
        self.services: dict[str, Service] = {"call": self._call, "wait_call": self._wait_call}
        self._listener = listener
        self._handles: dict[ComponentID, ComponentHandle] = {}
        self._waiting: dict[ComponentID, Call] = {}  # the latest call that each waits for

    def start(self, start: Start) -> Call:
        """Start a component's process and return the call of its constructor."""
        call = self.calls.open(start.component_id, "constructor")
        self._handles[start.component_id] = ComponentHandle(replace(start, call_id=call.call_id))
        return call

    def handles(self, ids: Iterable[ComponentID]) -> list[ComponentHandle]:
        """Return the processes of components."""
        return [self._handles[component_id] for component_id in ids]

    def invoke(self, target: ComponentID, method: str, payload: bytes, operation: str) -> Call:
        """Call a method of a component; the call fails at once if the process has ended."""
        call = self.calls.open(target, method)
        handle = self._handles[target]
        if handle.alive:
            span = span_id(str(target), operation, call.call_id)
            handle.send(Invoke(call.call_id, method, payload, span))
        else:
            self.calls.end(Returned(call.call_id, failure=Failure("it is no longer running")))
        return call

    def error_of(self, call: Call) -> ComponentError | None:
        """Return the error of a call that has failed, else None."""
        failure = call.outcome.failure if call.outcome is not None else None
        return self._error(call, failure) if failure is not None else None

    def _error(self, call: Call, failure: Failure) -> ComponentError:
        return ComponentError(self._handles[call.target].name, call.method, failure.text)

    def broadcast(self, news: Broadcast) -> None:
        """Send a message to every component."""
        for handle in self._handles.values():
            if handle.alive:
                handle.send(news)

    def serve(self, besides: Any, timeout: float | None) -> bool:
        """Wait until a message arrives or a process ends, and handle it.

        The wait also ends when `besides`, an object with ``fileno``, becomes readable, or after
        `timeout` seconds (None: no limit). Return whether `besides` is readable.
        """
        channels: dict[Any, ComponentHandle] = {
            handle.channel: handle for handle in self._handles.values() if handle.alive
        }
        readable = wait([*channels, besides], timeout)
        for ready in readable:
            if ready is not besides:
                self._receive(channels[ready])
        return besides in readable

    def _receive(self, handle: ComponentHandle) -> None:
        try:
            message = handle.channel.receive()
        except (EOFError, OSError):
            self._take_leave(handle, handle.how_it_ended())
            return
        except Exception as error:
            # For example, the message has an object of a class that only the component's script
            # defines. Without a reply, the component would wait forever.
            handle.signal(signal.SIGKILL)
            self._take_leave(handle, f"the framework cannot read what it sent: {describe(error)}")
            return
        if isinstance(message, Emit):
            self._listener.hear_events(handle.component_id, message.events)
        elif isinstance(message, Returned):
            self.calls.end(message)
        elif isinstance(message, Broadcast):
            self.broadcast(message)
            self._listener.hear_news(handle.component_id, message)
        elif isinstance(message, Request):
            self._answer(handle, message)

    def _take_leave(self, handle: ComponentHandle, how: str) -> None:
        handle.alive = False
        self.calls.end_all_of(handle.component_id, how)
        self._listener.hear_end(handle.component_id, how)

    def _answer(self, sender: ComponentHandle, request: Request) -> None:
        try:
            self.services[request.service](sender, request)
        except Exception as error:  # one bad request must not end the other components
            own = error if isinstance(error, IPSError) else None
            failure = Failure(describe(error), error=own)
            sender.send(Reply(request.request_id, failure=failure))

    # -- calls between components ------------------------------------------------------------

    def _call(self, sender: ComponentHandle, request: Request) -> None:
        """``call(component_id, method, payload, operation)``: reply with the call's id."""
        component_id, method, payload, operation = request.arguments
        if component_id not in self._handles:
            failure = Failure(f"there is no component {component_id}")
            sender.send(Reply(request.request_id, failure=failure))
            return
        call = self.invoke(component_id, method, payload, operation)
        sender.send(Reply(request.request_id, call.call_id))

    def _wait_call(self, sender: ComponentHandle, request: Request) -> None:
        """``wait_call(call_id, block)``: reply with the packed result when the call has ended."""
        call_id, block = request.arguments
        call = self.calls.get(call_id)
        if call is None:
            failure = Failure(f"there is no call {call_id} to wait for")
            sender.send(Reply(request.request_id, failure=failure))
        elif call.outcome is None and not block:
            sender.send(Reply(request.request_id))
        elif call.outcome is None and (circle := self._circle(sender.component_id, call)):
            sender.send(Reply(request.request_id, failure=Failure(circle)))
        else:
            self._reply_when_ended(sender, request, call)

    def _circle(self, waiting: ComponentID, call: Call) -> str:
        """Return why a call cannot end while a component waits for it, or "" if it can.

        A component runs one method at a time; while one of its methods waits, no other can begin.
        """
        words = []
        for _ in range(len(self._waiting) + 1):  # ends also in a circle without `waiting`
            words.append(f"for {call.method} of {self._handles[call.target].name}")
            if call.target == waiting:
                who = self._handles[waiting].name
                chain = ", which waits ".join(words)
                return f"{who} waits {chain}: that cannot begin before this wait ends"
            further = self._waiting.get(call.target)
            if further is None or further.outcome is not None:
                return ""
            call = further
        return ""

    def _reply_when_ended(self, sender: ComponentHandle, request: Request, call: Call) -> None:
        self._waiting[sender.component_id] = call

        def answer(outcome: Returned) -> None:
            if self._waiting.get(sender.component_id) is call:
                del self._waiting[sender.component_id]
            failure = outcome.failure
            if failure is not None:
                failure = Failure(str(self._error(call, failure)))
            sender.send(Reply(request.request_id, outcome.value, failure))

        self.calls.when_ended(call, answer)
