"""Topics: who hears what, when, and in which order."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest

from ips_core.errors import IPSError
from ips_core.ipc import topics
from ips_core.ipc.topics import Published, TopicEvent, Topics


class Framework:
    """Passes on to all, as the real one does, by another thread than who publishes."""

    def __init__(self, count: int) -> None:
        self.all = [Topics(number, self.broadcast) for number in range(count)]

    def broadcast(self, published: Published) -> None:
        def deliver() -> None:
            for each in self.all:
                each.hear(pickle.loads(pickle.dumps(published)))

        thread = threading.Thread(target=deliver)
        thread.start()
        thread.join()


@pytest.fixture
def two() -> list[Topics]:
    return Framework(2).all


def test_all_subscribers_get_a_copy_the_publisher_too(two: list[Topics]) -> None:
    heard: list[Any] = []
    for number, each in enumerate(two):
        each.subscribe("t", lambda topic, event, n=number: heard.append((n, topic, event)))
    body = {"x": [1]}
    two[0].publish("t", "Name", body)
    body["x"].append(2)
    assert heard == []
    two[1].process()
    two[0].process()
    assert heard == [(n, "t", TopicEvent({"Name": "Name"}, {"x": [1]})) for n in (1, 0)]
    event = heard[0][2]
    assert (event.getHeader(), event.getBody()) == ({"Name": "Name"}, {"x": [1]})
    assert str(event) == "{'x': [1]}"
    two[0].process()
    assert len(heard) == 2


def test_only_events_after_the_subscription_and_before_its_end(two: list[Topics]) -> None:
    publisher, subscriber = two
    heard: list[Any] = []
    other: list[Any] = []
    publisher.publish("t", "E", 0)
    subscriber.subscribe("t", lambda topic, event: heard.append(event.getBody()))
    publisher.publish("t", "E", 1)
    publisher.publish("u", "E", 2)
    subscriber.process()
    publisher.publish("t", "E", 3)
    subscriber.unsubscribe("t")
    subscriber.unsubscribe("t")
    publisher.publish("t", "E", 4)
    subscriber.subscribe("t", lambda topic, event: other.append(event.getBody()))
    publisher.publish("t", "E", 5)
    subscriber.process()
    assert (heard, other) == ([1], [5])


def test_events_keep_their_order_over_topics(two: list[Topics]) -> None:
    heard: list[Any] = []
    for topic in "tu":
        two[1].subscribe(topic, lambda topic, event: heard.append((topic, event.getBody())))
    expected = [("tu"[number % 2], number) for number in range(6)]
    for topic, number in expected:
        two[0].publish(topic, "E", number)
    two[1].process()
    assert heard == expected


def test_what_a_callback_publishes_waits_for_the_next_time(two: list[Topics]) -> None:
    count = 0

    def again(topic: str, event: TopicEvent) -> None:
        nonlocal count
        count += 1
        two[0].publish("t", "E", None)

    two[0].subscribe("t", again)
    two[1].publish("t", "E", None)
    for number in (1, 2, 3):
        two[0].process()
        assert count == number


def test_callback_that_raises_costs_its_own_event(two: list[Topics]) -> None:
    heard: list[Any] = []

    def listen(topic: str, event: TopicEvent) -> None:
        if event.getBody() == 0:
            raise ValueError("zero")
        heard.append(event.getBody())

    two[1].subscribe("t", listen)
    for number in range(3):
        two[0].publish("t", "E", number)
    with pytest.raises(ValueError, match="zero"):
        two[1].process()
    two[1].process()
    assert heard == [1, 2]


def test_second_subscription_of_a_topic_is_refused(two: list[Topics]) -> None:
    two[0].subscribe("t", print)
    with pytest.raises(IPSError, match=r"^topic t: subscribed to already; unsubscribe first$"):
        two[0].subscribe("t", print)


def test_body_that_cannot_travel_is_named(two: list[Topics]) -> None:
    with pytest.raises(IPSError, match=r"^topic t: the body of E cannot travel: .*lock"):
        two[0].publish("t", "E", threading.Lock())


def test_framework_that_does_not_answer_is_not_waited_for_forever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(topics, "_ECHO_SECONDS", 0.01)
    with pytest.raises(IPSError, match=r"^topic t: the framework does not pass E on$"):
        Topics(0, lambda published: None).publish("t", "E", None)


def test_a_callback_may_process_what_is_pending(two: list[Topics]) -> None:
    publisher, subscriber = two
    heard: list[Any] = []

    def hear(topic: str, event: TopicEvent) -> None:
        heard.append(event.getBody())
        subscriber.process()

    subscriber.subscribe("t", hear)
    for body in (1, 2, 3):
        publisher.publish("t", "E", body)
    subscriber.process()
    assert heard == [1, 2, 3]
