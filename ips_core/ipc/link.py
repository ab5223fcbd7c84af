"""Exchange requests, events and broadcasts with the framework: a component's end of the pipe."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Iterable
from typing import Any

from ips_core.errors import IPSError
from ips_core.ipc.messages import Broadcast, Channel, Emit, Failure, Reply, Request, Start
from ips_core.log.events import component_event

__all__ = ["FrameworkLink"]

_GONE = "the framework is gone"


class FrameworkLink:
    """A component's link to the framework, for all threads of the component's process."""

    def __init__(self, start: Start, channel: Channel) -> None:
        self._start = start
        self._channel = channel
        self._request_ids = itertools.count(1)
        self._replies: dict[int, queue.SimpleQueue[Reply]] = {}
        self._lock = threading.Lock()

    def ask(self, service: str, *arguments: Any) -> Any:
        """Send a request, wait for the answer and return it.

        Raise the error that the framework sent, or IPSError if the framework is gone.
        """
        return self.answer(self.post(service, *arguments))

    def post(self, service: str, *arguments: Any) -> int:
        """Send a request and return its number for :meth:`answer`."""
        request_id = next(self._request_ids)
        with self._lock:
            self._replies[request_id] = queue.SimpleQueue()
        try:
            self._channel.send(Request(request_id, service, arguments))
        except OSError:
            raise IPSError(_GONE) from None
        return request_id

    def answer(self, request_id: int) -> Any:
        """Wait for the answer to a request and return it; raise as :meth:`ask` does."""
        reply = self._replies[request_id].get()
        with self._lock:
            del self._replies[request_id]
        if reply.failure is not None:
            raise reply.failure.error or IPSError(reply.failure.text)
        return reply.value

    def deliver(self, reply: Reply) -> None:
        """Pass a reply to the thread that waits for it (called by the reader)."""
        with self._lock:
            waiting = self._replies.get(reply.request_id)
        if waiting is not None:
            waiting.put(reply)

    def hang_up(self) -> None:
        """Fail all open requests because the framework is gone (called by the reader)."""
        with self._lock:
            waiting = list(self._replies)
        for request_id in waiting:
            self.deliver(Reply(request_id, failure=Failure(_GONE)))

    def event(
        self,
        eventtype: str,
        comment: str,
        *,
        at: float | None = None,
        code: str | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """Return an event for :meth:`emit_all`, by default of this component and of now.

        `at` is in seconds since the epoch; `code` is the name of another component.
        """
        return component_event(
            code or self._start.name,
            eventtype,
            comment,
            at=time.time() if at is None else at,
            started=self._start.start_time,
            **fields,
        )

    def emit(self, eventtype: str, comment: str, **fields: Any) -> None:
        """Send an event for the simulation log; arguments are those of :meth:`event`."""
        self.emit_all([self.event(eventtype, comment, **fields)])

    def emit_all(self, events: Iterable[dict[str, Any]]) -> None:
        """Send several events in one message, in their order."""
        with contextlib.suppress(OSError):  # the framework is gone, and the log with it
            self._channel.send(Emit(tuple(events)))

    def broadcast(self, topic: str, body: Any) -> None:
        """Send a message to every component."""
        with contextlib.suppress(OSError):
            self._channel.send(Broadcast(topic, body))
