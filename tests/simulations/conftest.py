"""Whole simulations as a user runs them: files in a folder, then ``python -m ips_core``."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent, indent
from typing import IO, Any

import pytest

from ips_core import read_log

_DEADLINE = 60.0
_DOCS = Path(__file__).parents[2] / "docs"
#: What would make a run differ from one machine to the next.
_FOREIGN_VARIABLES = ("SLURM_", "DASK_", "IPS_PLATFORM_FILE")

#: But for this one, which the tests set themselves.
_ROUTES_VARIABLE = "DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES"

_CONFIG = """\
SIM_NAME = sim
SIM_ROOT = $PWD/sim
LOG_FILE = $SIM_ROOT/sim.log
LOG_LEVEL = INFO

[PORTS]
   NAMES = {ports}
   [[DRIVER]]
      IMPLEMENTATION = Driver
   [[WORKER]]
      IMPLEMENTATION = Worker

[Driver]
   CLASS = DRIVER
   SUB_CLASS =
   NAME = Driver
   SCRIPT = $PWD/driver.py

[Worker]
   CLASS = WORKERS
   SUB_CLASS =
   NAME = Worker
   SCRIPT = $PWD/worker.py
"""

_STEP = """\
import os
import signal
import subprocess
import sys
import time

from ipsframework import Component


class {name}(Component):
    def step(self, timestamp=0.0, **keywords):
        services, cwd = self.services, self.services.get_working_dir()
{statements}
"""


@dataclass(frozen=True)
class Outcome:
    """How a simulation ended, and all it wrote."""

    code: int
    stdout: str
    stderr: str
    log: str
    events: list[dict[str, Any]] = field(repr=False)

    def of_type(self, *eventtypes: str) -> list[dict[str, Any]]:
        """The events of these types, in the log's order."""
        return [event for event in self.events if event["eventtype"] in eventtypes]


class Running:
    """A simulation's process; its output is there line by line as it comes through the pipes."""

    def __init__(self, process: subprocess.Popen[str], simulation: Simulation) -> None:
        self.process = process
        self.simulation = simulation
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            threading.Thread(target=_collect, args=pair)
            for pair in ((process.stdout, self.stdout), (process.stderr, self.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def launched(self, count: int) -> list[str]:
        """The tasks that the log says were launched, once there are so many of them."""
        events = self.simulation.events()
        names = [e["task_name"] for e in events if e["eventtype"] == "IPS_LAUNCH_DASK_TASK"]
        return names if len(names) >= count else []

    def finish(self, timeout: float = _DEADLINE) -> Outcome:
        """Wait until the process has ended and nobody holds its output any more."""
        __tracebackhide__ = True
        deadline = time.monotonic() + timeout
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)
        for reader in self._readers:
            reader.join(max(0.0, deadline - time.monotonic()))
        stdout, stderr, log = "".join(self.stdout), "".join(self.stderr), self.simulation.log_text()
        if self.process.poll() is None or any(reader.is_alive() for reader in self._readers):
            types = [event["eventtype"] for event in self.simulation.events()]
            pytest.fail(
                f"not over within {timeout:g} s\nstdout:\n{stdout}\nstderr:\n{stderr}\n"
                f"log:\n{log}\nevents: {types}"
            )
        return Outcome(self.process.returncode, stdout, stderr, log, self.simulation.events())

    def close(self) -> None:
        """End it if a test failed before its end."""
        self.process.kill()
        self.process.wait()


def _collect(pipe: IO[str], lines: list[str]) -> None:
    with pipe:
        for line in pipe:
            lines.append(line)  # each as it comes


class Simulation:
    """A folder with a simulation in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = "sim"
        self._started: list[Running] = []

    @property
    def config(self) -> Path:
        """The simulation file."""
        return self.folder / f"{self.name}.config"

    @property
    def root(self) -> Path:
        """Its SIM_ROOT."""
        return self.folder / self.name

    def write(self, driver: str, worker: str = "") -> Simulation:
        """Write the simulation file and the scripts of a driver and, if given, of a worker.

        Each is a whole script with a class Driver or Worker, or the statements of its ``step``.
        """
        self.config.write_text(_CONFIG.format(ports="DRIVER WORKER" if worker else "DRIVER"))
        for name, text in (("Driver", driver), ("Worker", worker)):
            script = dedent(text)
            if f"class {name}(" not in script:
                script = _STEP.format(name=name, statements=indent(script, " " * 8))
            (self.folder / f"{name.lower()}.py").write_text(script)
        return self

    def copy(self, folder: Path) -> Simulation:
        """Copy the files of a documented simulation."""
        for file in folder.iterdir():
            if file.is_file():
                shutil.copy(file, self.folder)
                self.name = file.stem if file.suffix == ".config" else self.name
        return self

    def edit(self, old: str, new: str) -> Simulation:
        """Change the simulation file."""
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))
        return self

    def start(self, *arguments: str, config: str = "", **variables: str) -> Running:
        """Start it as ``python -m ips_core``, from its folder, with environment variables."""
        command = [sys.executable, "-m", "ips_core", "--config", config or self.config.name]
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_FOREIGN_VARIABLES) or name == _ROUTES_VARIABLE
        }
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=self.folder,
            env=environment | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(Running(process, self))
        return self._started[-1]

    def run(self, *arguments: str, config: str = "", **variables: str) -> Outcome:
        """Run it to its end."""
        __tracebackhide__ = True
        return self.start(*arguments, config=config, **variables).finish()

    def events(self) -> list[dict[str, Any]]:
        """What is in the simulation log by now, of the latest run."""
        logs = (self.root / "simulation_log").glob("*.json")
        latest = max(logs, key=lambda log: log.stat().st_mtime, default=None)
        return read_log(latest) if latest else []

    def log_text(self) -> str:
        """What is in LOG_FILE by now."""
        file = self.root / f"{self.name}.log"
        return file.read_text() if file.exists() else ""

    def close(self) -> None:
        """End what a failed test left running."""
        for running in self._started:
            running.close()


@pytest.fixture
def simulation(tmp_path: Path) -> Iterator[Simulation]:
    """A simulation to be written into the test's folder."""
    with contextlib.closing(Simulation(tmp_path)) as simulation:
        yield simulation


@pytest.fixture(scope="module")
def _answers() -> dict[str, tuple[Any, BaseException | None]]:
    return {}


@pytest.fixture
def once(_answers: dict[str, Any]) -> Callable[[str, Callable[[], Any]], Any]:
    """``once(name, fn)``: what `fn` returned to the first test of the module that asked.

    Unlike a fixture of the module, it runs within that test, which so answers for what is left
    behind.
    """

    def answer(name: str, fn: Callable[[], Any]) -> Any:
        if name not in _answers:
            try:
                _answers[name] = fn(), None
            except BaseException as error:
                _answers[name] = None, error
        value, error = _answers[name]
        if error is not None:
            raise error
        return value

    return answer


@pytest.fixture(scope="session")
def undocumented() -> Callable[[list[dict[str, Any]]], set[tuple[str, str]]]:
    """``undocumented(events)``: types and fields that docs/simulation_log.md does not know."""
    page = (_DOCS / "simulation_log.md").read_text(encoding="utf-8")
    common, further = page.split("\n## Events\n")
    of_all = set(re.findall(r"`(\w+)`", common))
    rows = [row.split("|")[1:-1] for row in further.splitlines() if re.match(r"\| `[A-Z]", row)]
    _, _, figures = further.partition("\n## Figures of a pool\n")
    columns = "".join(row.split("|")[1] for row in figures.splitlines() if row.startswith("| `"))
    known: dict[str, set[str]] = {"IPS_TASK_POOL_END": set(re.findall(r"`(\w+)`", columns))}
    for names, _, fields in rows:
        for name in re.findall(r"`(\w+)`", names):
            known.setdefault(name, set()).update(re.findall(r"`(\w+)`", fields))

    def answer(events: list[dict[str, Any]]) -> set[tuple[str, str]]:
        found = set()
        for event in events:
            name = event["eventtype"]
            if name.startswith("IPS_") and name not in known:
                found.add((name, ""))
            fields = known.get(name, known["COMPONENT_EVENT"])
            found |= {(name, key) for key in event.keys() - of_all - fields}
        return found

    return answer
