"""``ips.py init DIR``: what it writes passes its check and runs at once; nothing is overwritten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ips_core import cli

Captured = pytest.CaptureFixture[str]


def test_simulation_that_is_written_runs_at_once(simulation: Any, capsys: Captured) -> None:
    folder = simulation.folder / "new study"
    assert cli.main(["init", str(folder)]) == 0
    out, _ = capsys.readouterr()
    assert out.endswith(f"Run it: cd '{folder}' && ips.py --config=new_study.config\n")
    simulation.folder, simulation.name = folder, "new_study"
    outcome = simulation.run()
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.splitlines()[1:] == [
        "moment 0.0 sum 140.0",
        "moment 1.0 sum 148.0",
        "moment 2.0 sum 156.0",
    ]
    squares = folder / "new_study" / "work" / "WORKERS__Worker_2" / "squares.txt"
    assert squares.read_text().splitlines()[2] == "square_2 6.0"


def test_simulation_that_is_written_passes_its_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert cli.main(["init", "."]) == 0
    assert cli.main(["check", f"{tmp_path.name}.config"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("there", ["study.config", "driver.py", "worker.py"])
def test_nothing_is_overwritten(tmp_path: Path, capsys: Captured, there: str) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / there).write_text("mine")
    assert cli.main(["init", str(folder)]) == 1
    sentence = f"ips.py: {folder / there} is there already: nothing is overwritten\n"
    assert capsys.readouterr() == ("", sentence)
    assert [path.read_text() for path in folder.iterdir()] == ["mine"]


def test_folder_that_cannot_be_made(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["init", str(tmp_path / "file" / "study")]) == 1
    sentence = f"ips.py: cannot write {tmp_path}/file/study: Not a directory\n"
    assert capsys.readouterr() == ("", sentence)


@pytest.mark.parametrize(
    ("directory", "file"),
    [("a b/c d", "c_d.config"), (".hidden", "hidden.config"), ("$x{y}", "x_y.config")],
)
def test_file_is_named_after_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directory: str, file: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", directory]) == 0
    assert (tmp_path / directory / file).is_file()
