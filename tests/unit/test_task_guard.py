"""The guard of tasks: it ends what carries its mark, and nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from ips_core.tasks.orphan_reaper import OrphanReaper, marked_processes

MARK = "IPS_TASK_GUARD"
NAP = "import time; print(flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {NAP}"


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """``spawn(script, environ)``: a Python that has begun; it is ended in the end."""
    processes = []

    def spawn(script: str, environ: dict[str, str]) -> subprocess.Popen[bytes]:
        argv = ["env", *(f"{name}={value}" for name, value in environ.items())]
        process = subprocess.Popen([*argv, sys.executable, "-c", script], stdout=subprocess.PIPE)
        processes.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield spawn
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("script", "code"), [(NAP, -signal.SIGTERM), (STUBBORN, -signal.SIGKILL)])
def test_closing_ends_what_carries_the_mark(spawn, script: str, code: int) -> None:
    guard = OrphanReaper()
    marked = spawn(script, guard.environment)
    other = spawn(NAP, {MARK: "another"})
    guard.close()
    assert marked.wait(0) == code
    assert other.poll() is None
    guard.close()


def test_processes_are_found_by_the_whole_mark(spawn) -> None:
    process = spawn(NAP, {MARK: "12"})
    assert marked_processes(f"{MARK}=12") == [process.pid]
    assert marked_processes(f"{MARK}=1") == []


def test_guard_of_a_nested_simulation_is_not_ended_with_its_task(monkeypatch) -> None:
    monkeypatch.setenv(MARK, "outer")
    guard = OrphanReaper()
    assert marked_processes(f"{MARK}=outer") == []
    guard.close()
