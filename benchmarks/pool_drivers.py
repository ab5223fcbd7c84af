"""Drivers that ``pools.py`` runs as simulations: each measures one thing and prints it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from ips_core import Component, Task

NODES = 4


def nothing(number: int) -> int:
    """Do nothing."""
    return number


def note(number: int, seconds: float, folder: str) -> int:
    """Take that long, and leave a file that says so."""
    worker = os.environ["IPS_DASK_MARK"]
    path = Path(folder, f"{number}-{time.time()}")
    path.write_text(f"{worker} {os.getpid()} begin {time.time()}\n")
    time.sleep(seconds)
    with path.open("a") as file:
        file.write(f"end {time.time()}\n")
    return number


class Measurement(Component):
    """What the parts share."""

    def pool(self, name: str, **options: Any) -> tuple[float, dict[str, Any]]:
        """Run a pool that has its tasks; return the seconds that took, and the results."""
        begin = time.perf_counter()
        self.services.submit_tasks(name, use_dask=True, dask_nodes=NODES, **options)
        results = self.services.get_finished_tasks(name)
        return time.perf_counter() - begin, results

    def true(self, name: str, count: int) -> float:
        """Run ``/bin/true`` so many times; return the seconds that took."""
        folder = self.services.get_working_dir()
        for number in range(count):
            self.services.add_task(name, f"t{number}", 1, folder, "/bin/true")
        seconds, results = self.pool(name)
        assert list(results.values()) == [0] * count
        return seconds

    def first_pool(self) -> None:
        """Start the cluster and all imports."""
        self.services.create_task_pool("pool")
        self.true("pool", 16)


class Rate(Measurement):
    """4,000 times ``/bin/true`` in turn with xargs; then pools of eight."""

    def step(self, timestamp: float = 0.0, **keywords: Any) -> None:
        """Measure."""
        self.first_pool()
        count, pairs = 4000, []
        for _ in range(5):
            pairs.append((self.true("pool", count), _xargs(count)))
            mine, theirs = (count / seconds for seconds in pairs[-1])
            print(f"4,000 /bin/true: {mine:.0f} a second, xargs {theirs:.0f}", flush=True)
        mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"median ratio of the rates: {theirs / mine:.2f}")
        seconds = [self.true("pool", 8) for _ in range(9)]
        print(f"pool of 8 on a running cluster: {statistics.median(seconds):.3f} s")


def _xargs(count: int) -> float:
    """Run ``/bin/true`` so many times, eight side by side; return the seconds that took."""
    numbers = "\n".join(map(str, range(count)))
    begin = time.perf_counter()
    subprocess.run(["xargs", "-P8", "-n1", "/bin/true"], input=numbers, text=True, check=True)
    return time.perf_counter() - begin


class Memory(Measurement):
    """100,000 times ``/bin/true``: what this process takes for each."""

    def step(self, timestamp: float = 0.0, **keywords: Any) -> None:
        """Measure."""
        self.first_pool()
        count, folder = 100_000, self.services.get_working_dir()
        tasks = (Task(f"t{number}", 1, folder, "/bin/true") for number in range(count))
        before = _peak()
        self.services.add_tasks("pool", tasks, keep_results=False)
        seconds, _ = self.pool("pool")
        print(f"from a generator, nothing kept: {count / seconds:.0f} a second, ", end="")
        print(f"{_peak() - before:,} bytes in all")
        before = _peak()
        seconds = self.true("pool", count)
        print(f"{count:,} /bin/true: {count / seconds:.0f} a second, ", end="")
        print(f"{(_peak() - before) / count:.0f} bytes each")


def _peak() -> int:
    """Return the most memory that this process has had, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


class Callables(Measurement):
    """1,000,000 calls of a function that does nothing."""

    def step(self, timestamp: float = 0.0, **keywords: Any) -> None:
        """Measure."""
        self.first_pool()
        count = 1_000_000
        before = _peak()
        tasks = (Task(f"t{number}", 1, ".", nothing, number) for number in range(count))
        self.services.add_tasks("pool", tasks, keep_results=False)
        begin = time.perf_counter()
        self.services.submit_tasks("pool", use_dask=True, dask_nodes=NODES)
        seen = Counter(record.status for record in self.services.iter_finished_tasks("pool"))
        seconds = time.perf_counter() - begin
        self.services.get_finished_tasks("pool")
        print(f"{count:,} callables: {dict(seen)}, {count / seconds:.0f} a second, ", end="")
        print(f"{_peak() - before:,} bytes in all")


class Kills(Measurement):
    """2,000 callables of 5-500 ms, a worker killed every two seconds, twenty times."""

    def step(self, timestamp: float = 0.0, **keywords: Any) -> None:
        """Measure."""
        self.first_pool()
        folder = Path(self.services.get_working_dir(), "effects")
        folder.mkdir()
        chance, count = random.Random(7), 2000
        for number in range(count):
            seconds = chance.uniform(0.005, 0.5)
            self.services.add_task("pool", f"t{number}", 1, ".", note, number, seconds, str(folder))
        kills: list[tuple[int, float]] = []
        over = threading.Event()
        killer = threading.Thread(target=_kill, args=(kills, over))
        killer.start()
        seconds, results = self.pool("pool", retries=10)
        over.set()
        killer.join()
        lost, again = _effects(folder, kills)
        print(f"{count:,} tasks, {len(kills)} workers killed: {seconds:.0f} s, ", end="")
        print(f"{sum(r == n for n, r in enumerate(results.values()))} results right, ", end="")
        print(f"{count - lost} side effects, {again} run again after their end")


def _kill(kills: list[tuple[int, float]], over: threading.Event) -> None:
    chance = random.Random(11)
    while len(kills) < 20 and not over.wait(2):
        if workers := list(_workers()):
            worker = chance.choice(workers)
            kills.append((worker, time.time()))
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


def _workers() -> Iterator[int]:
    """Yield the Dask workers on this machine that belong to this simulation's job."""
    job = os.environ["SLURM_JOB_ID"]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            environ, words = process.environ(), process.cmdline()
            ours = environ.get("SLURM_JOB_ID") == job and "IPS_DASK_MARK" in environ
            if ours and any("dask_worker" in word for word in words):
                yield process.pid


def _effects(folder: Path, kills: list[tuple[int, float]]) -> tuple[int, int]:
    """Return how many tasks left no complete effect, and how many ran again after their end.

    An end less than 0.1 s before its worker was killed does not count as one.
    """
    runs: dict[int, list[tuple[float, float | None]]] = {}
    for path in folder.iterdir():
        words = path.read_text().split()
        number, begin = int(path.name.partition("-")[0]), float(words[3])
        killed = [when for pid, when in kills if pid == int(words[1])]
        end = float(words[5]) if len(words) > 4 else None
        settled = end is not None and not any(0 <= when - end < 0.1 for when in killed)
        runs.setdefault(number, []).append((begin, end if settled else None))
    ends = {n: min((e for _, e in each if e), default=None) for n, each in runs.items()}
    again = sum(
        any(end is not None and begin > end for begin, _ in runs[n]) for n, end in ends.items()
    )
    return 2000 - len(runs), again
