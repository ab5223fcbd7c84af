"""Workers are killed again and again: every task is done, and none that had ended is run again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ips_core import read_log

TASKS = 1200  # enough to last for all the kills
KILLS = 20
SECONDS_BETWEEN_KILLS = 2.0
#: A task that ended this long before its worker was killed is not run again: it is noted by then.
SETTLED = 0.1

DRIVER = """
import os
import time
from ipsframework import Component


def work(number, seconds, folder):
    '''Leave a line at the begin and at the end, with the worker and the time.'''
    mark = os.environ["IPS_DASK_MARK"].partition("@")[0]

    def note(what):
        line = f"{{number}} {{what}} {{mark}} {{time.time()}}\\n".encode()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        file = os.open(f"{{folder}}/{{mark}}-{{os.getpid()}}", flags)
        os.write(file, line)
        os.close(file)

    note("begin")
    time.sleep(seconds)
    note("end")
    return result(number)


def result(number):
    return number, "x" * (10_000 if number % 10 == 0 else 10)  # some need a file of their own


class Pool(Component):
    def step(self, timestamp=0.0, **keywords):
        import random

        services, random = self.services, random.Random(7)
        services.create_task_pool("pool")
        for number in range({tasks}):
            seconds = random.uniform(0.005, 0.5)
            services.add_task("pool", f"t{{number}}", 1, ".", work, number, seconds, {folder!r})
        services.submit_tasks("pool", use_dask=True, dask_nodes=4, retries=10)
        results = services.get_finished_tasks("pool")
        print("good", sum(r == result(n) for n, r in enumerate(results.values())))
"""


def is_alive(path: Path) -> bool:
    return Path("/proc", path.name.rpartition("-")[2]).exists()


@pytest.mark.timeout(240)
def test_no_task_is_lost_and_none_that_had_ended_is_run_again(
    slurm, pool_simulation, shared_tmp_path, monkeypatch
):
    monkeypatch.setenv("DASK_JOBQUEUE__SLURM_ALLOCATION__RESTARTS", "100")
    folder = shared_tmp_path / "effects"
    folder.mkdir()
    root = pool_simulation()
    Path("pool.py").write_text(DRIVER.format(tasks=TASKS, folder=str(folder)))
    argv = [sys.executable, "-m", "ips_core", "--config", "pool.config"]
    done = ThreadPoolExecutor(1).submit(slurm.salloc, argv, nodes=4, timeout=200)

    chance = random.Random(11)
    kills: list[tuple[str, float]] = []
    while not done.done() and len(kills) < KILLS:
        time.sleep(SECONDS_BETWEEN_KILLS)
        alive = [path.name for path in sorted(folder.iterdir()) if is_alive(path)]
        if alive:
            worker, _, pid = chance.choice(alive).rpartition("-")
            kills.append((worker, time.time()))
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    outcome = done.result()
    assert (outcome.returncode, outcome.stdout.splitlines()[-1]) == (0, f"good {TASKS}")
    assert len(kills) == KILLS

    log = read_log(root / "simulation_log")
    events = [event for event in log if event.get("task_name") not in (None, "dask-worker")]
    begins: dict[int, list[float]] = {}
    ends: dict[int, list[tuple[float, str]]] = {}
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            number, what, worker, when = line.split()
            if what == "begin":
                begins.setdefault(int(number), []).append(float(when))
            else:
                ends.setdefault(int(number), []).append((float(when), worker))
    assert sorted(ends) == list(range(TASKS)), "a side effect is missing"
    for number, ended in ends.items():
        first, worker = min(ended)
        killed = [when for name, when in kills if name == worker and when >= first]
        if not killed or min(killed) - first >= SETTLED:
            again = [when for when in begins[number] if when > first]
            told = [e for e in events if e["task_name"] == f"t{number}"]
            assert again == [], f"{number} ran again: {ended}, {killed}, {told}"

    launches = [e for e in events if e["eventtype"] == "IPS_LAUNCH_DASK_TASK"]
    tasks = [e for e in events if e["eventtype"] == "IPS_TASK_END"]
    assert len(launches) == len(tasks) >= TASKS
    assert sorted(e["task_name"] for e in tasks if e["ok"]) == sorted(f"t{n}" for n in range(TASKS))
