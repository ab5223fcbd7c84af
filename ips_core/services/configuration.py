"""Tell a component its configuration values and directories."""

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

        A value that :meth:`set_config_param` has set is returned, too; a sub-workflow also sees the
        values that were set for the simulation it belongs to.

        Parameters
        ----------
        param : str
            Name of the value; the name of a section returns the section as a dict.
        silent : bool
            If True, a missing value is not logged. Default: False.

        Returns
        -------
        object
            A str, list or dict from a file, a str from the environment, or the object that was set.

        Raises
        ------
        KeyError
            The value is set neither in a file, nor in the environment, nor by
            :meth:`set_config_param`.
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
        """Set a value that :meth:`get_config_param` returns to every component from now on.

        Parameters
        ----------
        param : str
            Name of the value; no file and no environment variable may set it.
        value : object
            Any object that can be pickled.
        target_sim_name : str, optional
            SIM_NAME of the simulation that gets the value. Default: the simulation of the caller.

        Returns
        -------
        object
            `value`.

        Raises
        ------
        IPSError
            A file, the environment or IPS itself sets `param`, so components may have read it
            already; or there is no simulation `target_sim_name`.
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
