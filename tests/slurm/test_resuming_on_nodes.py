"""An allocation is taken away in mid-pool; in the next one the simulation goes on."""

from __future__ import annotations

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ips_core import read_log

IPS = (sys.executable, "-m", "ips_core", "--config", "pool.config")

DRIVER = """
import os
import time
from pathlib import Path

from ipsframework import Component

HERE = Path({folder!r})


def work(number, folder):
    '''Leave a line, and with the last eight wait for the second run; some results are large.'''
    with open(f"{{folder}}/effect-{{number}}", "a") as file:
        file.write("x")
    while number >= 24 and not os.path.exists(f"{{folder}}/second"):
        time.sleep(0.02)
    return number, "x" * (10_000 if number % 5 == 0 else 10)


class Pool(Component):
    def step(self, timestamp=0.0, **keywords):
        self.services.create_task_pool("pool")
        for number in range(32):
            self.services.add_task("pool", f"t{{number}}", 1, HERE, work, number, str(HERE))
        self.services.submit_tasks("pool", use_dask=True, dask_nodes=4)
        results = self.services.get_finished_tasks("pool")
        print([number for number, _ in results.values()])
        print(sum(len(text) for _, text in results.values()))
"""


@dataclass(frozen=True)
class Progress:
    """How many attempts have ended in which way, and how often each task has begun."""

    ended: Counter[str]
    begun: list[int]

    def __bool__(self) -> bool:
        return self == Progress(Counter(finished=24), [1] * 32)


def test_what_one_allocation_has_finished_the_next_one_has(
    slurm: Any, pool_simulation: Any, shared_tmp_path: Path, wait_until: Any
) -> None:
    def counts() -> list[int]:
        paths = [shared_tmp_path / f"effect-{number}" for number in range(32)]
        return [path.stat().st_size if path.exists() else 0 for path in paths]

    root = pool_simulation()
    Path("pool.py").write_text(DRIVER.format(folder=str(shared_tmp_path)))

    def progress() -> Progress:
        if first.done():
            pytest.fail(f"it has ended already: {first.result()}")
        logs = list(root.glob("simulation_log/*.json"))
        events = read_log(logs[0]) if logs else []
        ends = [e["status"] for e in events if e["eventtype"] == "IPS_TASK_END"]
        return Progress(Counter(ends), counts())

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(slurm.salloc, [*IPS, "--resume"], nodes=4, timeout=100)
        wait_until(progress, 60, "eight tasks are left")
        slurm.run(["scancel", *slurm.jobs()])
        assert first.result().returncode != 0
    wait_until(lambda: not slurm.jobs(), 30, "the allocation is gone")
    assert counts() == [1] * 32

    (shared_tmp_path / "second").touch()
    logs = set(root.glob("simulation_log/*.json"))
    done = slurm.salloc([*IPS, "--resume"], nodes=4)
    assert done.returncode == 0
    assert counts() == [1] * 24 + [2] * 8
    assert done.stdout.splitlines()[1:] == [str([*range(32)]), str(7 * 10_000 + 25 * 10)]
    (log,) = set(root.glob("simulation_log/*.json")) - logs
    (end,) = [e for e in read_log(log) if e["eventtype"] == "IPS_TASK_POOL_END"]
    assert (end["tasks"], end["resumed"], end["attempts"]) == (32, 24, 8)
