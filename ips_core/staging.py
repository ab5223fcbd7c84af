"""Files and directories of a simulation below SIM_ROOT."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from pathlib import Path
from typing import Any

from ips_core.config import ComponentConfig, SimulationConfig
from ips_core.errors import ConfigError

__all__ = ["file_names", "make_log_file", "make_tree", "stage_inputs", "work_directory"]


def file_names(value: Any) -> list[str]:
    """Return a configuration value that lists files as a list: blanks or commas separate them."""
    return list(value) if isinstance(value, (list, tuple)) else str(value or "").split()


def work_directory(simulation: SimulationConfig, config: ComponentConfig, number: int) -> Path:
    """Return the work directory of a component."""
    return Path(simulation.root) / "work" / config.full_id(number)


def make_tree(simulation: SimulationConfig, files: list[str]) -> None:
    """Create SIM_ROOT and copy the configuration files into it.

    Raises
    ------
    ConfigError
        A directory or file cannot be written.
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


def make_log_file(simulation: SimulationConfig) -> None:
    """Start an empty LOG_FILE.

    Raises
    ------
    ConfigError
        It cannot be written.
    """
    log_file = Path(simulation.log_file)
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        log_file.write_text("")
    except OSError as error:
        raise ConfigError(simulation.file, [f"cannot write LOG_FILE: {error}"]) from None


def _copy(file: str, directory: Path) -> None:
    with contextlib.suppress(shutil.SameFileError):  # it is there already
        shutil.copy(file, directory)


def stage_inputs(config: ComponentConfig, target: Path, missing_ok: bool = False) -> None:
    """Copy a component's INPUT_FILES from its INPUT_DIR to a directory; wildcards are expanded.

    Raises
    ------
    FileNotFoundError
        A name matches nothing.
    """
    directory = str(config.values.get("INPUT_DIR") or ".")
    for name in file_names(config.values.get("INPUT_FILES")):
        found = glob.glob(os.path.join(directory, name))
        if not found and not missing_ok:
            raise FileNotFoundError(
                f"[{config.section}] INPUT_FILES: no such file: {os.path.join(directory, name)}"
            )
        for file in found:
            shutil.copy(file, target)
