"""Workers need not have this package: what they need of it, and of the scripts, comes by value."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Any

DRIVER = """
from dataclasses import dataclass

from distributed.diagnostics.plugin import WorkerPlugin
from ipsframework import Component


@dataclass
class Point:
    current: float


class Noting(WorkerPlugin):
    def __init__(self, path):
        self.path = path

    def setup(self, worker):
        open(self.path, "w").close()


def has_package(name):
    from importlib.util import find_spec

    return find_spec(name) is not None


class Driver(Component):
    def half(self, point):
        return Point(point.current / 2 + len(self.NAME))

    def step(self, timestamp=0.0, **keywords):
        services, cwd = self.services, self.services.get_working_dir()
        services.create_task_pool("pool")
        services.add_task("pool", "dask", 1, cwd, has_package, "distributed")
        services.add_task("pool", "ours", 1, cwd, has_package, "ips_core")
        services.add_task("pool", "method", 1, cwd, self.half, Point(3.0))
        services.add_task("pool", "binary", 1, cwd, "sh", "-c", "exit 3")
        services.submit_tasks("pool", use_dask=True, dask_worker_plugin=Noting(cwd + "/noted"))
        print(services.get_finished_tasks("pool"))
        import os

        print(os.path.exists("noted"))
"""


def test_pools_run_where_the_package_is_not_installed(simulation: Any, tmp_path: Path) -> None:
    # -S: without the site module nothing tells this Python of packages but PYTHONPATH, where an
    # editable installation is not
    python = tmp_path / "python"
    packages = sysconfig.get_path("purelib")
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{packages}" exec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    variable = "DASK_JOBQUEUE__SLURM_ALLOCATION__PYTHON"
    outcome = simulation.write(DRIVER).run(**{variable: str(python)})
    assert outcome.stderr == ""
    results, noted = outcome.stdout.splitlines()[1:]
    assert results == ("{'dask': True, 'ours': False, 'method': Point(current=7.5), 'binary': 3}")
    assert noted == "True"
