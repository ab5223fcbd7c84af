"""Send events to the portal: a thread POSTs them to PORTAL_URL as JSON lists.

A slow or failing portal never slows or stops a run: events wait in a bounded queue, and events that
are not delivered are counted.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ips_core.log.events import as_json

__all__ = ["Portal"]

_MOST_BYTES = 64_000_000  # limit for the events that wait for a slow portal
_EVENT_BYTES = 2_000  # estimate for an event without its texts
_MOST_EVENTS = 1_000  # in one request
_MOST_ANSWER = 65_536
_GATHER_SECONDS = 0.2
_REQUEST_SECONDS = 10.0
_PAUSES = (1.0, 4.0)  # between attempts at a request
_CLOSE_SECONDS = 3.0
_TOO_MANY_REQUESTS = 429


@dataclass(frozen=True)
class _Answer:
    """The answer to a request; with ``status`` 0 there was none, and ``text`` is the reason."""

    status: int
    text: str


class Portal:
    """A sink that sends events to a portal from a thread.

    A request that fails is repeated twice; after three consecutive failures to connect, the sink
    disables the portal. If only an answer is lost, the portal gets an event twice; ``seqnum``
    identifies it. `say` gets messages for the user, also from the thread.
    """

    def __init__(self, url: str, say: Callable[[str], None]) -> None:
        self._url = url
        self._say_aloud = say
        self._arrived = threading.Condition()
        self._waiting: deque[tuple[dict[str, Any], int]] = deque()
        self._room = _MOST_BYTES
        self._total = self._delivered = 0
        self._failures = 0  # consecutive failures to connect
        self._given_up = False
        self._said: set[str] = set()
        self._closing = threading.Event()
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._run, name="ips-portal", daemon=True)
        self._thread.start()

    def write(self, events: Sequence[dict[str, Any]]) -> None:
        """Queue events; those that do not fit into the queue are not delivered."""
        with self._arrived:
            was_empty = not self._waiting
            self._total += len(events)
            for event in events if not self._given_up else ():
                size = _size(event)
                # IPS_END always fits: it tells the portal that the run is over.
                if size <= self._room or event["eventtype"] == "IPS_END":
                    self._room -= size
                    self._waiting.append((event, size))
            if was_empty:
                self._arrived.notify()

    def end(self) -> None:
        """Start to send all remaining events; :meth:`close` waits for that."""
        if not self._closing.is_set():
            self._deadline = time.monotonic() + _CLOSE_SECONDS
            self._closing.set()
            with self._arrived:
                self._arrived.notify()

    def close(self) -> None:
        """Wait for delivery until three seconds after :meth:`end`, and report missing events."""
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        with self._arrived:
            self._give_up()
            missing, total = self._total - self._delivered, self._total
        if missing:
            self._say(f"Portal: {missing} of {total} events were not delivered to {self._url}")
        self._say_aloud = _say_nothing  # the listener may be gone before a late answer

    def _give_up(self) -> None:
        self._given_up = True
        self._waiting.clear()

    def _say(self, text: str) -> None:
        """Pass a message to the user, once."""
        if text not in self._said:
            self._said.add(text)
            with contextlib.suppress(Exception):
                self._say_aloud(text)

    # -- the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        while batch := self._next_batch():
            body = f"[{','.join(map(as_json, batch))}]".encode()
            if self._deliver(body):
                with self._arrived:
                    self._delivered += len(batch)

    def _next_batch(self) -> list[dict[str, Any]]:
        """Wait for events and return some; an empty list means that no more will come."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._waiting or self._closing.is_set())
        self._closing.wait(_GATHER_SECONDS)  # more events may follow soon
        with self._arrived:
            most = len(self._waiting) if self._closing.is_set() else _MOST_EVENTS
            taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
            self._room += sum(size for _, size in taken)
        return [event for event, _ in taken]

    def _deliver(self, body: bytes) -> bool:
        """Send a request until the portal accepts it; return False if that is hopeless."""
        for pause in (*_PAUSES, None):
            answer = _post(self._url, body)
            self._failures = 0 if answer.status else self._failures + 1
            if 200 <= answer.status < 300:
                self._read(answer.text)
                return True
            if self._failures > len(_PAUSES):
                self._disable(answer.text)
                return False
            if answer.status:
                self._say(f"Portal Error: {answer.status} {answer.text} ({self._url})")
            again = not answer.status or answer.status >= 500 or answer.status == _TOO_MANY_REQUESTS
            if pause is None or not again:
                return False
            self._closing.wait(pause)
            if self._given_up:
                return False
        return False

    def _read(self, text: str) -> None:
        """Report the URL of the run on the portal if the answer contains the run's number."""
        with contextlib.suppress(ValueError, AttributeError):
            run = json.loads(text).get("runid")
            if run is not None:
                self._say(f"Run Portal URL = {self._url.rstrip('/')}/{run}")

    def _disable(self, reason: str) -> None:
        with self._arrived:
            if self._given_up:
                return
            self._give_up()
        self._say(
            f"Disabling portal because: Too many consecutive failed connections to {self._url} "
            f"({reason}); the simulation goes on without it"
        )


def _say_nothing(text: str) -> None:
    pass


def _size(event: dict[str, Any]) -> int:
    """Return an estimate of an event's memory, in bytes."""
    return _EVENT_BYTES + sum(len(value) for value in event.values() if isinstance(value, str))


def _post(url: str, body: bytes) -> _Answer:
    """Send a request and return the answer; never raise."""
    # Lazy imports: a run without a portal does not need them.
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import HTTPRedirectHandler, Request, build_opener

    class Unmoved(HTTPRedirectHandler):
        """Reject redirections: followed as a GET, one would look like a delivery."""

        def redirect_request(self, *args: Any, **kwargs: Any) -> None:
            return None

    headers = {"Content-Type": "application/json", "User-Agent": "ips-core"}
    try:
        request = Request(url, body, headers)
        with build_opener(Unmoved).open(request, timeout=_REQUEST_SECONDS) as response:
            return _Answer(response.status, response.read(_MOST_ANSWER).decode(errors="replace"))
    except HTTPError as error:
        with error:
            return _Answer(error.code, str(error.reason))
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return _Answer(0, getattr(reason, "strerror", None) or str(reason) or type(error).__name__)
