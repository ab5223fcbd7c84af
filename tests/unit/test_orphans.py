"""The process above a worker in a podman container: it passes things on and kills what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ips_dask_cluster import Apptainer, Charliecloud, PodmanHPC, Shifter
from ips_dask_cluster.orphans import reaper_source

SOURCE = reaper_source(PodmanHPC("i"))


def start(worker: str) -> subprocess.Popen[str]:
    """Start Python source as the worker below the reaper."""
    return subprocess.Popen(
        [sys.executable, "-c", f"{SOURCE}\n{worker}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("container", [None, Shifter("i"), Apptainer("i"), Charliecloud("i")])
def test_only_podman_containers_need_a_reaper(container: Any) -> None:
    assert reaper_source(container) == ""


def test_source_fits_between_single_quotes_of_a_script() -> None:
    assert "'" not in SOURCE


@pytest.mark.parametrize(
    ("worker", "code"),
    [
        ("", 0),
        ("raise SystemExit(67)", 67),
        ("import os; os._exit(3)", 3),
        ("import os; os.kill(os.getpid(), 9)", 137),
        ("import os; os.kill(os.getpid(), 11)", 139),
    ],
)
def test_exit_code_is_the_workers(worker: str, code: int) -> None:
    with start(worker) as process:
        assert process.wait(10) == code


def test_standard_input_is_the_workers() -> None:
    with start("print(input())") as process:
        assert process.communicate("tls://10.0.0.1:8786\n", timeout=10)[0] == (
            "tls://10.0.0.1:8786\n"
        )


def test_signal_reaches_the_worker() -> None:
    worker = """
import signal
signal.signal(signal.SIGTERM, lambda *_: exit(5))
print("ready", flush=True)
signal.pause()
"""
    with start(worker) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(10) == 5


@pytest.fixture
def orphans(wait_until: Callable[..., Any]) -> Iterator[list[int]]:
    """Process ids that must be gone at the end of the test."""
    numbers: list[int] = []
    yield numbers
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in numbers), 10, "all end")


def test_orphans_of_a_killed_worker_are_killed(orphans: list[int]) -> None:
    """Also those in sessions of their own and those whose parents have ended already."""
    worker = """
import os, signal, subprocess
print(os.getpid(), flush=True)
own = subprocess.Popen(["sleep", "100"], start_new_session=True)
print(own.pid, flush=True)
subprocess.run(["sh", "-c", "sleep 100 & echo $!"])
deaf = subprocess.Popen(["sh", "-c", "trap : TERM HUP; sleep 100; sleep 100"])
print(deaf.pid, flush=True)
signal.pause()
"""
    with start(worker) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        orphans += [int(process.stdout.readline()) for _ in range(3)]
        os.kill(pid, signal.SIGKILL)
        assert process.wait(10) == 137
