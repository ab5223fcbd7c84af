"""Create the directories below SIM_ROOT, and copy the input files of components."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
from pathlib import Path
from typing import IO

from ips_core.config import ComponentConfig, SimulationConfig
from ips_core.config.reading import file_names
from ips_core.errors import ConfigError
from ips_core.files.copies import copy_files

__all__ = [
    "make_log_file",
    "make_tree",
    "stage_inputs",
    "stage_sub_flow_inputs",
    "work_directory",
]


def work_directory(simulation: SimulationConfig, config: ComponentConfig, number: int) -> Path:
    """Return the work directory of a component."""
    return Path(simulation.root) / "work" / config.full_id(number)


def make_tree(simulation: SimulationConfig, files: list[str]) -> None:
    """Create SIM_ROOT and copy the configuration files and scripts into it.

    Raise ConfigError if a directory or file cannot be written.
    """
    root = Path(simulation.root)
    try:
        for part in ("work", "simulation_log", "simulation_setup", "simulation_results"):
            (root / part).mkdir(parents=True, exist_ok=True)
        for file in filter(None, files):
            _copy(file, root)
        for component in simulation.components.values():
            if component.script:
                _copy(component.script, root / "simulation_setup")
    except OSError as error:
        raise ConfigError(simulation.file, [f"cannot set up SIM_ROOT: {error}"]) from None


def make_log_file(simulation: SimulationConfig) -> IO[bytes]:
    """Empty LOG_FILE and return it open, locked against other runs until the caller closes it.

    Raise ConfigError if it cannot be written or another run holds the lock.
    """
    path = Path(simulation.log_file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab")  # noqa: SIM115  # the caller closes it
    except OSError as error:
        raise ConfigError(simulation.file, [f"cannot write LOG_FILE: {error}"]) from None
    if path.is_file():  # not /dev/null
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            problem = (
                f"another run writes LOG_FILE = {path} now: wait for its end, or give this one a "
                "SIM_ROOT and a LOG_FILE of its own"
            )
            raise ConfigError(simulation.file, [problem]) from None
        except OSError:  # a file system without locks
            pass
        file.truncate(0)
    return file


def _copy(file: str, directory: Path) -> None:
    with contextlib.suppress(shutil.SameFileError):  # it is there already
        shutil.copy(file, directory)


def stage_inputs(
    config: ComponentConfig, target: Path, launch_directory: str = "", missing_ok: bool = False
) -> None:
    """Copy a component's INPUT_FILES from its INPUT_DIR to a directory; wildcards are expanded.

    A relative INPUT_DIR starts in `launch_directory`, by default the current directory. Raise
    FileNotFoundError if a name matches nothing, unless `missing_ok`, and OSError if a copy fails.
    """
    directory = os.path.join(launch_directory, config.values.get("INPUT_DIR") or ".")
    names = file_names(config.values.get("INPUT_FILES"))
    if missing_ok:
        names = [name for name in names if glob.glob(os.path.join(directory, name))]
    try:
        copy_files(directory, names, str(target))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"[{config.section}] INPUT_FILES: {error}") from None


def stage_sub_flow_inputs(
    simulation: SimulationConfig,
    directory: str,
    launch_directory: str,
    missing_ok: bool = False,
) -> None:
    """Copy the INPUT_FILES of each component of a sub-workflow to a folder named as its section.

    The folders are in `directory`, the work directory of the component that owns the sub-workflow.
    Other parameters and errors are those of :func:`stage_inputs`.
    """
    for component in simulation.components.values():
        target = Path(directory, component.section)
        target.mkdir(exist_ok=True)
        stage_inputs(component, target, launch_directory, missing_ok)
