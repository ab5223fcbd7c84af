"""Components' own events and topics, and the portal that hears of all, in running simulations."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from ips_core import read_log

DRIVER = """
import json
from dataclasses import dataclass
from ipsframework import Component

@dataclass
class Own:
    value: int

class Driver(Component):
    def step(self, timestamp=0.0, **keywords):
        services = self.services
        worker = services.get_port("WORKER")
        facts = {"heard": []}
        services.publish("news", "Early", None)
        services.call(worker, "listen")
        services.subscribe("_IPS_ALL", "hear")
        services.publish("news", "First", {"n": 1})
        services.publish("news", "Second", Own(2))
        services.publish("_IPS_ALL", "Third", 3)
        services.process_events()
        facts["own"] = self.told
        facts["worker"] = services.call(worker, "told")[0]
        services.publish("news", "Fourth", 4)
        facts["unsubscribed"] = services.call(worker, "told")[0]
        for name, callback in (("nope", "nope"), ("data", "told")):
            try:
                services.subscribe("other", callback)
            except Exception as error:
                facts[name] = f"{type(error).__name__}: {error}"
        services.send_portal_event()
        services.send_portal_event("MY_EVENT", "two words", event_time=1e9, elapsed_time=1.5)
        services.setMonitorURL("http://host:80/watch")
        services.call(worker, "told")
        services.setMonitorURL("")
        services.send_portal_event(event_comment="last")
        print(json.dumps(facts))

    told = None

    def hear(self, topic, event):
        self.told = [topic, event.getHeader(), event.getBody()]
"""
WORKER = """
from ipsframework import Component

class Worker(Component):
    def listen(self):
        self.heard = []
        self.services.subscribe("news", self.hear)

    def hear(self, topic, event):
        self.heard.append([topic, event.getHeader(), getattr(event.getBody(), "value", None)])
        if len(self.heard) == 2:
            self.services.unsubscribe("news")

    def told(self):
        self.services.process_events()
        return list(self.heard)
"""


@pytest.fixture
def run(simulation: Any, web_portal: Any, once: Callable[..., Any]) -> Any:
    """What came of the simulation, run once: its outcome, its files, the portal's events."""

    def answer() -> Any:
        simulation.write(DRIVER, WORKER)
        simulation.edit("LOG_LEVEL", f"PORTAL_URL = {web_portal.url}\nUSER_W3_DIR = www\nLOG_LEVEL")
        outcome = simulation.run()
        assert outcome.code == 0, outcome.stderr + outcome.log
        files = {path.suffix: path for path in (simulation.root / "simulation_log").iterdir()}
        texts = {suffix: path.read_text() for suffix, path in files.items()}
        (copy,) = (simulation.folder / "www").iterdir()
        assert (copy.name, copy.read_text()) == (files[".html"].name, texts[".html"])
        return outcome, texts, web_portal.received(), web_portal.url

    return once("run", answer)


@pytest.fixture
def facts(run: Any) -> dict[str, Any]:
    """What the driver has found."""
    (line,) = [line for line in run[0].stdout.splitlines() if line.startswith("{")]
    return json.loads(line)


def test_subscribers_hear_what_is_published_later(facts: dict[str, Any]) -> None:
    assert facts["own"] == ["_IPS_ALL", {"Third": "Third"}, 3]
    assert facts["worker"] == [
        ["sim_news", {"First": "First"}, None],
        ["sim_news", {"Second": "Second"}, 2],
    ]
    assert facts["unsubscribed"] == facts["worker"]


def test_unknown_callback_is_refused(facts: dict[str, Any]) -> None:
    for name, callback in (("nope", "nope"), ("data", "told")):
        assert facts[name] == (
            f"IPSError: topic other: the callback is '{callback}', but DRIVER__Driver_1 has no "
            "such method; pass the name of one, or a callable"
        )


def test_events_of_a_component(run: Any) -> None:
    outcome = run[0]
    keys = ["code", "eventtype", "ok", "walltime", "time", "state", "comment"]
    plain, last = outcome.of_type("COMPONENT_EVENT")
    assert list(plain)[:7] == keys
    assert (plain["comment"], last["comment"]) == ("", "last")
    (own,) = outcome.of_type("MY_EVENT")
    assert own["comment"] == "two words"
    assert own["elapsed_time"] == 1.5
    assert float(own["walltime"]) < 0
    assert own["time"].startswith("2001-09-0")


def test_address_to_watch_is_in_later_events(run: Any) -> None:
    events = run[0].events
    first, second = run[0].of_type("IPS_SET_MONITOR_URL")
    assert (first["comment"], first["vizurl"]) == ("SUCCESS", "host:80/watch")
    between = events[first["seqnum"] + 1 : second["seqnum"]]
    assert [event["vizurl"] for event in between] == ["host:80/watch"] * len(between)
    assert {event["eventtype"] for event in between} == {"IPS_CALL_BEGIN", "IPS_CALL_END"}
    assert [e for e in events[: first["seqnum"]] if "vizurl" in e] == []
    assert [e for e in events[second["seqnum"] + 1 :] if "vizurl" in e] == []


def test_portal_gets_every_event_as_the_log_has_it(run: Any) -> None:
    outcome, _, received, url = run
    assert received == outcome.events
    assert [event["seqnum"] for event in received] == list(range(len(received)))
    assert outcome.stdout.count(f"Run Portal URL = {url}/42\n") == 1
    assert "not delivered" not in outcome.stdout


def test_every_event_is_documented(run: Any, undocumented: Callable[..., Any]) -> None:
    events = run[0].events
    assert undocumented(events) == set()
    assert undocumented([*events, {"eventtype": "IPS_NEW"}, {"eventtype": "MY", "new": 1}]) == {
        ("IPS_NEW", ""),
        ("MY", "new"),
    }


def test_files_beside_the_log(run: Any) -> None:
    outcome, texts, _, _ = run
    assert set(texts) == {".json", ".eventlog", ".html"}
    lines = texts[".eventlog"].splitlines()
    assert [int(line[:8]) for line in lines] == [event["seqnum"] for event in outcome.events]
    assert " eventtype=MY_EVENT " in texts[".eventlog"]
    assert " comment='two words' " in texts[".eventlog"]
    assert texts[".html"].count("<tr") == len(lines) - 3 + 1  # a header, but no start and end
    assert "<td>two words</td>" in texts[".html"]


def test_portal_that_never_answers_costs_seconds_at_most(simulation: Any, web_portal: Any) -> None:
    web_portal.behaviour = "hangs"
    simulation.write("for number in range(3000):\n    services.send_portal_event('E', str(number))")
    simulation.edit("LOG_LEVEL", f"PORTAL_URL = {web_portal.url}\nLOG_LEVEL")
    begin = time.monotonic()
    outcome = simulation.run()
    # three requests of 10 s each are what there would be to wait for
    assert time.monotonic() - begin < 30.0
    assert outcome.code == 0
    count = len(outcome.events)
    assert [e["comment"] for e in outcome.of_type("E")] == [str(n) for n in range(3000)]
    assert f"Portal: {count} of {count} events were not delivered to {web_portal.url}" in (
        outcome.stdout
    )
    assert read_log(simulation.root / "simulation_log") == outcome.events
