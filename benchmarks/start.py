"""How long a cluster of four nodes takes to start, against the bare Dask commands by hand.

    python benchmarks/start.py [ROUNDS]

Runs on a private Slurm of four nodes. One process, which has imported everything, alternates:

- ours: ``SlurmAllocationCluster()`` to four workers connected, TLS on;
- bare: ``dask scheduler`` and ``srun dask worker`` started side by side, no TLS, no nannies.

No dashboard on either side. Prints each pair, the medians and their ratio.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

NODES = 4
SECONDS = 120


@contextlib.contextmanager
def ours() -> Iterator[None]:
    """Start our cluster and wait for its workers."""
    from ips_dask_cluster import SlurmAllocationCluster

    with SlurmAllocationCluster(scheduler_options={"dashboard": False}) as cluster:
        cluster.wait_for_workers(NODES)
        yield


@contextlib.contextmanager
def bare() -> Iterator[None]:
    """Start Dask's own commands, as a careful user would in a script."""
    from distributed import Client

    dask = str(Path(sys.executable).with_name("dask"))
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        file = f"{folder}/scheduler.json"
        common = ["--scheduler-file", file, "--no-dashboard"]
        srun = ["srun", f"-N{NODES}", "--ntasks-per-node=1", "--overlap", "--cpu-bind=none"]
        commands = (
            [dask, "scheduler", "--port", "0", *common],
            [*srun, dask, "worker", "--no-nanny", *common],
        )
        started = [
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for command in commands
        ]
        try:
            while not os.path.exists(file):
                time.sleep(0.01)
            with Client(scheduler_file=file, timeout=SECONDS) as client:
                while len(client.scheduler_info(n_workers=-1)["workers"]) < NODES:
                    time.sleep(0.01)
                yield
                client.shutdown()
        finally:
            for process in started:
                process.terminate()
                process.wait(SECONDS)


def measure(start: Callable[[], contextlib.AbstractContextManager[None]]) -> float:
    """Return the seconds until a cluster is there; it is closed outside of the measurement."""
    begin = time.perf_counter()
    with start():
        return time.perf_counter() - begin


def alternate(rounds: int) -> None:
    """Measure in turn, inside an allocation."""
    for start in (ours, bare):  # imports and file caches
        measure(start)
    pairs = []
    for number in range(rounds):
        pairs.append((measure(ours), measure(bare)))
        print(f"{number + 1}: ours {pairs[-1][0]:.2f} s, bare {pairs[-1][1]:.2f} s", flush=True)
    mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"median: ours {mine:.2f} s, bare {theirs:.2f} s, ratio {mine / theirs:.2f}")


def main() -> int:
    """Run the measurement, bringing the allocation if there is none yet."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    if "SLURM_JOB_ID" in os.environ:
        alternate(rounds)
        return 0
    from ips_dask_cluster.testing import LocalSlurm

    with LocalSlurm(nodes=NODES) as slurm:
        command = ["salloc", f"-N{NODES}", "--exclusive", sys.executable, __file__, str(rounds)]
        return subprocess.run(command, env=slurm.environ, timeout=rounds * SECONDS).returncode


if __name__ == "__main__":
    sys.exit(main())
