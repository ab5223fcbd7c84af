"""Services that tell a component what the simulation's files say, and where it works."""

from __future__ import annotations

from typing import Any

from ips_core.services.base import ServicesBase

__all__ = ["ConfigurationServices"]


class ConfigurationServices(ServicesBase):
    """Configuration values and directories."""

    def get_config_param(self, param: str, silent: bool = False) -> Any:
        """Return a value of the simulation file, the environment or the platform file.

        Parameters
        ----------
        param : str
            Its name; a section gives a dict.
        silent : bool
            True: do not log that it is missing.

        Raises
        ------
        KeyError
            No file sets it.
        """
        own = {
            "PORTAL_RUNID": self._start.run_id,
            "SIMULATION_CONFIG_FILE": self._start.simulation.file,
        }
        for source in (
            self.sim_conf,
            own,
            self._start.simulation.environment,
            self._start.platform,
        ):
            if param in source:
                return source[param]
        if not silent:
            self.logger.error("no configuration parameter %s", param)
        raise KeyError(f"no configuration parameter {param}")

    def get_working_dir(self) -> str:
        """Return the component's work directory, an absolute path."""
        return self.workdir

    def get_run_directory(self) -> str:
        """Return the simulation's directory, SIM_ROOT, an absolute path."""
        return self._start.simulation.root
