"""Copy input, output and state files."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ips_core.config import SimulationConfig
from ips_core.config.reading import file_names
from ips_core.files.copies import copy_files
from ips_core.files.results_tree import ResultsTree
from ips_core.files.staging import stage_sub_flow_inputs
from ips_core.files.state_files import merge_state, state_lock
from ips_core.log.events import span_id, trace
from ips_core.services.configuration import ConfigurationServices
from ips_core.services.failure import failure_reported

__all__ = ["StagingServices"]


class StagingServices(ConfigurationServices):
    """Input, output and state files."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.sub_flows: dict[str, SimulationConfig] = {}

    def stage_input_files(self, input_file_list: str | Iterable[str]) -> None:
        """Copy input files from INPUT_DIR to the work directory.

        A second copy of each file, with OUTPUT_PREFIX before its name, goes to
        ``SIM_ROOT/simulation_setup/<component>``. The INPUT_FILES of each component of a
        sub-workflow are copied to a directory below the work directory that has the name of the
        component's section.

        Parameters
        ----------
        input_file_list : str or iterable of str
            Names, with wildcards, relative to INPUT_DIR as the component's ``config`` has it now. A
            str is split at whitespace.

        Raises
        ------
        FileNotFoundError
            A name matches no file.
        OSError
            A file cannot be copied; the message has both paths and the reason.
        """
        begin = time.time()
        files = input_file_list if isinstance(input_file_list, str) else list(input_file_list)
        names = file_names(files)
        source = self._directory(self._own_values()["INPUT_DIR"])
        setup = os.path.join(self._root(), "simulation_setup", self.full_comp_id)
        comment = f"Files = {files}"
        with failure_reported(self, "stage_input_files", "IPS_STAGE_INPUTS", comment):
            copy_files(source, names, self.workdir)
            copy_files(source, names, setup, self._prefix())
            for flow in self.sub_flows.values():
                stage_sub_flow_inputs(flow, self.workdir, self._start.launch_directory)
        comment = f"Path = {os.path.abspath(source)} {comment}"
        self._log_copying("IPS_STAGE_INPUTS", "stage_input_files", comment, begin, files)

    def stage_output_files(
        self,
        timeStamp: float,
        file_list: str | Iterable[str],
        keep_old_files: bool = True,
        save_plasma_state: bool = True,
    ) -> None:
        """Copy output files, and the state files, from the work directory to the results.

        Parameters
        ----------
        timeStamp : float
            Time stamp of the copies, which go to
            ``SIM_ROOT/simulation_results/<timeStamp>/components/<component>`` with OUTPUT_PREFIX
            before their names. ``SIM_ROOT/simulation_results/<component>`` has links to the copies,
            with the time stamp in their names.
        file_list : str or iterable of str
            Names, with wildcards, relative to the work directory. A str is split at whitespace. A
            name that matches no file is skipped.
        keep_old_files : bool
            If True, existing copies stay and new ones get the suffix ``.0``, ``.1`` and so on. If
            False, new copies replace them. Default: True.
        save_plasma_state : bool
            If True, STATE_FILES are copied to ``SIM_ROOT/simulation_results/plasma_state``, too.
            Default: True.

        Raises
        ------
        KeyError
            `save_plasma_state` is True and STATE_FILES is set neither for the component nor for the
            simulation, not even to an empty value. The output files were copied.
        OSError
            A file cannot be copied; the message has both paths and the reason.
        """
        begin = time.time()
        files = file_list if isinstance(file_list, str) else list(file_list)
        names = file_names(files)
        tree = ResultsTree(self._root(), self.full_comp_id, str(timeStamp), self._prefix())
        comment = f"Files = {files}"
        with failure_reported(self, "stage_output_files", "IPS_STAGE_OUTPUTS", comment):
            tree.keep_outputs(self.workdir, names, bool(keep_old_files))
            if save_plasma_state:
                tree.keep_state(self.workdir, self._state_files(None))
        comment = f"Path = {tree.outputs} {comment}"
        self._log_copying("IPS_STAGE_OUTPUTS", "stage_output_files", comment, begin, files)

    def stage_state(self, state_files: str | Iterable[str] | None = None) -> None:
        """Copy state files from STATE_WORK_DIR to the work directory.

        Parameters
        ----------
        state_files : str or iterable of str, optional
            Names, with wildcards, relative to STATE_WORK_DIR. A str is split at whitespace.
            Default: STATE_FILES of the component, else of the simulation.

        Raises
        ------
        KeyError
            STATE_WORK_DIR is not set, or STATE_FILES is needed and not set.
        FileNotFoundError
            A name matches no file.
        OSError
            A file cannot be copied; the message has both paths and the reason.
        """
        begin = time.time()
        names = self._state_files(state_files)
        shared = self._state_directory()
        with (
            failure_reported(self, "stage_state", "IPS_STAGE_STATE"),
            state_lock(shared, exclusive=False),
        ):
            copy_files(shared, names, self.workdir)
        comment = f" files = {' '.join(names)} Success"
        self._log_copying("IPS_STAGE_STATE", "stage_state", comment, begin, names)

    def update_state(self, state_files: str | Iterable[str] | None = None) -> None:
        """Copy state files from the work directory to STATE_WORK_DIR.

        An update is atomic for other components: :meth:`stage_state` copies all files from before
        the update, or all from after it.

        Parameters
        ----------
        state_files : str or iterable of str, optional
            Names, with wildcards, relative to the work directory. A str is split at whitespace.
            Default: STATE_FILES of the component, else of the simulation.

        Raises
        ------
        KeyError
            STATE_WORK_DIR is not set, or STATE_FILES is needed and not set.
        FileNotFoundError
            A name matches no file.
        OSError
            A file cannot be copied; the message has both paths and the reason.
        """
        begin = time.time()
        names = self._state_files(state_files)
        shared = self._state_directory()
        with (
            failure_reported(self, "update_state", "IPS_UPDATE_STATE"),
            state_lock(shared, exclusive=True),
        ):
            copy_files(self.workdir, names, shared)
        comment = f"  files = {' '.join(names)} Success"
        self._log_copying("IPS_UPDATE_STATE", "update_state", comment, begin, names)

    def merge_current_state(
        self,
        partial_state_file: str,
        logfile: str | None = None,
        merge_binary: str | None = None,
    ) -> None:
        """Merge a partial state file into CURRENT_STATE in STATE_WORK_DIR.

        The merged state is copied to the work directory, too.

        Parameters
        ----------
        partial_state_file : str
            Path of the partial state, relative to the work directory.
        logfile : str, optional
            File for the output of the program, relative to the work directory. Default: the output
            of the component.
        merge_binary : str, optional
            Program that merges, looked up on PATH. It runs as
            ``merge_binary -input STATE -updates PARTIAL`` and changes STATE. Default:
            ``update_state``.

        Raises
        ------
        KeyError
            STATE_WORK_DIR or CURRENT_STATE is not set.
        FileNotFoundError
            The program or a state file does not exist.
        IPSError
            The program failed or ran for more than an hour. The shared state is unchanged.
        OSError
            A file cannot be copied; the message has both paths and the reason.
        """
        current = os.path.join(self._state_directory(), self.get_config_param("CURRENT_STATE"))
        partial = os.path.join(self.workdir, partial_state_file)
        name = merge_binary or "update_state"
        with failure_reported(self, "merge_current_state", "IPS_MERGE_PLASMA_STATE"):
            binary = shutil.which(name)
            if binary is None:
                raise FileNotFoundError(f"Missing executable file {name} in PATH")
            merge_state(os.path.abspath(binary), current, partial, self.workdir, logfile)
        self.link.emit("IPS_MERGE_PLASMA_STATE", "Success")

    def _own_values(self) -> Mapping[str, Any]:
        """Return the component's section, with the changes that the component has made to it."""
        if self.component_ref is None:  # The component is being constructed.
            return self._start.simulation.components[self._start.section].values
        values: Mapping[str, Any] = self.component_ref.config
        return values

    def _root(self) -> str:
        return self._start.simulation.root

    def _prefix(self) -> str:
        return str(self.sim_conf.get("OUTPUT_PREFIX", ""))

    def _state_files(self, names: str | Iterable[str] | None) -> list[str]:
        own = self._own_values()
        if names:
            return file_names(names)
        if "STATE_FILES" in own:
            return file_names(own["STATE_FILES"])
        try:
            return file_names(self.get_config_param("STATE_FILES", silent=True))
        except KeyError:
            missing = f"STATE_FILES is set neither in [{self._start.section}] nor at the top of "
            message = missing + "the simulation file; STATE_FILES = (empty) if there are none"
            raise KeyError(message) from None

    def _state_directory(self) -> str:
        return self._directory(self.get_config_param("STATE_WORK_DIR"))

    def _directory(self, name: str) -> str:
        """Return a path below the work directory if it exists, else below the launch directory."""
        here = os.path.join(self.workdir, name)
        return here if os.path.isdir(here) else os.path.join(self._start.launch_directory, name)

    def _log_copying(
        self, eventtype: str, method: str, comment: str, begin: float, files: str | list[str]
    ) -> None:
        end = time.time()
        operation = str(files)
        self.link.emit(
            eventtype,
            f"Elapsed time = {end - begin:.3f} {comment}",
            at=end,
            trace=trace(
                method,
                operation,
                # With the begin time, since IPS-framework's ids repeat for the same files.
                span=span_id(f"{self.component_id}:{method}", operation, begin),
                begin=begin,
                end=end,
                parent=self.span,
            ),
        )
