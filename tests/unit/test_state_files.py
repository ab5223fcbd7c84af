"""The lock on state files, and merges into them."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from ips_core.errors import IPSError
from ips_core.files.state_files import merge_state, state_lock

_SECONDS = 10.0


@pytest.fixture(autouse=True)
def lock_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where locks are, as on a machine without other simulations."""
    folder = tmp_path / "locks"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def locker(directory: str, exclusive: bool, got: Any, leave: Any) -> threading.Thread:
    def run() -> None:
        with state_lock(directory, exclusive):
            got.set()
            leave.wait(_SECONDS)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [(True, True, False), (True, False, False), (False, True, False), (False, False, True)],
)
def test_readers_share_and_writers_do_not(
    tmp_path: Path, lock_folder: Path, first: bool, second: bool, together: bool
) -> None:
    got, leave = threading.Event(), threading.Event()
    with state_lock(str(tmp_path), first):
        other = locker(f"{tmp_path}/.", second, got, leave)
        assert got.wait(_SECONDS if together else 0.2) is together
    assert got.wait(_SECONDS)
    assert len(os.listdir(lock_folder)) == 1
    leave.set()
    other.join(_SECONDS)
    assert os.listdir(lock_folder) == []


def add(directory: str, count: int) -> None:
    number = Path(directory, "number")
    for _ in range(count):
        with state_lock(directory, exclusive=True):
            number.write_text(str(int(number.read_text()) + 1))


def test_no_update_is_lost(tmp_path: Path, lock_folder: Path) -> None:
    """Although every writer removes the lock's file if it is alone."""
    (tmp_path / "number").write_text("0")
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=add, args=(str(tmp_path), 200)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(_SECONDS * 3)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert (tmp_path / "number").read_text() == "600"
    assert os.listdir(lock_folder) == []


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A shared state, and a work directory with a partial state."""
    state, work = tmp_path / "shared" / "state.nc", tmp_path / "work"
    state.parent.mkdir()
    work.mkdir()
    state.write_text("old\n")
    (work / "part").write_text("new\n")
    return state, work


MERGE = 'echo "$1 $3"; basename "$2"; cat "$4" >> "$2"'


def test_merge(program: Any, monkeypatch: pytest.MonkeyPatch, files: tuple[Path, Path]) -> None:
    binary = program("merge", f"PATH=/usr/bin:/bin\n{MERGE}")
    state, work = files
    merge_state(str(binary), str(state), str(work / "part"), str(work), "merge.log")
    assert state.read_text() == (work / "state.nc").read_text() == "old\nnew\n"
    assert (work / "merge.log").read_text() == "-input -updates\nstate.nc\n"
    assert os.listdir(state.parent) == ["state.nc"]


@pytest.mark.parametrize(
    ("end", "outcome"),
    [("exit 3", "exited with code 3"), ("kill -9 $$", "exited with code -9")],
)
def test_merge_that_fails_changes_nothing(
    program: Any, files: tuple[Path, Path], end: str, outcome: str
) -> None:
    binary = program("merge", f'echo half > "$2"\n{end}')
    state, work = files
    with pytest.raises(IPSError) as caught:
        merge_state(str(binary), str(state), "part", str(work), "merge.log")
    assert str(caught.value) == (
        "Error merging update part into current plasma state file state.nc: "
        f"{binary} {outcome}; its output is in {work}/merge.log"
    )
    assert state.read_text() == "old\n"
    assert os.listdir(state.parent) == ["state.nc"]


def test_merge_that_hangs_is_ended_with_what_it_started(
    program: Any, files: tuple[Path, Path], wait_until: Any
) -> None:
    binary = program("merge", "PATH=/usr/bin:/bin\nsleep 60 & echo $! > pid; wait")
    state, work = files
    with pytest.raises(IPSError, match=r"/merge was ended after 0.5 s$"):
        merge_state(str(binary), str(state), "part", str(work), seconds=0.5)
    pid = int((work / "pid").read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 5, "sleep goes")


def test_merge_without_a_state(program: Any, files: tuple[Path, Path]) -> None:
    state, work = files
    state.unlink()
    with pytest.raises(FileNotFoundError, match=r"cannot copy .*/shared/state.nc to"):
        merge_state(str(program("merge")), str(state), "part", str(work))
