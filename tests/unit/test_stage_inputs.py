"""Input files of components, as the framework and the owner of a sub-workflow stage them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ips_core.config import ComponentConfig, SimulationConfig
from ips_core.files.staging import stage_inputs, stage_sub_flow_inputs


def component(section: str, **values: Any) -> ComponentConfig:
    return ComponentConfig(section, "WORKERS", "", "Worker", "", "worker", values)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("inputs/a.in", "inputs/with blank", "plain.in"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"INPUT_DIR": "inputs", "INPUT_FILES": "*.in"}, ["a.in"]),
        ({"INPUT_DIR": "inputs", "INPUT_FILES": ["with blank"]}, ["with blank"]),
        ({"INPUT_FILES": "plain.in"}, ["plain.in"]),
        ({"INPUT_DIR": "", "INPUT_FILES": ""}, []),
        ({}, []),
    ],
)
def test_inputs_of_a_component(here: Path, values: dict[str, Any], names: list[str]) -> None:
    stage_inputs(component("Worker", **values), here / "work")
    assert sorted(path.name for path in (here / "work").iterdir()) == names


def test_input_that_is_missing(here: Path) -> None:
    config = component("Worker", INPUT_DIR="/nowhere", INPUT_FILES="a.in")
    with pytest.raises(FileNotFoundError) as caught:
        stage_inputs(config, here / "work")
    assert str(caught.value) == "[Worker] INPUT_FILES: No such file : /nowhere/a.in"


def test_inputs_of_a_sub_workflow(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {
        "Driver": component("Driver", INPUT_DIR="inputs", INPUT_FILES="a.in"),
        "Worker": component("Worker", INPUT_DIR=str(here), INPUT_FILES="plain.in"),
    }
    flow = SimulationConfig("", "sub", "", "", "", {}, parts, {}, {})
    monkeypatch.chdir("/")
    for _ in range(2):
        stage_sub_flow_inputs(flow, str(here / "work"), str(here))
    found = {str(path.relative_to(here / "work")) for path in (here / "work").rglob("*")}
    assert found == {"Driver", "Driver/a.in", "Worker", "Worker/plain.in"}
