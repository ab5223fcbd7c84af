"""Copies of files: which names mean what, what is there after a failure."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pytest

from ips_core.config.reading import file_names
from ips_core.files.copies import copy_file, copy_files, matching_files, unused_name


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("a  b\nc", ["a", "b", "c"]),
        (["a b", "c"], ["a b", "c"]),
        (("a",), ["a"]),
        ([Path("a")], ["a"]),
        ("", []),
        (None, []),
    ],
)
def test_a_text_is_split_and_a_list_is_not(value: object, names: list[str]) -> None:
    assert file_names(value) == names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "a [folder]*"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.nc", "b.nc", "with blank", "odd[1].nc", ".hidden", "sub/deep"):
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a.nc"], ["a.nc"]),
        (["*.nc"], ["a.nc", "b.nc", "odd[1].nc"]),
        (["b.nc", "*.nc", "b.nc"], ["b.nc", "a.nc", "odd[1].nc"]),
        (["with blank"], ["with blank"]),
        (["odd[1].nc"], ["odd[1].nc"]),
        (["[ab].nc"], ["a.nc", "b.nc"]),
        (["*/deep"], ["sub/deep"]),
        ([], []),
    ],
)
def test_names_and_wildcards(folder: Path, names: list[str], found: list[str]) -> None:
    assert matching_files(str(folder), names) == [str(folder / name) for name in found]
    assert matching_files("/nowhere", [str(folder / "sub" / "deep")]) == [str(folder / "sub/deep")]


def test_what_matches_nothing(folder: Path, tmp_path: Path) -> None:
    names = ["a.nc", "*.txt"]
    assert matching_files(str(folder), names, skip_missing=True) == [str(folder / "a.nc")]
    with pytest.raises(FileNotFoundError) as caught:
        copy_files(str(folder), names, str(tmp_path / "target"))
    assert str(caught.value) == f"No such file : {folder}/*.txt"
    assert not (tmp_path / "target").exists()


def test_copies_have_a_prefix_and_the_mode_and_no_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "a.nc").chmod(0o740)
    target = tmp_path / "new" / "target"
    copy_files(str(folder), ["a.nc", "sub/deep"], str(target), "run7_")
    assert sorted(os.listdir(target)) == ["run7_a.nc", "run7_deep"]
    assert (target / "run7_a.nc").stat().st_mode & 0o777 == 0o740
    # a second time, also over what may not be written to
    (target / "run7_a.nc").chmod(0o400)
    (folder / "a.nc").write_text("new")
    copy_files(str(folder), ["a.nc"], str(target), "run7_")
    assert (target / "run7_a.nc").read_text() == "new"


def test_nothing_is_to_be_done_in_one_directory(folder: Path) -> None:
    copy_files(str(folder), ["missing"], f"{folder}/sub/..")
    (folder / "link.nc").symlink_to("a.nc")
    copy_file(str(folder / "a.nc"), str(folder / "link.nc"))
    assert (folder / "link.nc").is_symlink()
    copy_files(str(folder), ["a.nc"], str(folder), "prefix_")
    assert (folder / "prefix_a.nc").read_text() == "a.nc"


def test_link_stays_and_what_it_leads_to_is_replaced(folder: Path, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_text("old")
    (tmp_path / "link").symlink_to(real)
    copy_file(str(folder / "a.nc"), str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert real.read_text() == "a.nc"


def test_who_reads_has_the_old_file_to_its_end(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "state"
    target.write_text("all of the old")
    with target.open("rb", buffering=0) as reader:
        first = reader.read(3)
        copy_file(str(folder / "a.nc"), str(target))
        assert first + reader.read() == b"all of the old"
    assert target.read_text() == "a.nc"


def test_copy_that_fails_leaves_the_old_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "there" / "state"
    target.parent.mkdir()
    target.write_text("old")

    def full(source: str, beside: str) -> None:
        Path(beside).write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copy", full)
    with pytest.raises(OSError, match="No space") as caught:
        copy_file(str(folder / "a.nc"), str(target))
    text = f"[Errno 28] cannot copy {folder}/a.nc to {target}: No space left on device"
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value))) == text
    assert (os.listdir(target.parent), target.read_text()) == (["state"], "old")


def test_reason_is_of_the_type_that_one_expects(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=r"cannot copy .*/sub to .*: Is a directory"):
        copy_file(str(folder / "sub"), str(tmp_path / "sub"))
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match=r"cannot copy .*/a.nc to .*/file/a.nc: File exists"):
        copy_file(str(folder / "a.nc"), str(tmp_path / "file" / "a.nc"))


def test_unused_name(tmp_path: Path) -> None:
    path = tmp_path / "out.nc"
    for expected in ("out.nc", "out.nc.0", "out.nc.1"):
        name = unused_name(str(path))
        assert name == str(tmp_path / expected)
        Path(name).touch()
