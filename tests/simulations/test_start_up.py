"""What a simulation without Dask costs before it does anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

#: What only pools with ``use_dask=True`` need, and what only some simulations do.
HEAVY = (
    "dask",
    "distributed",
    "tornado",
    "ips_dask_cluster.cluster",
    "asyncio",
    "bokeh",
    "tqdm",
    "numpy",
    "urllib.request",
)

DRIVER = """
import json

print(json.dumps(["driver", sorted(sys.modules)]))
services.call(services.get_port("WORKER"), "step", 0.0)
"""

WORKER = """
import json

print(json.dumps(["worker", sorted(sys.modules)]))
"""

#: Runs a simulation, and says what that loaded.
FRAMEWORK = """
import json, sys
from ips_core.cli import main
code = main(sys.argv[1:])
print(json.dumps(["framework", sorted(sys.modules)]))
sys.exit(code)
"""


def cpu_seconds(command: Sequence[str], **options: Any) -> tuple[float, str]:
    """Run a command; return its CPU time, with that of all it waited for, and its output."""
    before = os.times()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, **options)
    after = os.times()
    assert (done.returncode, done.stderr) == (0, "")
    seconds = after.children_user + after.children_system
    return seconds - before.children_user - before.children_system, done.stdout


def test_nothing_heavy_is_loaded_and_little_time_is_spent(simulation: Any) -> None:
    simulation.write(DRIVER, WORKER)
    command = [sys.executable, "-c", FRAMEWORK, "--config", "sim.config"]
    runs = [cpu_seconds(command, cwd=simulation.folder) for _ in range(3)]
    spent, output = min(runs)
    loaded = dict(json.loads(line) for line in output.splitlines() if line.startswith("["))
    assert loaded.keys() == {"framework", "driver", "worker"}
    assert {who: sorted({*HEAVY} & {*modules}) for who, modules in loaded.items()} == {
        "framework": [],
        "driver": [],
        "worker": [],
    }
    # in units of this machine: three processes that do nothing but load what reads and sends
    bare = [sys.executable, "-c", "import configobj, cloudpickle, logging, subprocess"]
    unit = 3 * min(cpu_seconds(bare)[0] for _ in range(3))
    assert spent < 6 * unit, f"{spent:.2f} s, against {unit:.2f} s of three bare processes"
