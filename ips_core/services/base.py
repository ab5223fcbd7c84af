"""Hold what all groups of services share: the component's identity, its log, its framework link."""

from __future__ import annotations

import functools
import logging
from typing import Any

from ips_core.ipc.link import FrameworkLink
from ips_core.ipc.messages import Broadcast, Start
from ips_core.tasks.demand import TaskDefaults, read_defaults
from ips_core.tasks.launcher import TaskLauncher

__all__ = ["ServicesBase"]


class ServicesBase:
    """Base of all groups of services."""

    def __init__(self, start: Start, link: FrameworkLink) -> None:
        self._start = start
        self.link = link
        self.component_id = start.component_id
        self.sim_name = start.simulation.name
        self.sim_conf = self._values()
        self.workdir = start.work_directory
        self.component_ref: Any = None
        #: The framework in IPS-framework; None here, where the framework is another process.
        self.fwk = None
        self.span = ""
        self.full_comp_id = start.name
        self.logger = self._make_logger()

    def _values(self) -> dict[str, Any]:
        """Return ``sim_conf``; the simulation file takes precedence over all other sources."""
        simulation = self._start.simulation
        own = {"PORTAL_RUNID": self._start.run_id, "SIMULATION_CONFIG_FILE": simulation.file}
        return self._start.platform | simulation.environment | own | simulation.values

    def _make_logger(self) -> logging.Logger:
        simulation = self._start.simulation
        logger = logging.getLogger(f"ips.{self.full_comp_id}")
        logger.propagate = False
        own = self.sim_conf.get(self._start.section)
        level = own.get("LOG_LEVEL") if isinstance(own, dict) else None
        logger.setLevel(level or simulation.log_level)
        # Each line is appended by one write, so that lines of several components do not mix.
        handler = logging.FileHandler(
            simulation.log_file, mode="a", encoding="utf-8", errors="backslashreplace"
        )
        handler.setFormatter(
            logging.Formatter(f"%(asctime)s {self.full_comp_id:15} %(levelname)-8s %(message)s")
        )
        logger.addHandler(handler)
        return logger

    @functools.cached_property
    def _task_defaults(self) -> TaskDefaults:
        """Defaults of the configuration files for the component's tasks."""
        own = self.sim_conf.get(self._start.section, {})
        return read_defaults(own, self.sim_conf, self._start.platform)

    @functools.cached_property
    def _task_launcher(self) -> TaskLauncher:
        """Launcher of the component's programs."""
        in_job = self._start.resources.launcher == "srun"
        mpirun = self._start.platform.get("MPIRUN") or ("srun" if in_job else "eval")
        return TaskLauncher(mpirun, in_job)

    def hear(self, news: Broadcast) -> None:
        """Handle a broadcast; runs in the reader's thread."""

    def cleanup(self, ok: bool) -> None:
        """Release what the component still holds; ``ok`` is True if the simulation succeeded."""
        logging.shutdown()
