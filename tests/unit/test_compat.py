"""``import ipsframework``: its names, and what is said of those that are not here."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import ips_core
from ips_core import errors
from ips_core.compat import files, install_ipsframework_alias
from ips_core.compat.names import INSTEAD, NAMES


@pytest.fixture(autouse=True)
def _ipsframework() -> Iterator[None]:
    """The alias, in this process for as long as a test runs."""
    before = {name: sys.modules[name] for name in sys.modules if name.startswith("ipsframework")}
    install_ipsframework_alias()
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "ipsframework"]:
        del sys.modules[name]
    sys.modules.update(before)


def module(submodule: str) -> Any:
    return import_module(f"ipsframework.{submodule}" if submodule else "ipsframework")


@pytest.mark.parametrize(
    ("submodule", "name"), [(each, name) for each, names in NAMES.items() for name in names]
)
def test_every_name_is_there(submodule: str, name: str) -> None:
    found = module(submodule)
    assert getattr(found, name) is getattr(found, name)
    assert callable(getattr(found, name)) or name == "__version__"
    assert name in dir(found)


def test_names_are_those_of_this_package() -> None:
    from ipsframework import Component, Framework, ServicesProxy, Task, __version__, services
    from ipsframework.ips import Framework as again

    assert Component is ips_core.Component
    assert Framework is again is ips_core.Framework
    assert ServicesProxy is ips_core.ServicesProxy is services.ServicesProxy
    assert Task is ips_core.Task
    assert re.match(r"\d+\.\d+", __version__)


@pytest.mark.parametrize(
    ("submodule", "name"),
    [
        *(("", f"{kind}Manager") for kind in ("Configuration", "Data", "Resource", "Task")),
        ("resourceManager", "ResourceManager"),
        ("taskManager", "TaskInit"),
        ("messages", "ServiceRequestMessage"),
    ],
)
def test_name_without_a_counterpart_says_what_to_use(submodule: str, name: str) -> None:
    """Also with ``from ... import``, which would swallow the text of an AttributeError."""
    where = module(submodule).__name__
    sentence = f"ips_core has no {where}.{name}: {INSTEAD[name]}"
    with pytest.raises(ImportError) as caught:
        exec(f"from {where} import {name}")
    assert str(caught.value) == sentence


def test_name_that_nobody_has_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"ips_core has no ipsframework\.services\.nope"):
        module("services").nope  # noqa: B018
    assert not hasattr(module(""), "nope")


@pytest.mark.parametrize(
    ("name", "raised"),
    [
        ("IncompleteCallException", errors.IncompleteCallException(3)),
        ("BadResourceRequestException", errors.BadResourceRequest("x")),
        ("InsufficientResourcesException", errors.InsufficientResources("x")),
        ("InvalidResourceSettingsException", errors.ConfigError("p.conf", ["x"])),
    ],
)
def test_exceptions_are_caught_by_their_old_names(name: str, raised: Exception) -> None:
    with pytest.raises(getattr(module("ipsExceptions"), name)):
        raise raised
    assert getattr(module("ips_exceptions"), name) is getattr(module("ipsExceptions"), name)


def test_component_id_answers_by_the_old_names() -> None:
    component = module("componentRegistry").ComponentID("sim", "Driver", 3)
    names = ("serialization", "instance_name", "sim_name", "class_name", "seq_num")
    answers = [getattr(component, f"get_{name}")() for name in names]
    assert answers == ["sim@Driver@3", "sim@Driver@3", "sim", "Driver", 3]


def test_alias_loads_nothing_until_asked() -> None:
    code = """
import sys
from ips_core.compat import install_ipsframework_alias
before = set(sys.modules)
install_ipsframework_alias()
from ipsframework import Component
import ipsframework.resourceManager
print(sorted(name for name in set(sys.modules) - before if not name.startswith("ipsframework")))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


# ipsutil.


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "from").mkdir()
    for name in ("a.txt", "b.txt", "c.dat"):
        (tmp_path / "from" / name).write_text(f"new {name}")
    return tmp_path


@pytest.mark.parametrize(
    ("names", "prefix", "copied"),
    [
        ("a.txt c.dat", "", ["a.txt", "c.dat"]),
        (["a.txt"], "p_", ["p_a.txt"]),
        ("*.txt a.txt", "", ["a.txt", "b.txt"]),
        ("", "", None),
    ],
)
def test_files_are_copied(folder: Path, names: Any, prefix: str, copied: Any) -> None:
    files.copyFiles("from", names, "to/there", prefix)
    target = folder / "to" / "there"
    assert (sorted(p.name for p in target.iterdir()) if target.exists() else None) == copied


def test_file_that_is_missing_keeps_the_others_from_being_copied(folder: Path) -> None:
    with pytest.raises(Exception, match=r"^No such file : from/nope$"):
        files.copyFiles("from", "a.txt nope", "to")
    assert not (folder / "to").exists()


@pytest.mark.parametrize(("keep_old", "first"), [(True, "old"), (False, "new a.txt")])
def test_files_that_are_there_are_kept_if_wanted(folder: Path, keep_old: bool, first: str) -> None:
    (folder / "to").mkdir()
    (folder / "to" / "a.txt").write_text("old")
    for _ in range(2):
        files.copyFiles("from", "a.txt", "to", keep_old=keep_old)
    kept = {path.name: path.read_text() for path in (folder / "to").iterdir()}
    new = {"a.txt.0": "new a.txt", "a.txt.1": "new a.txt"} if keep_old else {}
    assert kept == {"a.txt": first} | new


def test_copying_onto_itself_does_nothing(folder: Path) -> None:
    files.copyFiles("from", "nope", "from")
    files.copyFiles("from", "a.txt", str(folder / "from"))
    assert (folder / "from" / "a.txt").read_text() == "new a.txt"


def test_program_is_looked_up_on_path_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        (folder / name).mkdir()
        (folder / name / "prog").touch(mode=0o755)
    (folder / "second" / "other").touch(mode=0o755)
    (folder / "second" / "text").touch(mode=0o644)
    monkeypatch.setenv("PATH", "first")
    found = [files.which(name, ["second"]) for name in ("prog", "other", "text", "first/prog")]
    assert found == ["first/prog", "second/other", None, "first/prog"]
    assert files.which("other") is None


def test_moment_is_written_as_in_events() -> None:
    assert re.fullmatch(r"1970-01-01\|00:00:00\w+", files.getTimeString(time.gmtime(0)))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d\|\d\d:\d\d:\d\d\w*", files.getTimeString())


def test_columns_of_a_csv_file(folder: Path) -> None:
    Path("params.csv").write_text('s:A, s:B,t:C\n1, x,"a, b"\n\n2, y,c\n')
    found = files.params_from_csv("params.csv")
    assert found == {"s": {"A": ["1", "2"], "B": ["x", "y"]}, "t": {"C": ["a, b", "c"]}}


def test_files_are_added_to_a_container_once(folder: Path) -> None:
    files.writeToContainer("c.zip", "from", "*.txt")
    files.writeToContainer("c.zip", "from", ["a.txt", "c.dat"])
    with zipfile.ZipFile("c.zip") as container:
        assert container.namelist() == ["a.txt", "b.txt", "c.dat"]
        assert container.read("c.dat") == b"new c.dat"
