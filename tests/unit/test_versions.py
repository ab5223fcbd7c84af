"""Versions of a node: what is asked there, by which rule, and what is said."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest

from ips_dask_cluster.slurm.diagnosis import diagnose
from ips_dask_cluster.versions import VERSION_MISMATCH, check_source, driver_versions

HERE = driver_versions()


def ask(source: str, *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of a Python on node n1 that was asked."""
    done = subprocess.run(
        [sys.executable, "-c", source, *arguments],
        env=os.environ | {"IPS_DASK_NODE": "n1"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def other(version: str, part: int) -> str:
    """Another version: the first part that differs is given."""
    parts = version.split(".")
    parts[part] = str(int(parts[part]) + 1)
    return ".".join(parts)


def test_driver_versions_are_those_of_the_installed_packages() -> None:
    assert list(HERE) == ["Python", "dask", "distributed", "msgpack", "cloudpickle"]
    assert HERE["Python"] == ".".join(sys.version.split(".")[:2])
    assert HERE["distributed"] == metadata.version("distributed")


def test_a_package_without_metadata_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "msgpack":
            raise metadata.PackageNotFoundError(name)
        return "1.2"

    with monkeypatch.context() as patch:
        patch.setattr(metadata, "version", version)
        assert driver_versions() == {
            "Python": HERE["Python"],
            "dask": "1.2",
            "distributed": "1.2",
            "cloudpickle": "1.2",
        }
    assert ask(check_source(HERE | {"ips-nowhere": "1.0"})) == (0, "")


@pytest.mark.parametrize(
    "expected",
    [
        HERE,
        HERE | {"msgpack": other(HERE["msgpack"], 1)},
        HERE | {"cloudpickle": other(HERE["cloudpickle"], 1)},
    ],
    ids=["same", "msgpack of the same major version", "cloudpickle likewise"],
)
def test_versions_that_go_together_are_silent(expected: Mapping[str, str]) -> None:
    assert ask(check_source(expected)) == (0, "")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("Python", 1),
        ("dask", 2),
        ("distributed", 2),
        ("msgpack", 0),
        ("cloudpickle", 0),
    ],
)
def test_a_version_that_does_not_go_is_one_line_with_both(name: str, part: int) -> None:
    theirs = other(HERE[name], part)
    code, said = ask(check_source(HERE | {name: theirs}))
    sentence = (
        f"node n1: {sys.executable} has {name} {HERE[name]}, but the driver has {name} {theirs}; "
        "install the same there, pass python= or container= with one that has them, or turn the "
        "check off (version_check=False)"
    )
    assert (code, said) == (VERSION_MISMATCH, f"ips-dask: {sentence}\n")
    assert diagnose(code, said) == sentence


def test_all_that_differ_are_named() -> None:
    code, said = ask(check_source(HERE | {"dask": "2024.1", "distributed": "2024.2"}))
    assert code == VERSION_MISMATCH
    assert f" has dask {HERE['dask']}, distributed {HERE['distributed']}, but " in said
    assert "the driver has dask 2024.1, distributed 2024.2;" in said


# Directories, for containers.


def test_a_directory_that_the_container_does_not_show_is_named(tmp_path: Path) -> None:
    missing = tmp_path / 'it\'s "$HOME" \\ é'
    code, said = ask(check_source({}, [str(tmp_path), str(missing)]))
    sentence = (
        f"node n1: the container does not show the directory {missing}; bind it (volumes=), or "
        "choose one that containers see"
    )
    assert (code, said) == (66, f"ips-dask: {sentence}\n")
    assert diagnose(code, said) == sentence


def test_local_directory_of_the_worker_must_be_there_in_a_container(tmp_path: Path) -> None:
    source, shown = check_source({}, [str(tmp_path)]), str(tmp_path)
    assert ask(source, "--local-directory", shown) == (0, "")
    code, said = ask(source, "--local-directory", "/nowhere")
    assert code == 66
    assert "does not show the directory /nowhere;" in said


# The text of the question.


def test_nothing_to_ask_is_no_text() -> None:
    assert check_source({}) == ""


def test_text_may_stand_between_single_quotes_and_leaves_no_name_behind() -> None:
    source = check_source(HERE | {"it's": "'"}, ["/"])
    assert "'" not in source
    names: dict[str, object] = {}
    exec(source, names)
    assert set(names) == {"__builtins__"}
