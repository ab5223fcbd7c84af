"""The versions that the tests install: constraints.txt, the lower bounds, the range of Pythons."""

from __future__ import annotations

import configparser
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

TOP = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PYPROJECT = tomllib.loads((TOP / "pyproject.toml").read_text("utf-8"))
SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(TOP / "setup.cfg", encoding="utf-8")


def requirements() -> list[Requirement]:
    """Return what setup.cfg and pyproject.toml ask for."""
    texts = [SETUP["options"]["install_requires"], *SETUP["options.extras_require"].values()]
    lines = [line for text in texts for line in text.splitlines() if line]
    return [Requirement(line) for line in (*lines, *PYPROJECT["build-system"]["requires"])]


def locked() -> list[Requirement]:
    lines = (TOP / "constraints.txt").read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def holds(requirement: Requirement, python: str) -> bool:
    """Tell whether a requirement's marker is true for a Python on Linux."""
    environment = {"python_version": python, "python_full_version": f"{python}.9"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


@pytest.mark.parametrize("python", PYTHONS)
def test_each_requirement_is_locked_within_its_bounds(python: str) -> None:
    """One version each; `make lock` mends what this finds."""
    pins: dict[str, list[str]] = {}
    for pin in locked():
        if holds(pin, python):
            pins.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier)[2:])
    assert {name: found for name, found in pins.items() if len(found) > 1} == {}
    outside = {
        str(each): pins.get(canonicalize_name(each.name))
        for each in requirements()
        if holds(each, python)
        and not any(map(each.specifier.contains, pins.get(canonicalize_name(each.name), ())))
    }
    assert outside == {}


def test_locked_versions_come_from_no_particular_machine_or_index() -> None:
    text = (TOP / "constraints.txt").read_text("utf-8")
    assert "make lock" in text.splitlines()[1]
    for line in text.splitlines()[2:]:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; [\w'.<>=!()* ]+)?", line)


def test_each_requirement_has_a_lower_bound() -> None:
    """Else `make test-oldest` takes the oldest release ever made of it."""
    bounds = {">=", "=="}
    assert [str(r) for r in requirements() if not bounds & {s.operator for s in r.specifier}] == []


def test_the_lowest_python_is_the_same_everywhere() -> None:
    lowest = PYTHONS[0]
    python_requires = SpecifierSet(SETUP["options"]["python_requires"])
    assert python_requires == SpecifierSet(f">={lowest}")
    assert SETUP["mypy"]["python_version"] == lowest
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{lowest.replace('.', '')}"
    assert f"needs Python >= {lowest}" in (TOP / "README.md").read_text("utf-8")
    assert f"({lowest.replace('.', ', ')})" in (TOP / "tools" / "make-venv").read_text("utf-8")
    assert f"--python-version {lowest} " in (TOP / "Makefile").read_text("utf-8")
    classifiers = SETUP["metadata"]["classifiers"]
    assert tuple(re.findall(r"Python :: (3\.\d+)", classifiers)) == PYTHONS


def test_the_workflow_runs_what_is_there_on_each_python() -> None:
    workflow = yaml.safe_load((TOP / ".github" / "workflows" / "tests.yml").read_text("utf-8"))
    assert {"push", "pull_request", "schedule"} <= set(workflow[True])  # YAML reads `on` as true
    assert workflow["jobs"]["ci"]["steps"][-1] == {"run": ".ci/run"}
    matrix = workflow["jobs"]["versions"]["strategy"]["matrix"]
    assert tuple(matrix["python"]) == PYTHONS
    assert matrix["include"] == [{"target": "test-oldest", "python": PYTHONS[0]}]
    targets = [*matrix["target"], "test-oldest"]
    argv = ["make", "--dry-run", "--directory", TOP, *targets]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
