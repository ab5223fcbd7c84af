"""Check simulation files: ``ips.py check CONFIG``.

The command prints what would run where; it runs and creates nothing.
"""

from __future__ import annotations

import argparse
import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ips_core.cli import count
from ips_core.commands.scripts import class_problem
from ips_core.config import (
    ComponentConfig,
    PlatformConfig,
    SimulationConfig,
    overridden,
    read_platform,
    read_simulations,
)
from ips_core.config.reading import file_names
from ips_core.files.staging import work_directory
from ips_core.framework.machine import find_resources
from ips_core.resources.nodes import Resources, uses_job

__all__ = ["main", "report"]


def main(argv: Sequence[str]) -> int:
    """Check simulation files, print what would run, and return the exit code."""
    arguments = _parser().parse_args(argv)
    files = [file for text in arguments.config for file in text.split(",") if file]
    platform = read_platform(arguments.platform or os.environ.get("IPS_PLATFORM_FILE"))
    simulations = read_simulations(files, platform)
    platform = overridden(platform, simulations)
    print(report(platform, _resources(platform, arguments), simulations))
    problems = [
        f"{os.path.relpath(simulation.file)}: {problem}"
        for simulation in simulations
        for problem in _problems(simulation)
    ]
    for problem in problems:
        print(f"ips.py: {problem}", file=sys.stderr)
    found = f"{len(problems)} problem(s) found."  # a run may not need a missing input file
    print(found if problems else "Nothing speaks against running it.")
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ips.py check",
        description="Check simulation files and print what would run on which nodes. Nothing is "
        "run or created; scripts are read, not executed.",
    )
    parser.add_argument(
        "config", nargs="+", metavar="CONFIG", help="simulation file; several run side by side"
    )
    parser.add_argument(
        "--platform", "-p", metavar="FILE", help="platform file (default: $IPS_PLATFORM_FILE)"
    )
    for name, short, of in (("--nodes", "-n", "nodes"), ("--ppn", "-o", "cores of each node")):
        parser.add_argument(name, short, type=count, default=0, metavar="N", help=f"use N {of}")
    return parser


def _resources(platform: PlatformConfig, arguments: argparse.Namespace) -> Resources | None:
    """Return the resources of a run here, or None if only a Slurm job has them."""
    if platform.mpirun == "srun" and not uses_job(platform, os.environ):
        return None
    return find_resources(platform, arguments.nodes, arguments.ppn)


def report(
    platform: PlatformConfig,
    resources: Resources | None,
    simulations: Sequence[SimulationConfig],
) -> str:
    """Return what would run on which nodes, as text.

    `platform` includes what the simulation files override; `resources` is None if only a Slurm job
    has them.
    """
    lines = [*_machine(platform, resources)]
    number = 0
    for simulation in simulations:
        lines += ["", f"simulation {simulation.name}", *_settings(simulation)]
        for port, section in simulation.ports.items():
            number += 1
            lines += _component(simulation, port, simulation.components[section], number)
    return "\n".join([*lines, ""])


def _machine(platform: PlatformConfig, resources: Resources | None) -> Iterator[str]:
    launcher = platform.mpirun or (resources and resources.launcher)
    direct = launcher in ("eval", "local")
    yield f"platform file    {platform.file or 'none'}"
    yield f"tasks start by   {'themselves (MPIRUN = eval)' if direct else launcher}"
    yield f"allocation mode  {platform.allocation_mode or 'SHARED'}"
    if resources is None:
        yield "nodes            those of a Slurm job: run this inside salloc or sbatch to see them"
        return
    yield f"nodes            {resources.nodes}, for {resources.cores_per_node} process(es) each"
    for node in resources.held:
        yield f"   {node.name}: {node.cores} core(s), {node.gpus} GPU(s)"


def _settings(simulation: SimulationConfig) -> Iterator[str]:
    values = simulation.values
    restart = f" at {values['RESTART_TIME']}" if values.get("RESTART_TIME") else ""
    mode = values["SIMULATION_MODE"]
    yield f"   file          {simulation.file}"
    yield f"   SIM_ROOT      {simulation.root}"
    yield f"   LOG_FILE      {simulation.log_file}, from {simulation.log_level} up"
    yield f"   mode          {mode}{restart if mode == 'RESTART' else ''}"
    if simulation.out_redirect:
        yield f"   OUT_REDIRECT  {simulation.out_redirect}"
    if simulation.use_portal and simulation.portal_url:
        yield f"   portal        {simulation.portal_url}"


def _component(
    simulation: SimulationConfig, port: str, component: ComponentConfig, number: int
) -> Iterator[str]:
    source = component.script or f"module {component.module}"
    yield f"   port {port}: [{component.section}]"
    yield f"      class           {component.name} of {source}"
    yield f"      work directory  {work_directory(simulation, component, number)}"
    yield f"      INPUT_DIR       {component.values['INPUT_DIR']}"


def _problems(simulation: SimulationConfig) -> Iterator[str]:
    for key, folder in (
        ("SIM_ROOT", simulation.root),
        ("LOG_FILE", os.path.dirname(simulation.log_file)),
    ):
        if blocked := _blocked(Path(folder)):
            yield f"{key}: {blocked}"
    for component in simulation.components.values():
        if problem := class_problem(component):
            yield problem
        directory = str(component.values["INPUT_DIR"] or ".")
        for name in file_names(component.values.get("INPUT_FILES")):
            file = os.path.join(directory, name)
            if not glob.glob(file):
                yield f"[{component.section}] INPUT_FILES: no such file: {file}"


def _blocked(folder: Path) -> str:
    """Return why a folder could not be created and written to, or "" if it could."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        return f"{folder} is no directory"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} is not writable"
