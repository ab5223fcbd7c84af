"""The simulation log: whole after every line, readable while it grows, whatever is in an event."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest

from ips_core.log.simulation_log import SimulationLog, read_log

RUN_ID = "sim_host_me_2026-03-01T10:00:00.000"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SimulationLog]:
    log = SimulationLog(tmp_path / "sim" / "simulation_log", RUN_ID, "sim")
    yield log
    log.end()
    log.close()


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def lines(log: SimulationLog) -> list[dict[str, Any]]:
    """What the file holds now; strict about what JSON is."""
    return [json.loads(line, parse_constant=refuse) for line in log.path.read_text().splitlines()]


def test_file_is_named_after_the_run(log: SimulationLog, tmp_path: Path) -> None:
    assert log.path == tmp_path / "sim" / "simulation_log" / f"{RUN_ID}.json"


def test_every_line_is_there_at_once(log: SimulationLog) -> None:
    completion = {"sim_name": "sim", "phystimestamp": -1, "portal_runid": RUN_ID}
    expected = []
    for number in range(3):
        log.write({"eventtype": "E", "number": number})
        expected.append({"eventtype": "E", "number": number, **completion, "seqnum": number})
        assert lines(log) == expected
    assert list(lines(log)[0]) == list(expected[0])


def test_trace_gets_the_id_of_the_run(log: SimulationLog) -> None:
    event = {"trace": {"name": "x", "id": "s1"}}
    log.write(event)
    assert lines(log)[0]["trace"] == {
        "name": "x",
        "id": "s1",
        "traceId": md5(RUN_ID.encode()).hexdigest(),
    }
    assert event == {"trace": {"name": "x", "id": "s1"}}


def test_log_is_appended_to(log: SimulationLog) -> None:
    log.write({"number": 0})
    again = SimulationLog(log.path.parent, RUN_ID, "sim")
    again.write({"number": 1})
    again.end()
    assert [event["number"] for event in lines(log)] == [0, 1]


def test_several_events_are_one_write_in_their_order(
    log: SimulationLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    monkeypatch.setattr(log._file, "_file", closing := Writer(log._file._file, written))
    log.write_all({"number": number} for number in range(3))
    log.write_all([])
    log.write({"number": 3})
    assert len(written) == 2
    assert [(event["number"], event["seqnum"]) for event in lines(log)] == [
        (number, number) for number in range(4)
    ]
    closing.close()


def test_time_stamp_and_address_hold_until_there_is_another(log: SimulationLog) -> None:
    brought: list[dict[str, Any]] = [{}, {"phystimestamp": 2.5}, {}, {"vizurl": "host/a"}, {}]
    log.write_all([*brought, {"phystimestamp": 3.5, "vizurl": ""}, {}])
    found = lines(log)
    assert [event["phystimestamp"] for event in found] == [-1, 2.5, 2.5, 2.5, 2.5, 3.5, 3.5]
    assert [event.get("vizurl") for event in found] == [None] * 3 + ["host/a"] * 2 + ["", None]
    assert list(found[1]) == ["sim_name", "phystimestamp", "portal_runid", "seqnum"]


def test_sinks_get_what_the_log_has(tmp_path: Path) -> None:
    heard: list[Any] = []

    class Listener:
        def write(self, events: Sequence[dict[str, Any]]) -> None:
            heard.append(list(events))

        def end(self) -> None:
            heard.append("end")

        def close(self) -> None:
            heard.append("close")

    log = SimulationLog(tmp_path, RUN_ID, "sim", [Listener()])
    log.write_all([{"a": 1}, {"b": 2}], "sim::sub")
    written = lines(log)
    assert [event["sim_name"] for event in written] == ["sim::sub"] * 2
    log.end()
    log.close()
    assert heard == [written, "end", "close"]


class Writer:
    """A file that notes each write."""

    def __init__(self, file: Any, written: list[bytes]) -> None:
        self.file = file
        self.written = written

    def write(self, data: bytes) -> int:
        self.written.append(bytes(data))
        return self.file.write(data)

    def close(self) -> None:
        self.file.close()


class FullDisk:
    """A file that takes a few bytes now and then."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.room = 0

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken, self.room = data[: self.room], 0
        with self.path.open("ab") as file:
            return file.write(taken)

    def close(self) -> None:
        pass


def test_full_disk_costs_a_line_nothing_but_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = SimulationLog(tmp_path, RUN_ID, "sim")
    log.end()
    disk = log._file._file = FullDisk(log.path)
    for number, room in enumerate((0, 10, 0, 100, 2000)):
        disk.room = room
        log.write({"number": number})
    assert [event["number"] for event in lines(log)] == [0, 1, 2, 3, 4]
    complaint = f"{log.path}: {os.strerror(errno.ENOSPC)}; trying again later\n"
    assert capsys.readouterr() == ("", complaint)


LOOP: list[Any] = []
LOOP.append(LOOP)


class Mute:
    """Something that cannot even be printed."""

    def __repr__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        b"bytes",
        Path("/a"),
        1j,
        "two\nlines \u2028 \x85",
        "half a surrogate \udcff",
        float("nan"),
        float("inf"),
        {(1, 2): "key"},
        LOOP,
        Mute(),
    ],
    ids=[
        *("set", "bytes", "path", "complex", "line ends", "surrogate", "nan", "infinity"),
        *("key that is no text", "loop", "mute"),
    ],
)
def test_odd_value_costs_no_line(log: SimulationLog, value: Any) -> None:
    log.write({"before": 1})
    log.write({"eventtype": "E", "odd": value})
    log.write({"after": 1})
    found = lines(log)
    assert [event["seqnum"] for event in found] == [0, 1, 2]
    assert found[1]["eventtype"] == "E"
    assert read_log(log.path) == found


def test_odd_value_is_kept_as_text(log: SimulationLog) -> None:
    log.write({"path": Path("/a b"), "nested": [{1}], "text": "é\n"})
    assert lines(log)[0].items() >= {"path": "/a b", "nested": ["{1}"], "text": "é\n"}.items()


# Reading.


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("", []),
        ('{"a": 1', []),
        ('{"a": 1}', []),
        ('{"a": 1}\n', [{"a": 1}]),
        ('{"a": 1}\n{"b": ', [{"a": 1}]),
        ('{"a": 1}\n{"b": 2}\n', [{"a": 1}, {"b": 2}]),
    ],
)
def test_last_line_without_its_end_is_not_read(
    tmp_path: Path, text: str, events: list[dict[str, Any]]
) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    assert read_log(path) == events


def test_folder_gives_its_newest_log(tmp_path: Path) -> None:
    for name, age in (("b.json", 10), ("a.json", 5), ("c.json", 20)):
        path = tmp_path / name
        path.write_text(json.dumps({"log": name}) + "\n")
        os.utime(path, (1000 - age, 1000 - age))
    assert read_log(str(tmp_path)) == [{"log": "a.json"}]


def test_folder_without_a_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no simulation log in {tmp_path}"):
        read_log(tmp_path)
