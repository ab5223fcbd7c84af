"""Write a small simulation to start from: ``ips.py init DIR``."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from ips_core.errors import ConfigError

__all__ = ["main", "write_simulation"]

_CONFIG = """\
# The simulation {name}. From this folder:
#
#    ips.py check {name}.config      what would run, and what is wrong
#    ips.py --config={name}.config   run it
#
# A run writes the folder {name}/: LOG_FILE; work/, where each component works;
# simulation_results/; and simulation_log/, every event of the run as a line of JSON.
#
# $NAME stands for a value of this file or for an environment variable. Here, $PWD is the
# folder that ips.py is started in.
SIM_NAME = {name}
SIM_ROOT = $PWD/$SIM_NAME
LOG_FILE = $SIM_ROOT/$SIM_NAME.log
# DEBUG, INFO, WARNING or ERROR
LOG_LEVEL = INFO
SIMULATION_MODE = NORMAL

# Components find each other by ports. The driver, which is always there, calls the others.
[PORTS]
   NAMES = DRIVER WORKER
   [[DRIVER]]
      IMPLEMENTATION = Driver
   [[WORKER]]
      IMPLEMENTATION = Worker

# A section for each component; NAME is its class in SCRIPT. It sees every key as an attribute:
# self.TASKS is "8", always text.
[Driver]
   CLASS = DRIVER
   SUB_CLASS =
   NAME = Driver
   SCRIPT = $PWD/driver.py
   NPROC = 1
   BIN_PATH =
   INPUT_FILES =
   OUTPUT_FILES =
   # A key of our own
   STEPS = 3

[Worker]
   CLASS = WORKERS
   SUB_CLASS =
   NAME = Worker
   SCRIPT = $PWD/worker.py
   NPROC = 1
   BIN_PATH =
   INPUT_FILES =
   OUTPUT_FILES =
   # A key of our own
   TASKS = 8
"""

_DRIVER = '''\
"""The driver: it lets the worker do its steps."""

from ipsframework import Component


class Driver(Component):
    def init(self, timestamp=0.0, **keywords):
        self.worker = self.services.get_port("WORKER")
        self.services.call(self.worker, "init", timestamp)

    def step(self, timestamp=0.0, **keywords):
        for moment in range(int(self.STEPS)):
            self.services.call(self.worker, "step", float(moment))

    def finalize(self, timestamp=0.0, **keywords):
        self.services.call(self.worker, "finalize", timestamp)
'''

_WORKER = '''\
"""The worker: at each step it fills a pool of tasks and runs it.

The tasks share the nodes of the Slurm allocation, or the cores of this machine.
"""

from ipsframework import Component


def square(moment, number):
    """A task may be a function, or a program: a name and its arguments."""
    return moment + number**2


class Worker(Component):
    def step(self, timestamp=0.0, **keywords):
        services = self.services
        directory = services.get_working_dir()
        services.create_task_pool("squares")
        for number in range(int(self.TASKS)):
            # pool, name of the task, processes, where it runs, what runs, its arguments
            services.add_task(
                "squares", f"square_{number}", 1, directory, square, timestamp, number
            )
        services.submit_tasks("squares", use_dask=True)
        results = services.get_finished_tasks("squares")  # what each returned, by its name
        services.remove_task_pool("squares")

        with open("squares.txt", "w") as file:  # in the work directory
            for name, value in results.items():
                print(name, value, file=file)
        print("moment", timestamp, "sum", sum(results.values()))
'''


def main(argv: Sequence[str]) -> int:
    """Write a simulation, print how to run it, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="ips.py init",
        description="Write a small simulation: a driver, and a worker with a pool of tasks.",
    )
    parser.add_argument("directory", metavar="DIR", help="created if need be")
    directory = parser.parse_args(argv).directory
    files = write_simulation(directory)
    print("Wrote", ", ".join(str(file) for file in files))
    print(f"Run it: cd {shlex.quote(directory)} && ips.py --config={files[0].name}")
    return 0


def write_simulation(directory: str | os.PathLike[str]) -> list[Path]:
    """Write a simulation named after its directory and return its files, the simulation file first.

    The directory is created if it is missing. Raise ConfigError if one of the files exists, before
    anything is written, or if one cannot be written.
    """
    folder = Path(directory)
    name = re.sub(r"[^\w.-]+", "_", folder.resolve().name).strip("._-") or "simulation"
    texts = {
        folder / f"{name}.config": _CONFIG.format(name=name),
        folder / "driver.py": _DRIVER,
        folder / "worker.py": _WORKER,
    }
    there = [f"{file} is there already: nothing is overwritten" for file in texts if file.exists()]
    if there:
        raise ConfigError("", there)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError("", [f"cannot write {error.filename}: {error.strerror}"]) from None
    return list(texts)
