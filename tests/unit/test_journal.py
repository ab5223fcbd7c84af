"""What a worker notes of its tasks, and what is read of that when the worker is gone."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest

from ips_core.pools.dask.journal import JournalReader
from ips_core.tasks.runner import Journal

SHORT, LONG = b"record", b"x" * 5000


@pytest.fixture
def wanted() -> set[str]:
    """The keys that are in flight."""
    return {"c-1", "d-2"}


@pytest.fixture
def reader(tmp_path: Path, wanted: set[str]) -> JournalReader:
    return JournalReader(tmp_path, wanted)


def test_what_has_begun_and_what_has_ended(tmp_path: Path, reader: JournalReader) -> None:
    journal = Journal(str(tmp_path), "c-0")
    journal.begun("c-1", pickle.dumps({"name": "a b/c"}))
    journal.begun("d-2", pickle.dumps({"name": "d"}))
    assert journal.ended("d-2", SHORT) == {"record": SHORT}
    reader.read()
    assert (reader.begun("c-1"), reader.has_ended("c-1")) == ({"name": "a b/c"}, False)
    assert (reader.has_ended("d-2"), reader.record("d-2")) == (True, SHORT)
    assert journal.ended("c-1", SHORT) == {"record": SHORT}
    reader.read()  # goes on where it was
    assert reader.record("c-1") == SHORT


def test_long_record_has_a_file_that_goes_with_being_read(
    tmp_path: Path, reader: JournalReader
) -> None:
    assert Journal(str(tmp_path), "c-0").ended("c-1", LONG) == {"file": "c-1.result"}
    reader.read()
    assert reader.record("c-1") == LONG
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".result"] == []
    assert reader.record("c-1") is None


def test_record_that_cannot_be_stored_is_told_and_noted(
    tmp_path: Path, reader: JournalReader
) -> None:
    journal = Journal(str(tmp_path), "c-0")
    (tmp_path / "d-2.result.part").mkdir()
    assert journal.ended("d-2", LONG) == {"record": LONG}
    reader.read()
    assert (reader.has_ended("d-2"), reader.record("d-2")) == (True, None)


def test_line_that_is_not_whole_yet_is_left_for_later(
    tmp_path: Path, reader: JournalReader
) -> None:
    Journal(str(tmp_path), "c-0").ended("d-2", SHORT)
    (path,) = tmp_path.iterdir()
    line = path.read_bytes()
    path.write_bytes(line[:10])
    reader.read()
    assert not reader.has_ended("d-2")
    path.write_bytes(line)
    reader.read()
    assert reader.has_ended("d-2")


def test_tasks_of_others_are_passed_over(tmp_path: Path, reader: JournalReader) -> None:
    Journal(str(tmp_path), "c-0").ended("other-9", SHORT)
    reader.read()
    assert not reader.has_ended("other-9")


def test_journal_that_cannot_be_written_costs_no_task(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "nowhere"), "c-0")
    journal.begun("d-2", SHORT)
    assert journal.ended("d-2", SHORT) == {"record": SHORT}
    assert journal.ended("d-2", LONG) == {"record": LONG}


def test_line_that_a_full_disk_cut_off_spoils_no_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(str(tmp_path), "c-0")
    write = os.write
    monkeypatch.setattr("os.write", lambda file, data: write(file, data[:10]))
    journal.begun("d-1", SHORT)
    monkeypatch.undo()
    journal.begun("d-2", SHORT)
    journal.begun("d-3", SHORT)
    (path,) = tmp_path.iterdir()
    torn, *whole = path.read_text().splitlines()
    assert torn == '{"key": "d'
    assert [json.loads(line)["key"] for line in whole] == ["d-2", "d-3"]


def test_processes_of_a_worker_have_journals_of_their_own(tmp_path: Path) -> None:
    Journal(str(tmp_path), "c-0").begun("d-2", SHORT)
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("c-0-")
    assert path.name.endswith(f"-{os.getpid()}.journal")
    assert path.stat().st_mode & 0o777 == 0o600


def test_torn_line_costs_no_other(tmp_path: Path, reader: JournalReader) -> None:
    Journal(str(tmp_path), "c-0").ended("c-1", SHORT)
    (path,) = tmp_path.glob("*.journal")
    path.write_bytes(b'{"key": "d-2", "en\n\n' + path.read_bytes())
    reader.read()
    assert (reader.has_ended("c-1"), reader.has_ended("d-2")) == (True, False)


def test_what_a_worker_has_looked_at(tmp_path: Path, reader: JournalReader) -> None:
    Journal(str(tmp_path), "c-0").taken("c-1")
    reader.read()
    assert (reader.was_taken("c-1"), reader.was_taken("d-2")) == (True, False)
    assert reader.begun("c-1") is None
