"""Runs that were killed, and the runs after them: what had finished is not run again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HELPERS = """
import os
import time
from pathlib import Path

from ipsframework import Component

HERE = Path({folder!r})


def count(name, *ignored):
    '''Leave a line, and return how many there are by now.'''
    path = HERE / "effects" / name
    with path.open("a") as file:
        file.write("x")
    return len(path.read_text())


def large(name):
    return count(name), "x" * 100_000


def body(name):
    return count(name), "VERSION"


def wait(name, file):
    number = count(name)
    while not (HERE / file).exists():
        time.sleep(0.02)
    return number
"""

#: A loop over two time steps with a pool each; the second one is where the first run is killed.
LOOP = """

class Driver(Component):
    def step(self, timestamp=0.0, **keywords):
        self.cwd = self.services.get_working_dir()
        (HERE / "pid").write_text(str(os.getpid()))
        for number in range(2):
            self.services.create_task_pool("scan", resume=True)
            self.add("same", count, "same")
            if number:
                self.fill()
            self.services.submit_tasks("scan", use_dask=True, dask_ppw=12)
            results = self.services.get_finished_tasks("scan")
            large = results.pop("large", (None, ""))
            print(results, large[0], len(large[1]))
            self.services.remove_task_pool("scan")

    def fill(self):
        self.add("unknown", wait, "unknown", "first run may end")
        self.add("unfinished", wait, "unfinished", "second run")
        self.add("large", large, "large")
        self.add("argument", count, "argument", "VERSION")
        self.add("body", body, "body")
        self.program("program")
        self.program("environment", task_env={"V": "VERSION"})
        self.program("failing", "; exit 3")

    def program(self, name, then="", **keywords):
        self.add(name, "sh", "-c", f"echo x >> {HERE}/effects/{name}{then}", **keywords)

    def add(self, name, *work, **keywords):
        self.services.add_task("scan", name, 1, self.cwd, *work, **keywords)
"""


def effects(folder: Path) -> dict[str, int]:
    """How often each task has begun."""
    return {
        path.name: path.read_text().count("x") for path in sorted((folder / "effects").iterdir())
    }


def script(simulation: Any, driver: str, version: int) -> None:
    text = HELPERS.replace("{folder!r}", repr(str(simulation.folder))) + driver
    simulation.write(text.replace("VERSION", str(version)))


def noted(root: Path) -> int:
    """How many ends the workers have noted."""
    lines = [
        line
        for path in root.rglob("*.journal")
        for line in path.read_text().splitlines()
        if not {"taken", "begun"} & json.loads(line).keys()
    ]
    return len(lines)


def kill_all(processes: list[tuple[int, str]]) -> None:
    """As when a node is switched off: nobody sees the others die."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid, _ in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@pytest.mark.versions
def test_a_run_after_one_that_was_killed(
    simulation: Any, wait_until: Callable[..., Any], processes_with: Callable[..., Any]
) -> None:
    folder = simulation.folder
    (folder / "effects").mkdir()
    script(simulation, LOOP, version=1)
    first = simulation.start(TMPDIR=str(folder))  # nobody will tidy up
    ended = 1 + 7  # in the first time step, and in the second but for the two that wait
    wait_until(lambda: simulation.events() and noted(simulation.root) == ended, 40, "the ends")

    def known() -> bool:
        ends = [e for e in simulation.events() if e["eventtype"] == "IPS_TASK_END"]
        return len(ends) == ended

    wait_until(known, 20, "the ends are in the log")
    wait_until(lambda: len(effects(folder)) == 9, 20, "the two that wait")
    # what ends now, only a worker knows
    os.kill(int((folder / "pid").read_text()), signal.SIGSTOP)
    (folder / "first run may end").touch()
    wait_until(lambda: noted(simulation.root) == ended + 1, 20, "the last end")
    kill_all(processes_with(f"IPS_TEST_MARK={os.environ['IPS_TEST_MARK']}"))
    assert first.finish().code == -signal.SIGKILL
    once = dict.fromkeys(effects(folder), 1) | {"same": 2}
    assert (effects(folder), len(once)) == (once, 9)

    (folder / "second run").touch()
    script(simulation, LOOP, version=2)
    second = simulation.run()
    assert (second.code, second.stderr) == (0, "")
    again = dict.fromkeys(["argument", "body", "environment", "failing", "unfinished"], 2)
    assert effects(folder) == once | again
    assert second.stdout.splitlines()[1:] == [
        "{'same': 1} None 0",
        "{'same': 2, 'unknown': 1, 'unfinished': 2, 'argument': 2, 'body': (2, '2'), "
        "'program': 0, 'environment': 0, 'failing': 3} 1 100000",
    ]
    ends = second.of_type("IPS_TASK_POOL_END")[-2:]
    assert [end["resumed"] for end in ends] == [1, 4]
    assert [end["tasks"] for end in ends] == [1, 9]
    assert "pool scan: 9 tasks, 8 finished, 1 failed (4 in the run before)" in second.log


POOL = """

class Driver(Component):
    def step(self, timestamp=0.0, **keywords):
        services = self.services
        services.create_task_pool("pool")
        services.add_task("pool", "small", 1, ".", count, "small")
        services.add_task("pool", "large", 1, ".", large, "large")
        services.add_task("pool", "none", 1, "/", "true")
        services.submit_tasks("pool", use_dask=True, dask_ppw=2)
        results = services.get_finished_tasks("pool")
        print(results["small"], results["large"][0], results["none"])
        records = services.get_task_records("pool")
        print(*(record.attempts for record in records.values()))
        raise SystemExit(4)
"""


def test_the_command_line_resumes_every_pool_and_without_it_all_is_forgotten(
    simulation: Any,
) -> None:
    (simulation.folder / "effects").mkdir()
    script(simulation, POOL, version=1)

    def said(*arguments: str) -> str:
        outcome = simulation.run(*arguments)
        assert outcome.code == 1
        return outcome.stdout.splitlines()[1]

    assert said() == "1 1 0"
    # only with resume= are values above 4 kB kept
    assert said("--resume") == "1 2 0"
    assert "task large of pool pool runs again: its result was not kept" in simulation.log_text()
    assert said("--resume") == "1 2 0"
    assert effects(simulation.folder) == {"large": 2, "small": 1}
    assert said() == "2 3 0"
