"""Run sub-workflows and simulations that a component starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ips_core.config import writing as workflow_config
from ips_core.config.reading import file_names
from ips_core.errors import IPSError
from ips_core.files.copies import copy_files
from ips_core.files.staging import stage_sub_flow_inputs, work_directory
from ips_core.ipc.messages import ComponentID
from ips_core.services.staging import StagingServices

__all__ = ["WorkflowServices"]


class WorkflowServices(StagingServices):
    """Sub-workflows and dynamic simulations."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._drivers: dict[str, _Driver] = {}

    def create_sub_workflow(
        self,
        sub_name: str,
        config_file: str,
        override: Mapping[str, Any] | None = None,
        input_dir: str | None = None,
    ) -> tuple[str, ComponentID | None, ComponentID]:
        """Start the components of another simulation file as a part of this simulation.

        Values that the top level of the file does not set are taken from this simulation. The
        sub-workflow works below ``<work directory>/<sub_name>`` and writes its events and log lines
        to the files of this simulation. The caller calls ``init``, ``step`` and ``finalize`` of the
        sub-workflow's driver.

        Parameters
        ----------
        sub_name : str
            Name of the sub-workflow, new in this component. Its SIM_NAME is
            ``<this SIM_NAME>::<sub_name>``.
        config_file : str
            Simulation file of the sub-workflow. The completed file is written to the work
            directory.
        override : mapping, optional
            Values that replace those of the file: a mapping for each section, anything else for the
            top level.
        input_dir : str, optional
            Directory of all input files of the sub-workflow, relative to the work directory.
            Default: one directory for each section, into which the section's INPUT_FILES are
            copied.

        Returns
        -------
        tuple
            SIM_NAME, the id of the component of the INIT port (None without one), and the id of the
            component of the DRIVER port.

        Raises
        ------
        ConfigError
            The file is missing or wrong.
        IPSError
            `sub_name` is taken, empty, or contains ``/`` or ``:``; a component could not be
            constructed; or the simulation is ending.
        """
        if sub_name in self.sub_flows:
            raise IPSError(f"there is a sub-workflow {sub_name} already")
        if not sub_name or set(sub_name) & set("/:"):
            raise IPSError(f"{sub_name!r} cannot name a sub-workflow: its directory is named so")
        raw = workflow_config.read_raw(config_file)
        workflow_config.absolute_scripts(raw, self._start.launch_directory)
        values = self._start.simulation.values
        workflow_config.complete(raw, values, self.sim_name, sub_name, os.getcwd())
        workflow_config.change(raw, override or {})
        # The framework reads the file: $PWD and relative paths refer to its launch directory.
        source = self.link.ask("read_simulation", workflow_config.write(raw, os.getcwd()))
        directories = {
            section: os.path.abspath(input_dir or section) for section in source.components
        }
        workflow_config.direct_inputs(raw, directories)
        file = workflow_config.write(raw, os.getcwd())
        config = self.link.ask("read_simulation", file)
        if input_dir is None:
            stage_sub_flow_inputs(
                source, os.getcwd(), self._start.launch_directory, missing_ok=True
            )
        ports = self.link.ask("create_sub_workflow", file)
        self.link.emit("IPS_CREATE_SUB_WORKFLOW", f"workflow_name = {sub_name}")
        driver = config.components[config.ports["DRIVER"]]
        directory = work_directory(config, driver, ports["DRIVER"].number)
        outputs = file_names(driver.values.get("OUTPUT_FILES"))
        self._drivers[sub_name] = _Driver(directory, outputs)
        self.sub_flows[sub_name] = source
        return config.name, ports.get("INIT"), ports["DRIVER"]

    def stage_subflow_output_files(self, subflow_name: str = "ALL") -> dict[str, list[str]]:
        """Copy the OUTPUT_FILES of sub-workflows' drivers to the work directory.

        Parameters
        ----------
        subflow_name : str
            Name of a sub-workflow. Default: all sub-workflows of this component.

        Returns
        -------
        dict
            A list of the names of the copied files for each sub-workflow.

        Raises
        ------
        KeyError
            There is no sub-workflow `subflow_name`.
        OSError
            A file cannot be copied; the message has both paths and the reason.
        """
        if subflow_name != "ALL" and subflow_name not in self.sub_flows:
            known = ", ".join(self.sub_flows) or "none"
            raise KeyError(f"no sub-workflow {subflow_name}; there are: {known}")
        names = list(self.sub_flows) if subflow_name == "ALL" else [subflow_name]
        return {name: self._drivers[name].copy_outputs() for name in names}

    def create_simulation(self, config_file: str, override: Mapping[str, Any] | None = None) -> str:
        """Start an independent simulation beside this one; the framework runs its driver.

        Parameters
        ----------
        config_file : str
            Simulation file. The file as it runs is written to the work directory.
        override : mapping, optional
            Values that replace those of the file: a mapping for each section, anything else for the
            top level.

        Returns
        -------
        str
            SIM_NAME of the simulation.

        Raises
        ------
        ConfigError
            The file is missing or wrong, or another simulation has its SIM_ROOT or LOG_FILE.
        IPSError
            A simulation of that name exists.
        """
        raw = workflow_config.read_raw(config_file)
        workflow_config.change(raw, override or {})
        workflow_config.absolute_scripts(raw, self._start.launch_directory)
        return self.link.ask("create_simulation", workflow_config.write(raw, os.getcwd()))


@dataclass(frozen=True)
class _Driver:
    """Directory and OUTPUT_FILES of a sub-workflow's driver."""

    directory: Path
    outputs: list[str]

    def copy_outputs(self) -> list[str]:
        """Copy the OUTPUT_FILES that exist to the current directory and return their names."""
        found = sorted({path for name in self.outputs for path in self.directory.glob(name)})
        copy_files(str(self.directory), [path.name for path in found], os.getcwd())
        return [path.name for path in found]
