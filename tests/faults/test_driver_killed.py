"""The driver dies by SIGKILL while binaries run: nothing is left on any node.

It runs below a shell that survives it, since Slurm itself would clean up behind salloc's own
command.
"""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

SHELL = """
"$@" &
echo $! > driver.tmp && mv driver.tmp driver
until [ -e seen ]; do sleep 0.1; done
"""

NOTEBOOK = """
from distributed import Client
from ips_dask_cluster import SlurmAllocationCluster


def run_binary():
    import subprocess

    return subprocess.Popen(["sleep", "321"], start_new_session=True).wait()


cluster = SlurmAllocationCluster()
cluster.wait_for_workers()
client = Client(cluster)
workers = cluster.scheduler_info["workers"]
client.gather([client.submit(run_binary, workers=[address], pure=False) for address in workers])
"""


@pytest.mark.parametrize("kind", ["cluster", "simulation"])
def test_nothing_is_left_when_the_driver_is_killed(
    kind, slurm, pool_simulation, wait_until, processes_with
):
    pool_simulation(tasks=4, seconds=321, ppw=1)
    Path("driver.py").write_text(NOTEBOOK)
    module = [sys.executable, "-m", "ips_core", "--config", "pool.config"]
    driver = [sys.executable, "driver.py"] if kind == "cluster" else module
    mark = f"IPS_TEST_MARK={os.environ['IPS_TEST_MARK']}"

    def binaries() -> list[str]:
        return [text for _, text in processes_with(mark) if text.endswith("sleep 321 ")]

    def left() -> list[str]:
        """What is there but salloc, the surviving shell and its sleep."""
        steps = slurm.run(["squeue", "--steps", "-h", "-o", "%j"]).stdout.split()
        spared = ("salloc", "sh -c", "sleep 0.1", "squeue")
        running = [text for _, text in processes_with(mark) if not text.startswith(spared)]
        return [*running, *(step for step in steps if step.startswith("ips-dask"))]

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(slurm.salloc, ["sh", "-c", SHELL, "sh", *driver], nodes=4, timeout=100)
        try:
            wait_until(lambda: len(binaries()) == 4 or done.done(), 60, "four binaries run")
            assert not done.done(), done.result()
            os.kill(int(Path("driver").read_text()), signal.SIGKILL)
            wait_until(lambda: [left()] if not left() else None, 10, "nothing is left")
        finally:
            Path("seen").touch()
        done.result()
