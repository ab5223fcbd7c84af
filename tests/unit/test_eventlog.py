"""The .eventlog and the .html of a log: every line as IPS-framework writes it, and which sinks."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ips_core.log import html_table
from ips_core.log.eventlog import EventLog, eventlog_line
from ips_core.log.html_table import HtmlTable, html_page
from ips_core.log.portal import Portal
from ips_core.log.selection import log_sinks

AT = 1_700_000_012.3


@pytest.fixture(autouse=True)
def _zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class Mute:
    """Something that cannot even be printed."""

    def __str__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, ""),
        (
            {"code": "Framework", "ok": True, "t": 1.5, "n": None},
            "code=Framework ok=True t=1.5 n=None ",
        ),
        (
            {"comment": "two words", "trace": {"id": "a"}},
            "comment='two words' trace='{'id': 'a'}' ",
        ),
        ({"a": "", "b": "  ", "c": "\n", "d": 0}, "d=0 "),
        ({"output": "one\ntwo\r\n", "error": "a b\nc"}, "output=one\\ntwo error='a b\\nc' "),
        ({"mute": Mute()}, "mute=<Mute> "),
    ],
)
def test_line_of_an_event(fields: dict[str, Any], text: str) -> None:
    line = eventlog_line({"seqnum": 12} | fields, AT)
    assert line == f"      12 2023-11-14|17:13:32EST seqnum=12 {text}\n"


def test_lines_are_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run.eventlog"
    sink = EventLog(path)
    for number in range(3):
        sink.write([{"seqnum": number, "text": "half a surrogate \udcff"}] * 2)
        assert len(path.read_bytes().splitlines()) == 2 * (number + 1)
    sink.end()
    sink.close()


def test_full_disk_costs_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sink = EventLog(tmp_path / "run.eventlog")
    real = sink._file._file
    sink._file._file = SimpleNamespace(write=_no_space)
    sink.write([{"seqnum": 0}])
    sink.write([{"seqnum": 1}])
    sink._file._file = real
    sink.end()
    lines = (tmp_path / "run.eventlog").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1"]
    assert capsys.readouterr().err.count("trying again later") == 1


def _no_space(data: bytes) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# The page.


def row(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "eventtype": "E",
        "seqnum": number,
        "code": "W__W_1",
        "time": "now",
        "walltime": "0.10",
        "phystimestamp": -1,
        "comment": f"event {number}",
        **fields,
    }


def test_page_has_a_row_an_event_but_for_start_and_end(tmp_path: Path) -> None:
    path = tmp_path / "run.html"
    sink = HtmlTable(path, print)
    sink.write([row(0, eventtype="IPS_START"), row(1, eventtype="IPS_RESOURCE_ALLOC")])
    sink.write([row(2, comment="a < b & c"), row(3, ok=False, state="Running")])
    sink.write([row(4, eventtype="IPS_END")])
    assert not path.exists()
    sink.end()
    sink.close()
    page = path.read_text(encoding="utf-8")
    assert page.count("<tr") == 3
    assert (
        "<tr><td>now</td><td>2</td><td>E</td><td>W__W_1</td><td></td><td>0.10</td>"
        "<td>-1</td><td>a &lt; b &amp; c</td></tr>"
    ) in page
    assert "<tr class=failed><td>now</td><td>3</td>" in page
    assert "left out" not in page
    assert list(tmp_path.iterdir()) == [path]


def test_page_of_many_events_says_how_many_are_left_out(tmp_path: Path) -> None:
    sink = HtmlTable(tmp_path / "run.html", print)
    sink.write([row(number) for number in range(html_table.MOST_ROWS + 7)])
    sink.end()
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert "The first 7 events are left out; run.json has all." in page
    assert page.count("<tr>") == html_table.MOST_ROWS + 1
    assert "<td>event 7</td>" in page
    assert "<td>event 6</td>" not in page


def test_page_is_written_in_between_when_it_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.html"
    sink = HtmlTable(path, print, every=3)
    sink.write([row(number) for number in range(3)])
    assert not path.exists()  # too soon
    monkeypatch.setattr(html_table, "_LEAST_SECONDS", -1.0)
    sink.write([row(3), row(4)])
    assert not path.exists()  # too few
    sink.write([row(5)])
    assert "event 5" in path.read_text(encoding="utf-8")


def test_copy_of_the_page(tmp_path: Path) -> None:
    copies = tmp_path / "www" / "runs"
    sink = HtmlTable(tmp_path / "run.html", print, copy_to=str(copies))
    sink.write([row(0)])
    sink.end()
    assert (copies / "run.html").read_text() == (tmp_path / "run.html").read_text()


def test_copy_that_cannot_be_written_is_said_and_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said: list[str] = []
    sink = HtmlTable(tmp_path / "run.html", said.append, copy_to=str(tmp_path / "file"))
    sink.write([row(0)])
    sink.end()
    sink.end()
    assert (tmp_path / "run.html").exists()
    assert said == [f"{tmp_path}/file/run.html cannot be written: Not a directory"]


def test_value_that_cannot_be_printed_costs_its_page_and_no_more(tmp_path: Path) -> None:
    said: list[str] = []
    sink = HtmlTable(tmp_path / "run.html", said.append)
    sink.write([row(0, comment=Mute())])
    sink.end()
    assert said == [f"{tmp_path}/run.html is not written: no"]


def test_title_of_a_page_is_text() -> None:
    assert "<title>a&lt;b</title>" in html_page([], "a<b")


# Which sinks.


def config(**fields: Any) -> Any:
    values = {"values": {}, "environment": {}, "use_portal": True, "portal_url": ""}
    return SimpleNamespace(**values | fields)


@pytest.mark.parametrize(
    ("use", "url", "portal"),
    [
        (True, "", False),
        (True, "http://127.0.0.1:9", True),
        (True, " https://127.0.0.1:9", True),
        (False, "http://127.0.0.1:9", False),
    ],
)
def test_sinks_of_a_simulation(tmp_path: Path, use: bool, url: str, portal: bool) -> None:
    said: list[str] = []
    fields = config(use_portal=use, portal_url=url)
    sinks = log_sinks(fields, tmp_path / "log", "run", said.append)
    for sink in sinks:
        sink.end()
        sink.close()
    assert [type(sink) for sink in sinks] == [EventLog, HtmlTable] + [Portal] * portal
    assert {path.name for path in (tmp_path / "log").iterdir()} == {"run.eventlog", "run.html"}
    assert said == []


@pytest.mark.parametrize("where", ["values", "environment", "platform"])
def test_where_a_copy_of_the_page_goes(tmp_path: Path, where: str) -> None:
    told = {"USER_W3_DIR": str(tmp_path / "www"), "HTML_DUMP_FREQ": "nonsense"}
    fields = config() if where == "platform" else config(**{where: told})
    platform = told if where == "platform" else {"USER_W3_DIR": "/proc/none"}
    for sink in log_sinks(fields, tmp_path, "run", print, platform):
        sink.end()
    assert (tmp_path / "www" / "run.html").exists()


def test_address_that_is_none_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    sinks = log_sinks(config(portal_url="file:///etc"), tmp_path, "run", said.append)
    sinks[0].end()
    assert len(sinks) == 2
    assert said == ["PORTAL_URL = file:///etc: expected http:// or https://; nothing is sent"]
