"""The portal: events as JSON lists, POSTed to PORTAL_URL by a thread of their own.

Nothing that a portal does, or fails to do, slows or stops a run: events wait in a queue of
bounded size, and what cannot be delivered is counted.
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

_MOST_BYTES = 64_000_000  # what may wait for a portal that does not keep up
_EVENT_BYTES = 2_000  # an event's own, besides its texts
_MOST_EVENTS = 1_000  # of one request
_MOST_ANSWER = 65_536
_GATHER_SECONDS = 0.2
_REQUEST_SECONDS = 10.0
_PAUSES = (1.0, 4.0)  # between the attempts at a request
_CLOSE_SECONDS = 3.0
_TOO_MANY_REQUESTS = 429


@dataclass(frozen=True)
class _Answer:
    """What came of a request; ``status`` 0: nothing did, for the reason in ``text``."""

    status: int
    text: str


class Portal:
    """A sink: the portal, and the thread that talks to it.

    A request that fails is repeated twice; a portal that cannot be reached three times in a row
    is given up. An event may reach it twice, if only the answer was lost: ``seqnum`` tells.

    Parameters
    ----------
    url : str
        PORTAL_URL, ``http`` or ``https``.
    say : callable
        Takes a sentence for the user; called by the thread, too.
    """

    def __init__(self, url: str, say: Callable[[str], None]) -> None:
        self._url = url
        self._say_aloud = say
        self._arrived = threading.Condition()
        self._waiting: deque[tuple[dict[str, Any], int]] = deque()
        self._room = _MOST_BYTES
        self._total = self._delivered = 0
        self._failures = 0  # to reach it, in a row
        self._given_up = False
        self._said: set[str] = set()
        self._closing = threading.Event()
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._run, name="ips-portal", daemon=True)
        self._thread.start()

    def write(self, events: Sequence[dict[str, Any]]) -> None:
        """Take events; those for which there is no room are not delivered."""
        with self._arrived:
            was_empty = not self._waiting
            self._total += len(events)
            for event in events if not self._given_up else ():
                size = _size(event)
                # by its end the portal knows that a run is over
                if size <= self._room or event["eventtype"] == "IPS_END":
                    self._room -= size
                    self._waiting.append((event, size))
            if was_empty:
                self._arrived.notify()

    def end(self) -> None:
        """Have what is left delivered soon."""
        if not self._closing.is_set():
            self._deadline = time.monotonic() + _CLOSE_SECONDS
            self._closing.set()
            with self._arrived:
                self._arrived.notify()

    def close(self) -> None:
        """Wait until all is delivered, three seconds from the end at most; say what is not."""
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        with self._arrived:
            self._give_up()
            missing, total = self._total - self._delivered, self._total
        if missing:
            self._say(f"Portal: {missing} of {total} events were not delivered to {self._url}")
        self._say_aloud = _say_nothing  # whoever listened may be gone when a late answer comes

    def _give_up(self) -> None:
        self._given_up = True
        self._waiting.clear()

    def _say(self, text: str) -> None:
        """Say something once."""
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
        """Wait for events; return some, or none when there are no more to come."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._waiting or self._closing.is_set())
        self._closing.wait(_GATHER_SECONDS)  # others may soon follow
        with self._arrived:
            most = len(self._waiting) if self._closing.is_set() else _MOST_EVENTS
            taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
            self._room += sum(size for _, size in taken)
        return [event for event, _ in taken]

    def _deliver(self, body: bytes) -> bool:
        """Send a request until it is answered as it should be, or there is no hope."""
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
        """Take the run's number on the portal from an answer."""
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
    """Return about how much memory an event takes."""
    return _EVENT_BYTES + sum(len(value) for value in event.values() if isinstance(value, str))


def _post(url: str, body: bytes) -> _Answer:
    """Send a request and return what came of it; never raises."""
    # here, not above: a run without a portal does not pay for it
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import HTTPRedirectHandler, Request, build_opener

    class Unmoved(HTTPRedirectHandler):
        """Followed as a GET, a redirection would look like a delivery."""

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
