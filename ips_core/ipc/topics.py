"""Publish events on topics and deliver them to the components that subscribe."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ips_core.errors import IPSError
from ips_core.ipc.messages import pack, unpack

__all__ = ["Published", "TopicEvent", "Topics"]

_ECHO_SECONDS = 60.0


@dataclass(frozen=True)
class TopicEvent:
    """An event of a topic, as a callback gets it."""

    header: dict[str, str]
    body: Any

    def getHeader(self) -> dict[str, str]:  # IPS-framework's name
        """Return the header: the event's name, as key and as value."""
        return self.header

    def getBody(self) -> Any:  # IPS-framework's name
        """Return the body: a copy of what was published."""
        return self.body

    def __str__(self) -> str:
        return str(self.body)


@dataclass(frozen=True)
class Published:
    """An event on its way to every component."""

    #: Full name of the topic.
    topic: str
    publisher: object
    #: Number of the event among those of its publisher, from 1.
    number: int
    #: Name and body, packed.
    payload: bytes


@dataclass(frozen=True, eq=False)
class _Subscription:
    """A callback for a topic.

    Two are never equal, so that pending events of an old subscription do not reach a new one.
    """

    callback: Callable[[str, TopicEvent], object]


class Topics:
    """A component's end of all topics.

    `publisher` identifies the component. `broadcast` takes a :class:`Published` to :meth:`hear` of
    every component, also of this one.
    """

    def __init__(self, publisher: object, broadcast: Callable[[Published], None]) -> None:
        self._publisher = publisher
        self._broadcast = broadcast
        self._numbers = itertools.count(1)
        self._on_their_way: dict[int, threading.Event] = {}
        self._subscriptions: dict[str, _Subscription] = {}
        self._pending: deque[tuple[_Subscription, Published]] = deque()

    def publish(self, topic: str, name: str, body: Any) -> None:
        """Publish an event; it is on its way to every component when this returns.

        Raise IPSError if the body cannot be pickled or the framework does not pass the event on.
        """
        try:
            payload = pack((name, body))
        except Exception as error:
            raise IPSError(f"topic {topic}: the body of {name} cannot travel: {error}") from error
        number = next(self._numbers)
        back = self._on_their_way[number] = threading.Event()
        try:
            self._broadcast(Published(topic, self._publisher, number, payload))
            # Once the event is back, the framework sends it to all other components before it
            # handles any later request of this one.
            if not back.wait(_ECHO_SECONDS):
                raise IPSError(f"topic {topic}: the framework does not pass {name} on")
        finally:
            del self._on_their_way[number]

    def subscribe(self, topic: str, callback: Callable[[str, TopicEvent], object]) -> None:
        """Collect the topic's events from now on for :meth:`process`.

        Raise IPSError if the topic is already subscribed.
        """
        if topic in self._subscriptions:
            raise IPSError(f"topic {topic}: subscribed to already; unsubscribe first")
        self._subscriptions[topic] = _Subscription(callback)

    def unsubscribe(self, topic: str) -> None:
        """Forget a topic and its pending events."""
        self._subscriptions.pop(topic, None)

    def process(self) -> None:
        """Call the callbacks for the pending events, in their order.

        Events that arrive meanwhile wait for the next call, as do the remaining ones if a callback
        raises.
        """
        for _ in range(len(self._pending)):
            if not self._pending:  # a callback has processed them
                return
            subscription, published = self._pending.popleft()
            if self._subscriptions.get(published.topic) is subscription:
                name, body = unpack(published.payload)
                subscription.callback(published.topic, TopicEvent({name: name}, body))

    def hear(self, published: Published) -> None:
        """Take a published event (called by the reader)."""
        subscription = self._subscriptions.get(published.topic)
        if subscription is not None:
            self._pending.append((subscription, published))
        if published.publisher == self._publisher:
            back = self._on_their_way.get(published.number)
            if back is not None:
                back.set()
