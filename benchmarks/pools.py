"""What task pools cost: tasks a second against ``xargs``, the next pool, memory, kills.

    python benchmarks/pools.py [rate | memory | callables | kills] ...

Runs on a private Slurm of four nodes with two CPUs each, by default all of it; what each part
measures is said in ``pool_drivers.py``, whose components do it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from ips_dask_cluster.testing import LocalSlurm

CONFIG = """
SIM_NAME = benchmark
SIM_ROOT = {folder}/run
LOG_FILE = $SIM_ROOT/benchmark.log
[PORTS]
NAMES = DRIVER
[[DRIVER]]
IMPLEMENTATION = DRIVER
[DRIVER]
CLASS = DRIVER
SUB_CLASS =
NAME = {name}
SCRIPT = {script}
"""
PARTS = ("rate", "memory", "callables", "kills")
NODES = 4
SECONDS = 3600


def measure(part: str, slurm: LocalSlurm) -> int:
    """Run the component that measures a part, in an allocation; return the exit code."""
    script = Path(__file__).with_name("pool_drivers.py").resolve()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        config = Path(folder, "benchmark.config")
        name = part.capitalize()
        config.write_text(CONFIG.format(folder=folder, name=name, script=script))
        simulation = [sys.executable, "-m", "ips_core", "--config", str(config)]
        command = ["salloc", "--quiet", f"-N{NODES}", "--exclusive", *simulation]
        environ = slurm.environ | {"DASK_JOBQUEUE__SLURM_ALLOCATION__RESTARTS": "100"}
        return subprocess.run(command, env=environ, cwd=folder, timeout=SECONDS).returncode


def main() -> int:
    """Run the measurements that the arguments name."""
    parts = sys.argv[1:] or PARTS
    if unknown := set(parts) - set(PARTS):
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    with LocalSlurm(nodes=NODES, cpus=2) as slurm:
        return max(measure(part, slurm) for part in parts)


if __name__ == "__main__":
    sys.exit(main())
