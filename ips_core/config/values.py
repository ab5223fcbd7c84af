"""Define simulation and platform files as frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["ComponentConfig", "PlatformConfig", "SimulationConfig"]


@dataclass(frozen=True)
class PlatformConfig:
    """A platform file; only defaults if there is none."""

    #: Path of the file; empty without a platform file.
    file: str = ""
    #: MPIRUN: ``eval``, ``srun``, ``mpirun`` or ``mpiexec``; None: srun in a Slurm job, else eval.
    mpirun: str | None = None
    #: Every key of the file and the defaults of IPS-framework; numbers of the machine are ints.
    values: dict[str, Any] = field(default_factory=dict)
    #: NODE_ALLOCATION_MODE: ``EXCLUSIVE`` or ``SHARED``; empty if not set.
    allocation_mode: str = ""
    #: NODE_DETECTION: ``manual`` or ``slurm_env``; empty: Slurm in a job, else this machine.
    node_detection: str = ""

    def number(self, key: str) -> int:
        """Return an integer of the file, or 0 if it is absent or empty."""
        return int(self.values.get(key) or 0)


@dataclass(frozen=True)
class ComponentConfig:
    """The section of one component."""

    section: str
    class_: str
    sub_class: str
    #: NAME, the Python class.
    name: str
    #: Absolute path of SCRIPT; empty if MODULE is used.
    script: str
    #: Importable module; SCRIPT takes precedence.
    module: str
    #: Every key of the section and the inherited directories: the component's attributes.
    values: dict[str, Any]

    def full_id(self, number: int) -> str:
        """Return the name of the component's directories, which its events have as ``code``."""
        return f"{self.class_}_{self.sub_class}_{self.name}_{number}"


@dataclass(frozen=True)
class SimulationConfig:
    """A simulation file; all its paths are absolute."""

    file: str
    name: str
    root: str
    log_file: str
    log_level: str
    #: Section of the component that implements each port, in the order of NAMES.
    ports: dict[str, str]
    #: Components by section.
    components: dict[str, ComponentConfig]
    #: Top level of the file, with sections as dicts; SIMULATION_MODE is always set, and
    #: RESTART_TIME is a time, never LATEST, in a restart.
    values: dict[str, Any]
    #: Environment variables, which stand for values that the file does not set.
    environment: dict[str, str] = field(repr=False)
    #: Path of the file that gets the output of components; empty: standard output.
    out_redirect: str = ""
    use_portal: bool = True
    #: PORTAL_URL; empty if not set.
    portal_url: str = ""
