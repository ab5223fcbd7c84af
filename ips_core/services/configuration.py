"""Services that tell a component what the simulation's files say, and where it works."""

from __future__ import annotations

from typing import Any

from ips_core.errors import IPSError
from ips_core.ipc.messages import pack, unpack
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
            Neither a file nor :meth:`set_config_param` sets it.
        """
        if param in self.sim_conf:
            return self.sim_conf[param]
        found = self.link.ask("get_config_param", param)
        if found is not None:
            return unpack(found)
        if not silent:
            self.logger.error("no configuration parameter %s", param)
        raise KeyError(f"no configuration parameter {param}")

    def set_config_param(self, param: str, value: Any, target_sim_name: str | None = None) -> Any:
        """Set a value that :meth:`get_config_param` gives to every component from now on.

        Parameters
        ----------
        param : str
            Its name, which this simulation's file does not set.
        value : object
            Its value.
        target_sim_name : str, optional
            For which simulation. Default: this one.

        Returns
        -------
        object
            The value.

        Raises
        ------
        IPSError
            A file or the environment sets it: components may have read it already. Or there is no
            such simulation.
        """
        if param in self.sim_conf:
            raise IPSError(f"cannot set {param}: a file, the environment or IPS itself sets it")
        self.link.ask("set_config_param", param, pack(value), target_sim_name)
        return value

    def get_working_dir(self) -> str:
        """Return the component's work directory, an absolute path."""
        return self.workdir

    def get_run_directory(self) -> str:
        """Return the simulation's directory, SIM_ROOT, an absolute path."""
        return self._start.simulation.root
