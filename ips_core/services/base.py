"""What all groups of services stand on: who we are, the log file, the link to the framework."""

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
    """What every service knows.

    Parameters
    ----------
    start : Start
        Who the component is.
    link : FrameworkLink
        To the framework.
    """

    def __init__(self, start: Start, link: FrameworkLink) -> None:
        self._start = start
        self.link = link
        self.component_id = start.component_id
        self.sim_name = start.simulation.name
        self.sim_conf = self._values()
        self.workdir = start.work_directory
        self.component_ref: Any = None
        #: IPS-framework's own object in its own process; here it is in another.
        self.fwk = None
        self.span = ""
        self.full_comp_id = start.name
        self.logger = self._make_logger()

    def _values(self) -> dict[str, Any]:
        """Return what files and environment set, as IPS's ``sim_conf`` has it: the file wins."""
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
        # Appending, one write a line: lines of several components never mix
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
        """What the files say for the component's tasks."""
        own = self.sim_conf.get(self._start.section, {})
        return read_defaults(own, self.sim_conf, self._start.platform)

    @functools.cached_property
    def _task_launcher(self) -> TaskLauncher:
        """What starts the component's programs."""
        in_job = self._start.resources.launcher == "srun"
        mpirun = self._start.platform.get("MPIRUN") or ("srun" if in_job else "eval")
        return TaskLauncher(mpirun, in_job)

    def hear(self, news: Broadcast) -> None:
        """Take news for every component (called by the reader)."""

    def cleanup(self, ok: bool) -> None:
        """Give back what the component still holds; ``ok`` tells how the simulation went."""
        logging.shutdown()
