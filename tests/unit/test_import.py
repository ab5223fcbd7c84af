"""Importing the cluster changes nothing in a process that ``import distributed`` does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_LOOK = """
import json, logging, os, signal, sys, threading, warnings
from importlib import import_module
from pathlib import Path


def state():
    import dask

    functions = (signal.signal, dask.config.ensure_file, sys.excepthook, threading.excepthook)
    loggers = {"": logging.getLogger(), **logging.root.manager.loggerDict}
    return {
        "signals": {s.name: repr(signal.getsignal(s)) for s in signal.Signals},
        "functions": [f.__module__ + "." + f.__qualname__ for f in functions],
        "logging": {
            name: [logger.level, logger.propagate, [type(h).__name__ for h in logger.handlers]]
            for name, logger in loggers.items()
            if isinstance(logger, logging.Logger)
        },
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "warnings": [repr(each) for each in warnings.filters],
        "threads": [each.name for each in threading.enumerate() if each.name != "importer"],
        "children": "".join(p.read_text() for p in Path("/proc/self/task").glob("*/children")),
        "files": sorted(map(str, Path(os.environ["HOME"]).rglob("*"))),
        "path": sys.path,
        "config": {name: repr(value) for name, value in dask.config.config.items()},
    }


def load():
    for name in sys.argv[1:]:
        import_module(name)
    print(json.dumps(state()))


thread = threading.Thread(target=load, name="importer")
thread.start()
thread.join()
"""

#: Loggers that the imported modules have made, with nothing set.
_UNSET = [0, True, []]


def after_import(folder: Path, *modules: str) -> dict[str, Any]:
    """The state of a fresh Python that has imported these in a thread of its own."""
    folder.mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "HOME": str(folder),
    }
    done = subprocess.run(
        [sys.executable, "-c", _LOOK, *modules],
        cwd=folder.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    text = done.stdout.replace(str(folder), "FOLDER")
    return json.loads(text)


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    top = tmp_path_factory.mktemp("import")
    return (
        after_import(top / "theirs", "distributed"),
        after_import(top / "ours", "distributed", "ips_dask_cluster.cluster"),
    )


@pytest.mark.parametrize(
    "aspect",
    [
        "signals",
        "functions",
        "environment",
        "directory",
        "warnings",
        "threads",
        "children",
        "files",
        "path",
    ],
)
def test_import_leaves_it_as_distributed_does(states: Any, aspect: str) -> None:
    theirs, ours = (state[aspect] for state in states)
    assert ours == theirs


def test_import_sets_up_no_logging(states: Any) -> None:
    theirs, ours = (state["logging"] for state in states)
    assert "distributed" in theirs
    assert theirs.items() <= ours.items()
    new = {name: setup for name, setup in ours.items() if name not in theirs}
    assert [name for name, setup in new.items() if setup != _UNSET] == []


def test_import_adds_no_section_to_the_configuration_but_jobqueue(states: Any) -> None:
    theirs, ours = (state["config"] for state in states)
    assert set(ours) - set(theirs) == {"jobqueue"}
    assert {name: ours[name] for name in theirs} == theirs
