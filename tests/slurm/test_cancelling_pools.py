"""Pools that end early, on four nodes: no process of any task outlives them by 10 s.

The tasks ignore SIGTERM, and have children in sessions of their own whose parents have ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ips_core import read_log

PROGRAM = """
trap "" TERM
(setsid sh -c 'trap "" TERM; touch "$0"; exec sleep 321' "$1" &)
sleep 321
"""

COMPONENTS = """
import os
import signal
import subprocess
import time
from pathlib import Path

from ipsframework import Component

HERE = Path({folder!r})


def stubborn(path):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["setsid", "sleep", "321"])
    Path(path).touch()
    time.sleep(321)


class Base(Component):
    def pool(self, name, pairs=4):
        '''Pairs of tasks; returns when all have children.'''
        mark = {{"TASK_MARK": {mark!r} + name}}
        self.services.create_task_pool(name)
        for number in range(pairs):
            path = HERE / f"{{name}}-{{number}}"
            self.services.add_task(
                name, f"{{name}} program {{number}}", 1, HERE, "sh", HERE / "program",
                f"{{path}}-program", task_env=mark,
            )
            self.services.add_task(
                name, f"{{name}} callable {{number}}", 1, HERE, stubborn,
                f"{{path}}-callable", task_env=mark,
            )
        self.services.submit_tasks(name, use_dask=True, dask_nodes=4)
        while len(list(HERE.glob(f"{{name}}-*"))) < 2 * pairs:
            time.sleep(0.05)

    def another(self, name):
        self.services.create_task_pool(name)
        for number in range(8):
            self.services.add_task(name, f"{{name}} {{number}}", 1, HERE, "true")
        self.services.submit_tasks(name, use_dask=True, dask_nodes=4)
        print(name, set(self.services.get_finished_tasks(name).values()), flush=True)


class Worker(Base):
    def step(self, timestamp=0.0, **keywords):
        (HERE / "pid").write_text(str(os.getpid()))
        self.pool("killed")
        (HERE / "running").touch()
        time.sleep(321)


class Driver(Base):
    def step(self, timestamp=0.0, **keywords):
{statements}
"""

INTERRUPTED = """
for number in range(4):  # one after the other, they would take too long to end
    self.pool(f"interrupted {number}", pairs=1)
(HERE / "running").touch()
self.services.get_finished_tasks("interrupted 0")
"""

GOES_ON = """
worker = self.services.get_port("WORKER")
try:
    self.services.call(worker, "step", 0.0)
except Exception as error:
    print(error, flush=True)
self.another("after the killed")
self.pool("removed")
(HERE / "removing").touch()
self.services.remove_task_pool("removed")
(HERE / "was removed").touch()
self.another("after the removed")
self.pool("left")
(HERE / "leaving").touch()
raise ValueError("as asked")
"""


@dataclass
class Run:
    """A simulation in an allocation of four nodes."""

    folder: Path
    process: subprocess.Popen[str]
    mark: str

    def events(self) -> list[dict[str, Any]]:
        return read_log(next(self.folder.glob("sim/simulation_log/*.json")))

    def ends(self, pool: str) -> list[str]:
        """How the tasks of a pool have ended, as the log has it."""
        return [
            event["status"]
            for event in self.events()
            if event["eventtype"] == "IPS_TASK_END" and event["task_name"].startswith(f"{pool} ")
        ]


@pytest.fixture
def start(
    job_id: str, shared_tmp_path: Path, two_components: str
) -> Iterator[Callable[[str], Run]]:
    """``start(statements)``: run a driver with these statements in its step."""
    processes = []

    def start(statements: str) -> Run:
        mark = uuid.uuid4().hex
        indented = statements.strip().replace("\n", "\n        ")
        text = COMPONENTS.format(
            folder=str(shared_tmp_path), mark=mark, statements=f"        {indented}"
        )
        (shared_tmp_path / "components.py").write_text(text)
        (shared_tmp_path / "sim.config").write_text(two_components)
        (shared_tmp_path / "program").write_text(PROGRAM)
        argv = [sys.executable, "-m", "ips_core", "--config", "sim.config"]
        processes.append(
            subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return Run(shared_tmp_path, processes[-1], mark)

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def gone(
    wait_until: Callable[..., Any], processes_with: Callable[..., Any]
) -> Callable[[Run, str], None]:
    """``gone(run, pool)``: no process of a pool's tasks is there within 10 s."""

    def gone(run: Run, pool: str) -> None:
        mark = f"TASK_MARK={run.mark}{pool}"
        wait_until(
            lambda: ["none"] if not (found := processes_with(mark)) else print(found),
            10,
            f"no process of pool {pool}",
        )

    return gone


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_that_tasks_have_started(
    number: signal.Signals, start: Any, gone: Any, wait_until: Any, processes_with: Any
) -> None:
    run = start(INTERRUPTED)
    wait_until((run.folder / "running").exists, 60, "eight tasks run")
    assert len(processes_with(f"TASK_MARK={run.mark}interrupted")) >= 16
    run.process.send_signal(number)
    gone(run, "interrupted")
    _, stderr = run.process.communicate(timeout=30)
    assert run.process.returncode == 1
    assert stderr.splitlines()[0] == f"ips.py: interrupted by {number.name}"
    assert run.ends("interrupted") == ["cancelled"] * 8
    assert not list((run.folder / "sim").glob("**/*.journal"))


def test_other_pools_run_after_one_that_was_ended(start: Any, gone: Any, wait_until: Any) -> None:
    run = start(GOES_ON)
    wait_until((run.folder / "running").exists, 60, "the worker's tasks run")
    os.kill(int((run.folder / "pid").read_text()), signal.SIGKILL)
    gone(run, "killed")
    wait_until((run.folder / "removing").exists, 60, "the next pool is removed")
    gone(run, "removed")
    wait_until((run.folder / "was removed").exists, 10, "that has returned")
    wait_until((run.folder / "leaving").exists, 60, "the last pool runs")
    gone(run, "left")
    stdout, stderr = run.process.communicate(timeout=30)
    assert stdout.splitlines()[1:] == [
        "component WORKERS__Worker_2 failed in step: its process was killed by signal 9 (SIGKILL)",
        "after the killed {0}",
        "after the removed {0}",
    ]
    assert stderr.splitlines()[0].endswith("failed in step: ValueError: as asked")
    assert run.process.returncode == 1
    assert {pool: run.ends(pool) for pool in ("removed", "left", "killed")} == {
        pool: ["cancelled"] * 8 for pool in ("removed", "left", "killed")
    }
