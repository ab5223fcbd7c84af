"""The traceback of a task names the user's file and line and shows the source text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

KINDS = (
    "function",
    "function with a log file",
    "isolated function",
    "isolated function with a log file",
    "coroutine",
    "isolated coroutine",
    "method of the component",
    "isolated method of the component",
    "method of an object",
    "lambda",
)

DRIVER = """
import json

from ipsframework import Component


def raises(text):
    raise ValueError(text)  # from the function


async def waits(text):
    raise ValueError(text)  # from the coroutine


class Profile:
    def __init__(self, text):
        self.text = text

    def check(self):
        raise ValueError(self.text)  # from the object


class Driver(Component):
    def check(self, text):
        raise ValueError(text)  # from the component

    def step(self, timestamp=0.0, **keywords):
        records = {}
        for use_dask in (True, False):
            records[use_dask] = self.records(use_dask)
        with open("tracebacks.json", "w") as file:
            json.dump(records, file)

    def records(self, use_dask):
        services, cwd, text = self.services, self.services.get_working_dir(), "bad profile"
        services.create_task_pool("pool")

        def add(name, function, *args, **keywords):
            services.add_task("pool", name, 1, cwd, function, *args, **keywords)

        add("function", raises, text)
        add("function with a log file", raises, text, logfile="1.log")
        add("isolated function", raises, text, isolate=True)
        add("isolated function with a log file", raises, text, isolate=True, logfile="2.log")
        add("coroutine", waits, text)
        add("isolated coroutine", waits, text, isolate=True)
        add("method of the component", self.check, text)
        add("isolated method of the component", self.check, text, isolate=True)
        add("method of an object", Profile(text).check)
        add("lambda", lambda: raises(text))
        services.submit_tasks("pool", use_dask=use_dask)
        services.get_finished_tasks("pool")
        found = services.get_task_records("pool")
        services.remove_task_pool("pool")
        return {name: record.traceback for name, record in found.items()}
"""


@pytest.fixture
def tracebacks(simulation: Any, once: Callable[..., Any]) -> Any:
    def run() -> tuple[Any, Path]:
        outcome = simulation.write(DRIVER).run()
        assert outcome.code == 0, outcome.stderr
        (file,) = simulation.root.rglob("tracebacks.json")
        return json.loads(file.read_text()), simulation.folder / "driver.py"

    return once("tracebacks", run)


def source_of(kind: str) -> str:
    """The end of the line that raises, by what the task is."""
    for word, origin in (("coroutine", "coroutine"), ("component", "component")):
        if word in kind:
            return f"from the {origin}"
    return "from the object" if kind == "method of an object" else "from the function"


@pytest.mark.parametrize("use_dask", ["true", "false"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_traceback_shows_file_line_and_source(tracebacks: Any, kind: str, use_dask: str) -> None:
    found, script = tracebacks
    lines = script.read_text().splitlines()
    (number,) = (n for n, line in enumerate(lines, 1) if line.endswith(source_of(kind)))
    expected = re.escape(f'  File "{script}", line {number}, in ')
    source = re.escape(lines[number - 1].strip())
    traceback = found[use_dask][kind]
    assert re.search(rf"^{expected}\w+\n    {source}$", traceback, re.MULTILINE), traceback
    assert traceback.endswith("ValueError: bad profile\n")
    assert "dynamic-code" not in traceback


def test_an_object_of_one_component_fails_in_another_with_its_own_source(simulation: Any) -> None:
    driver = """
    from ipsframework import Component


    class Profile:
        def check(self):
            raise ValueError("bad profile")  # from the object


    class Driver(Component):
        def step(self, timestamp=0.0, **keywords):
            self.services.call(self.services.get_port("WORKER"), "step", 0.0, profile=Profile())
    """
    worker = """
    from ipsframework import Component


    class Worker(Component):
        def step(self, timestamp=0.0, profile=None):
            profile.check()
    """
    outcome = simulation.write(driver, worker).run()
    assert outcome.code != 0
    assert 'raise ValueError("bad profile")  # from the object' in outcome.log + outcome.stderr
