"""Services by which a component runs simulations of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ips_core.config import writing as workflow_config
from ips_core.errors import IPSError
from ips_core.files.copies import copy_files, file_names
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
        """Start the components of another simulation file, as a part of this simulation.

        What its top level does not set is taken from this simulation. It works below
        ``<work directory>/<sub_name>``, and writes its events and messages where this simulation
        does. The caller calls ``init``, ``step`` and ``finalize`` of its driver.

        Parameters
        ----------
        sub_name : str
            Its name, new in this component; its SIM_NAME becomes ``<this simulation>::<sub_name>``.
        config_file : str
            Its simulation file; as it runs, it is written into the work directory.
        override : mapping, optional
            Values that replace those of the file: of a section, as a mapping, or of the top level.
        input_dir : str, optional
            Where its components find their input files, below the work directory. Default: each in
            a directory named after its section, with its INPUT_FILES copied there.

        Returns
        -------
        tuple
            Its SIM_NAME, the component of its INIT port (or None), the one of its DRIVER port.

        Raises
        ------
        ConfigError
            The file is missing or wrong.
        IPSError
            There is a sub-workflow of that name already, or a component could not be constructed.
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
        # by the framework, for which $PWD and relative names are of the launch directory
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
        """Copy the OUTPUT_FILES of sub-workflows' drivers into the work directory.

        Parameters
        ----------
        subflow_name : str
            Which one. Default: all of them.

        Returns
        -------
        dict
            The files that were copied, by sub-workflow.

        Raises
        ------
        KeyError
            There is no such sub-workflow.
        """
        if subflow_name != "ALL" and subflow_name not in self.sub_flows:
            known = ", ".join(self.sub_flows) or "none"
            raise KeyError(f"no sub-workflow {subflow_name}; there are: {known}")
        names = list(self.sub_flows) if subflow_name == "ALL" else [subflow_name]
        return {name: self._drivers[name].copy_outputs() for name in names}

    def create_simulation(self, config_file: str, override: Mapping[str, Any] | None = None) -> str:
        """Start another simulation beside this one; nobody has to call it.

        Parameters
        ----------
        config_file : str
            Its simulation file; as it runs, it is written into the work directory.
        override : mapping, optional
            As for :meth:`create_sub_workflow`.

        Returns
        -------
        str
            Its SIM_NAME.

        Raises
        ------
        ConfigError
            The file is missing or wrong.
        IPSError
            A simulation of that name runs already.
        """
        raw = workflow_config.read_raw(config_file)
        workflow_config.change(raw, override or {})
        workflow_config.absolute_scripts(raw, self._start.launch_directory)
        return self.link.ask("create_simulation", workflow_config.write(raw, os.getcwd()))


@dataclass(frozen=True)
class _Driver:
    """The driver of a sub-workflow: where its outputs are, and which."""

    directory: Path
    outputs: list[str]

    def copy_outputs(self) -> list[str]:
        """Copy its OUTPUT_FILES here, and return which there were."""
        found = sorted({path for name in self.outputs for path in self.directory.glob(name)})
        copy_files(str(self.directory), [path.name for path in found], os.getcwd())
        return [path.name for path in found]
