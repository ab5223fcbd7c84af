"""Where staged outputs go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ips_core.files.results_tree import ResultsTree, stamped


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.nc", "a_0.5.nc"), ("a.b.nc", "a.b_0.5.nc"), ("a", "a_0.5"), (".a", "_0.5.a")],
)
def test_stamp_comes_before_the_extension(name: str, expected: str) -> None:
    assert stamped(name, "0.5") == expected


@pytest.fixture
def work(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    (work / "sub").mkdir(parents=True)
    (work / "out.nc").write_text("first")
    (work / "sub" / "deep.txt").write_text("deep")
    return work


def everything(root: Path) -> dict[str, str]:
    """Each file and its text; for a link, what it says."""
    files = [path for path in root.rglob("*") if path.is_symlink() or path.is_file()]
    return {
        str(path.relative_to(root)): f"-> {os.readlink(path)}"
        if path.is_symlink()
        else path.read_text()
        for path in files
    }


def test_outputs_and_their_links(tmp_path: Path, work: Path) -> None:
    tree = ResultsTree(str(tmp_path / "root"), "W__W_2", "0.5", "p_")
    tree.keep_outputs(str(work), ["out.nc", "sub/*", "missing"], keep_old=True)
    assert tree.outputs == str(tmp_path / "root/simulation_results/0.5/components/W__W_2")
    assert everything(tmp_path / "root" / "simulation_results") == {
        "0.5/components/W__W_2/p_out.nc": "first",
        "0.5/components/W__W_2/p_deep.txt": "deep",
        "W__W_2/out_0.5.nc": "-> ../0.5/components/W__W_2/p_out.nc",
        "W__W_2/deep_0.5.txt": "-> ../0.5/components/W__W_2/p_deep.txt",
    }


@pytest.mark.parametrize(
    ("keep_old", "names", "linked"),
    [
        (True, {"out.nc": "first", "out.nc.0": "second", "out.nc.1": "third"}, "out.nc.1"),
        (False, {"out.nc": "third"}, "out.nc"),
    ],
)
def test_same_output_again(
    tmp_path: Path, work: Path, keep_old: bool, names: dict[str, str], linked: str
) -> None:
    tree = ResultsTree(str(tmp_path / "root"), "W__W_2", "0.5")
    for text in ("first", "second", "third"):
        (work / "out.nc").write_text(text)
        tree.keep_outputs(str(work), ["out.nc"], keep_old)
    folder = "0.5/components/W__W_2"
    assert everything(tmp_path / "root" / "simulation_results") == {
        **{f"{folder}/{name}": text for name, text in names.items()},
        "W__W_2/out_0.5.nc": f"-> ../{folder}/{linked}",
    }


def test_state_files_are_kept_each_time(tmp_path: Path, work: Path) -> None:
    tree = ResultsTree(str(tmp_path / "root"), "W__W_2", "0.5", "p_")
    for text in ("first", "second"):
        (work / "out.nc").write_text(text)
        tree.keep_state(str(work), ["out.nc", "missing"])
    assert everything(tmp_path / "root") == {
        "simulation_results/plasma_state/p_out_W__W_2_0.5.nc": "first",
        "simulation_results/plasma_state/p_out_W__W_2_0.5.nc.0": "second",
    }
