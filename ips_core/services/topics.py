"""Let components publish events and subscribe to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ips_core.errors import IPSError
from ips_core.ipc.messages import Broadcast
from ips_core.ipc.topics import Published, TopicEvent, Topics
from ips_core.services.base import ServicesBase

__all__ = ["TopicServices"]

_NEWS = "published"


class TopicServices(ServicesBase):
    """Topics: any component may publish, and all subscribers receive each event.

    Topics are private to the simulation, unless their names start with ``_IPS``.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)

        def broadcast(published: Published) -> None:
            self.link.broadcast(_NEWS, published)

        self._topics = Topics(self.component_id, broadcast)

    def publish(self, topicName: str, eventName: str, eventBody: Any) -> None:
        """Publish an event.

        The event precedes whatever the caller does next: a component that is called after this
        method returns has received the event.

        Parameters
        ----------
        topicName : str
            Name of the topic.
        eventName : str
            Name of the event.
        eventBody : object
            Any object that can be pickled; each subscriber gets a copy.

        Raises
        ------
        IPSError
            The body cannot be pickled, or the framework did not answer within 60 s.
        """
        self._topics.publish(self._full(topicName), eventName, eventBody)

    def subscribe(
        self, topicName: str, callback: Callable[[str, TopicEvent], object] | str
    ) -> None:
        """Receive the events of a topic that are published from now on.

        Parameters
        ----------
        topicName : str
            Name of the topic.
        callback : callable or str
            Function that :meth:`process_events` calls with the topic's full name and the event,
            whose ``getBody()`` returns the published object. A str names a method of the component.

        Raises
        ------
        IPSError
            The component has no such method, or it has subscribed to the topic already.
        """
        found: Any = callback
        if isinstance(callback, str):
            found = getattr(self.component_ref, callback, None)
        if not callable(found):
            raise IPSError(
                f"topic {topicName}: the callback is {callback!r}, but {self.full_comp_id} has no "
                "such method; pass the name of one, or a callable"
            )
        self._topics.subscribe(self._full(topicName), found)

    def unsubscribe(self, topicName: str) -> None:
        """Drop the subscription to a topic and its pending events; ignored without a subscription.

        Parameters
        ----------
        topicName : str
            Name of the topic.
        """
        self._topics.unsubscribe(self._full(topicName))

    def process_events(self) -> None:
        """Call the callbacks for all events that have arrived, in the order of their arrival.

        Events that arrive meanwhile wait for the next call. An exception of a callback ends this
        call; the remaining events stay pending.
        """
        self._topics.process()

    def hear(self, news: Broadcast) -> None:
        """Queue a published event; runs in the reader's thread."""
        super().hear(news)
        if news.topic == _NEWS:
            self._topics.hear(news.body)

    def _full(self, topic: str) -> str:
        return topic if topic.startswith("_IPS") else f"{self.sim_name}_{topic}"
