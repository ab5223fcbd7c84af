"""Topics: what one component publishes, and when others are told of it."""

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
    """An event of a topic, as a callback gets it.

    Parameters
    ----------
    header : dict
        The event's name, as key and as value.
    body : object
        What was published: a copy of it.
    """

    header: dict[str, str]
    body: Any

    def getHeader(self) -> dict[str, str]:  # IPS-framework's name
        """Return the header."""
        return self.header

    def getBody(self) -> Any:  # IPS-framework's name
        """Return the body."""
        return self.body

    def __str__(self) -> str:
        return str(self.body)


@dataclass(frozen=True)
class Published:
    """An event on its way to every component.

    Parameters
    ----------
    topic : str
        The topic's full name.
    publisher : object
        Whose event it is.
    number : int
        Counts that one's events.
    payload : bytes
        Name and body, packed.
    """

    topic: str
    publisher: object
    number: int
    payload: bytes


@dataclass(frozen=True, eq=False)
class _Subscription:
    """What to call; two are never equal, so that an old one's events do not reach a new one."""

    callback: Callable[[str, TopicEvent], object]


class Topics:
    """A component's end of all topics.

    Parameters
    ----------
    publisher : object
        Who the component is; equal for nobody else.
    broadcast : callable
        Takes a :class:`Published` to :meth:`hear` of every component, this one too.
    """

    def __init__(self, publisher: object, broadcast: Callable[[Published], None]) -> None:
        self._publisher = publisher
        self._broadcast = broadcast
        self._numbers = itertools.count(1)
        self._on_their_way: dict[int, threading.Event] = {}
        self._subscriptions: dict[str, _Subscription] = {}
        self._pending: deque[tuple[_Subscription, Published]] = deque()

    def publish(self, topic: str, name: str, body: Any) -> None:
        """Tell an event to every component, before this returns.

        Raises
        ------
        IPSError
            The body cannot be pickled, or the framework does not answer.
        """
        try:
            payload = pack((name, body))
        except Exception as error:
            raise IPSError(f"topic {topic}: the body of {name} cannot travel: {error}") from error
        number = next(self._numbers)
        back = self._on_their_way[number] = threading.Event()
        try:
            self._broadcast(Published(topic, self._publisher, number, payload))
            # When it has come back here it is on its way to the others, too: whatever this
            # component asks of them next, they know of the event by then
            if not back.wait(_ECHO_SECONDS):
                raise IPSError(f"topic {topic}: the framework does not pass {name} on")
        finally:
            del self._on_their_way[number]

    def subscribe(self, topic: str, callback: Callable[[str, TopicEvent], object]) -> None:
        """Keep the topic's events from now on for :meth:`process`.

        Raises
        ------
        IPSError
            The topic is subscribed to already.
        """
        if topic in self._subscriptions:
            raise IPSError(f"topic {topic}: subscribed to already; unsubscribe first")
        self._subscriptions[topic] = _Subscription(callback)

    def unsubscribe(self, topic: str) -> None:
        """Forget a topic, and what is pending of it."""
        self._subscriptions.pop(topic, None)

    def process(self) -> None:
        """Call the callbacks for what is pending, in its order.

        What is published meanwhile waits for the next time; so does the rest when a callback
        raises, which ends this.
        """
        for _ in range(len(self._pending)):
            if not self._pending:  # a callback has processed them
                return
            subscription, published = self._pending.popleft()
            if self._subscriptions.get(published.topic) is subscription:
                name, body = unpack(published.payload)
                subscription.callback(published.topic, TopicEvent({name: name}, body))

    def hear(self, published: Published) -> None:
        """Take what somebody has published (called by the reader)."""
        subscription = self._subscriptions.get(published.topic)
        if subscription is not None:
            self._pending.append((subscription, published))
        if published.publisher == self._publisher:
            back = self._on_their_way.get(published.number)
            if back is not None:
                back.set()
