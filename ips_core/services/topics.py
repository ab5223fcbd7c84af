"""Services by which components tell each other events: publish and subscribe."""

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
    """Topics, on which any component may publish and all that have subscribed are told.

    The name of a topic counts within the simulation, unless it starts with ``_IPS``.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)

        def broadcast(published: Published) -> None:
            self.link.broadcast(_NEWS, published)

        self._topics = Topics(self.component_id, broadcast)

    def publish(self, topicName: str, eventName: str, eventBody: Any) -> None:
        """Tell an event to all that have subscribed to a topic, before this returns.

        Parameters
        ----------
        topicName, eventName : str
            The topic, and the event's name.
        eventBody : object
            Whatever can be pickled; each subscriber gets a copy.

        Raises
        ------
        IPSError
            The body cannot be pickled.
        """
        self._topics.publish(self._full(topicName), eventName, eventBody)

    def subscribe(
        self, topicName: str, callback: Callable[[str, TopicEvent], object] | str
    ) -> None:
        """Have events of a topic that are published from now on told to this component.

        Parameters
        ----------
        topicName : str
            The topic.
        callback : callable or str
            Called by :meth:`process_events` with the topic's full name and the event, whose
            ``getBody()`` is what was published; a text is the name of a method of the component.

        Raises
        ------
        IPSError
            There is no such method, or the topic is subscribed to already.
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
        """Hear no more of a topic, also not what is pending; fine without a subscription, too.

        Parameters
        ----------
        topicName : str
            The topic.
        """
        self._topics.unsubscribe(self._full(topicName))

    def process_events(self) -> None:
        """Call the callbacks for what was published since the last time, in its order.

        What is published meanwhile waits for the next time; so does the rest when a callback
        raises, which ends this.
        """
        self._topics.process()

    def hear(self, news: Broadcast) -> None:
        """Take news for every component: an event is published."""
        super().hear(news)
        if news.topic == _NEWS:
            self._topics.hear(news.body)

    def _full(self, topic: str) -> str:
        return topic if topic.startswith("_IPS") else f"{self.sim_name}_{topic}"
