"""The pipe between the framework and a component, and what crosses it."""

from __future__ import annotations

import importlib.util
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from ips_core.ipc import messages
from ips_core.ipc.messages import Channel, ComponentID, pack, unpack

Pair = tuple[Channel, Channel]


@pytest.fixture
def pair() -> Iterator[Pair]:
    channels = tuple(Channel(end.detach()) for end in socket.socketpair())
    yield channels
    for channel in channels:
        channel.close()


WORKER = ComponentID("sim", "Worker", 2)
EXAMPLES = [
    WORKER,
    messages.Failure("why", "Traceback"),
    messages.Start(*(f"the {field.name}" for field in fields(messages.Start))),
    messages.Invoke(1, "step", b"payload", "span"),
    messages.Reply(1, "value", messages.Failure("why")),
    messages.Terminate(True),
    messages.Returned(1, b"value", None),
    messages.Request(1, "call", ("a", 2)),
    messages.Emit(({"eventtype": "E"},)),
    messages.Broadcast("topic", ["body"]),
]


def test_every_kind_of_message_has_an_example() -> None:
    kinds = {getattr(messages, name) for name in messages.__all__}
    assert {type(example) for example in EXAMPLES} == {
        kind for kind in kinds if hasattr(kind, "__dataclass_fields__")
    }


def test_messages_arrive_as_they_were_sent_in_order(pair: Pair) -> None:
    for message in EXAMPLES:
        pair[0].send(message)
    assert [pair[1].receive() for _ in EXAMPLES] == EXAMPLES


def test_both_ends_may_send(pair: Pair) -> None:
    pair[0].send("there")
    pair[1].send("back")
    assert (pair[1].receive(), pair[0].receive()) == ("there", "back")


def test_channel_is_ready_when_something_is_there_or_the_other_end_is_gone(pair: Pair) -> None:
    ours, theirs = pair
    assert not theirs.ready()
    ours.send(1)
    assert theirs.ready()
    theirs.receive()
    assert not theirs.ready()
    ours.close()
    assert theirs.ready()
    with pytest.raises(EOFError):
        theirs.receive()


def test_several_channels_are_waited_for_at_once(pair: Pair) -> None:
    pair[0].send(1)
    assert wait(pair, 5) == [pair[1]]


def test_sending_to_a_closed_end_is_an_error(pair: Pair) -> None:
    pair[1].close()
    with pytest.raises(OSError, match="Broken pipe"):
        pair[0].send(b"x" * 2**20)


def test_messages_of_several_threads_never_mix(pair: Pair) -> None:
    """Each is larger than the pipe holds, so that every send has to wait in the middle."""
    size, count = 2**19, 5

    def send(number: int) -> None:
        for _ in range(count):
            pair[0].send(bytes([number]) * size)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    found = [pair[1].receive() for _ in range(4 * count)]
    for thread in threads:
        thread.join()
    assert sorted(found) == [bytes([number]) * size for number in range(4) for _ in range(count)]


def test_component_id_as_text() -> None:
    assert (str(WORKER), WORKER.get_serialization()) == ("sim@Worker@2", "sim@Worker@2")


# Values.


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Any]:
    """A module that goes along by value, as the script of a component does."""
    path = tmp_path / "my_script.py"
    path.write_text(
        "FACTOR = 2\nclass Plasma:\n    def double(self):\n        return FACTOR * 21\n"
    )
    spec = importlib.util.spec_from_file_location("my_script", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["my_script"] = module
    spec.loader.exec_module(module)
    cloudpickle.register_pickle_by_value(module)
    yield module
    cloudpickle.unregister_pickle_by_value(module)


@pytest.mark.parametrize("what", ["class", "object", "method"])
def test_class_of_a_script_arrives_where_the_script_is_not(script: Any, what: str) -> None:
    plasma = script.Plasma()
    packed = pack({"class": script.Plasma, "object": plasma, "method": plasma.double}[what])
    del sys.modules["my_script"]
    try:
        arrived = unpack(packed)
        call = {"class": lambda: arrived().double(), "object": lambda: arrived.double()}
        assert call.get(what, arrived)() == 42
    finally:
        sys.modules["my_script"] = script


def test_arguments_arrive_with_their_types() -> None:
    value = ((1, 2.5, "x", None, {"a": {1}}), {"f": 3})
    assert unpack(pack(value)) == value


def test_what_cannot_be_packed_is_an_error() -> None:
    with pytest.raises(TypeError, match="cannot pickle"):
        pack(threading.Lock())
