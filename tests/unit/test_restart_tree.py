"""Checkpoints on disk: which are whole, which is the latest."""

from __future__ import annotations

from pathlib import Path

import pytest

from ips_core.config.restart_tree import checkpoints, latest_checkpoint, restart_path
from ips_core.files.restart_tree import being_made, remove_checkpoint


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("10.000", "9.000", "notes"):
        (tmp_path / "restart" / name).mkdir(parents=True)
        (tmp_path / "restart" / name / "file").touch()
    (tmp_path / "restart" / "11.000").touch()  # a file
    return tmp_path


def test_paths() -> None:
    assert restart_path("/r", "3.000", "W__W") == "/r/restart/3.000/W__W"
    assert restart_path("/r", "3.000") == "/r/restart/3.000"


def test_in_the_order_of_their_times(root: Path) -> None:
    assert checkpoints(str(root)) == ["9.000", "10.000"]
    assert latest_checkpoint(str(root)) == "10.000"


def test_none(tmp_path: Path) -> None:
    assert checkpoints(str(tmp_path)) == []
    assert latest_checkpoint(str(tmp_path)) is None


def test_one_that_is_being_made_is_not_the_latest(root: Path) -> None:
    with being_made(str(root), "12.000"):
        (root / "restart" / "12.000" / "file").touch()
        assert latest_checkpoint(str(root)) == "10.000"
    assert latest_checkpoint(str(root)) == "12.000"
    assert [path.name for path in (root / "restart" / "12.000").iterdir()] == ["file"]


def test_nor_is_one_that_failed(root: Path) -> None:
    with pytest.raises(ZeroDivisionError), being_made(str(root), "12.000"):
        raise ZeroDivisionError
    assert checkpoints(str(root)) == ["9.000", "10.000", "12.000"]
    assert latest_checkpoint(str(root)) == "10.000"
    with being_made(str(root), "12.000"):
        (root / "restart" / "12.000" / "file").touch()
    assert latest_checkpoint(str(root)) == "12.000"


def test_nothing_is_left_of_one_in_which_nothing_was_saved(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    with being_made(str(tmp_path), "1.000"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_remove(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove_checkpoint(str(root), "10.000")
    assert checkpoints(str(root)) == ["9.000"]
    # one that is half gone is no checkpoint either
    monkeypatch.setattr("shutil.rmtree", lambda folder: None)
    remove_checkpoint(str(root), "9.000")
    assert latest_checkpoint(str(root)) is None
