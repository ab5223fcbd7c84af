"""What simulation and platform files say, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["ComponentConfig", "PlatformConfig", "SimulationConfig"]


@dataclass(frozen=True)
class PlatformConfig:
    """The machine as the user describes it; only defaults when there is no platform file.

    Parameters
    ----------
    file : str
        Where it was read from; empty without a platform file.
    mpirun : str or None
        How tasks are launched: ``eval``, ``srun``, ``mpirun`` or ``mpiexec``; None: decided by
        where the simulation runs.
    values : dict
        Every key of the file and the defaults of IPS-framework; the known numbers are ints.
    allocation_mode : {"", "EXCLUSIVE", "SHARED"}
        NODE_ALLOCATION_MODE; empty: not said.
    node_detection : {"", "manual", "slurm_env"}
        NODE_DETECTION; empty: Slurm if there is a job, else this machine.
    """

    file: str = ""
    mpirun: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    allocation_mode: str = ""
    node_detection: str = ""

    def number(self, key: str) -> int:
        """Return a number of the file, 0 when it is absent or empty."""
        return int(self.values.get(key) or 0)


@dataclass(frozen=True)
class ComponentConfig:
    """One component's section.

    Parameters
    ----------
    section : str
        Name of the section.
    class_, sub_class, name : str
        CLASS, SUB_CLASS and NAME; NAME is the Python class.
    script : str
        Absolute path of SCRIPT; empty when MODULE is used.
    module : str
        Importable module; empty when SCRIPT is used.
    values : dict
        Every key of the section, what the component sees as its attributes.
    """

    section: str
    class_: str
    sub_class: str
    name: str
    script: str
    module: str
    values: dict[str, Any]

    def full_id(self, number: int) -> str:
        """Return the name of its directories and the ``code`` of its events."""
        return f"{self.class_}_{self.sub_class}_{self.name}_{number}"


@dataclass(frozen=True)
class SimulationConfig:
    """A simulation file.

    Parameters
    ----------
    file : str
        Its absolute path.
    name, root, log_file : str
        SIM_NAME, and absolute paths of SIM_ROOT and LOG_FILE.
    log_level : str
        LOG_LEVEL.
    ports : dict of str to str
        Section of the component that implements each port, in the order of NAMES.
    components : dict of str to ComponentConfig
        By section.
    values : dict
        The file's top level, with sections as dicts: what ``get_config_param`` answers from.
        SIMULATION_MODE is always there, and RESTART_TIME is never LATEST in a restart.
    environment : dict of str to str
        Environment variables, which count as values that the file does not set.
    out_redirect : str
        Absolute path of the file that takes what components print; empty: standard output.
    use_portal : bool
        USE_PORTAL.
    portal_url : str
        PORTAL_URL; empty: there is none.
    """

    file: str
    name: str
    root: str
    log_file: str
    log_level: str
    ports: dict[str, str]
    components: dict[str, ComponentConfig]
    values: dict[str, Any]
    environment: dict[str, str] = field(repr=False)
    out_redirect: str = ""
    use_portal: bool = True
    portal_url: str = ""
