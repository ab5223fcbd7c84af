"""Save the files from which a simulation can restart, and fetch them in the restarted run."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ips_core.config.checkpoint import CheckpointPlan, Moment, kept_checkpoints, read_plan
from ips_core.config.reading import file_names
from ips_core.config.restart_tree import checkpoints, restart_path
from ips_core.files.checkpoint import CheckpointHistory, checkpoint_name
from ips_core.files.copies import copy_files
from ips_core.files.restart_tree import being_made, remove_checkpoint
from ips_core.ipc.messages import ComponentID
from ips_core.services.calls import CallServices
from ips_core.services.failure import failure_reported
from ips_core.services.time_loop import TimeLoopServices

__all__ = ["RestartServices"]


class RestartServices(CallServices, TimeLoopServices):
    """Checkpoints and restart files."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._checkpoints = CheckpointHistory()

    def checkpoint_components(
        self,
        comp_id_list: Iterable[ComponentID],
        time_stamp: float,
        Force: bool = False,
        Protect: bool = False,
    ) -> dict[int, Any] | None:
        """Call ``checkpoint`` of components if section [CHECKPOINT] says that a checkpoint is due.

        Afterwards all but the newest NUM_CHECKPOINT checkpoints are removed, except protected ones.

        Parameters
        ----------
        comp_id_list : iterable of ComponentID
            Ids of the components, which are called side by side.
        time_stamp : float
            Simulated time.
        Force : bool
            If True, make the checkpoint even if none is due or the section is missing. Default:
            False.
        Protect : bool
            If True, this checkpoint is never removed. Default: False.

        Returns
        -------
        dict or None
            Results by call id, as :meth:`wait_call_list` returns them; None if no checkpoint was
            due.

        Raises
        ------
        KeyError
            The section, or a key that it needs, is missing.
        ValueError
            `time_stamp` is not a number.
        ConfigError
            A value in the section is invalid.
        IPSError
            A component failed. The checkpoint is marked as unfinished, and none was removed.
        OSError
            The directory of a checkpoint cannot be written or removed.
        """
        name = checkpoint_name(time_stamp)
        plan = self._plan(Force)
        started = time.time()
        now = Moment(started - self._start.start_time, float(time_stamp))
        if not Force and not plan.is_due(now, self._last(plan, now.phys)):
            return None
        components = list(comp_id_list)
        comment = f"Components = [{', '.join(map(str, components))}]"
        self.link.emit("IPS_CHECKPOINT_START", comment)
        with failure_reported(self, "checkpoint_components", "IPS_CHECKPOINT_END", comment):
            with being_made(self._root_directory(), name):
                calls = [
                    self.call_nonblocking(each, "checkpoint", time_stamp) for each in components
                ]
                results = self.wait_call_list(calls)
            self._checkpoints.add(name, now, plan, Protect)
            self._remove_obsolete(plan.keep)
        self.link.emit("IPS_CHECKPOINT_END", comment)
        return results

    def save_restart_files(self, timeStamp: float, file_list: str | Iterable[str]) -> None:
        """Copy files from the work directory to the checkpoint of a time, below SIM_ROOT/restart.

        Nothing is copied if NUM_CHECKPOINT is 0.

        Parameters
        ----------
        timeStamp : float
            Simulated time.
        file_list : str or iterable of str
            Names, with wildcards, relative to the work directory. A str is split at whitespace.

        Raises
        ------
        KeyError
            Section [CHECKPOINT], or NUM_CHECKPOINT in it, is missing.
        ConfigError
            NUM_CHECKPOINT is not an integer.
        ValueError
            `timeStamp` is not a number.
        FileNotFoundError
            A name matches no file.
        OSError
            A file cannot be copied; the message has both paths and the reason.
        """
        if kept_checkpoints(self._start.simulation.file, self._section()) == 0:
            return
        files = file_list if isinstance(file_list, str) else list(file_list)
        name = checkpoint_name(timeStamp)
        self._checkpoints.note(name)
        target = restart_path(self._root_directory(), name, self._unnumbered())
        comment = f"Files = {files}"
        with failure_reported(self, "save_restart_files", "IPS_STAGE_RESTART", comment):
            copy_files(self.workdir, file_names(files), target)
        self.link.emit("IPS_SAVE_RESTART", comment)

    def get_restart_files(
        self, restart_root: str, timeStamp: float, file_list: str | Iterable[str]
    ) -> None:
        """Copy files of a checkpoint to the work directory.

        Parameters
        ----------
        restart_root : str
            SIM_ROOT of the simulation that made the checkpoint, usually RESTART_ROOT. A relative
            path is relative to the launch directory.
        timeStamp : float
            Simulated time of the checkpoint, usually RESTART_TIME.
        file_list : str or iterable of str
            Names, with wildcards. A str is split at whitespace.

        Raises
        ------
        ValueError
            `timeStamp` is not a number.
        FileNotFoundError
            A name matches no file.
        OSError
            A file cannot be copied; the message has both paths and the reason.
        """
        files = file_list if isinstance(file_list, str) else list(file_list)
        root = os.path.join(self._start.launch_directory, restart_root)
        source = restart_path(root, checkpoint_name(timeStamp), self._unnumbered())
        comment = f"Files = {files}"
        with failure_reported(self, "get_restart_files", "IPS_GET_RESTART", comment):
            copy_files(source, file_names(files), self.workdir)
        self.link.emit("IPS_GET_RESTART", comment)

    def _section(self) -> Mapping[str, Any]:
        if "CHECKPOINT" not in self.sim_conf:
            raise KeyError("section [CHECKPOINT] is missing")
        section: Mapping[str, Any] = self.sim_conf["CHECKPOINT"]
        return section

    def _plan(self, force: bool) -> CheckpointPlan:
        if force and "CHECKPOINT" not in self.sim_conf:
            return CheckpointPlan()
        return read_plan(self._start.simulation.file, self._section())

    def _last(self, plan: CheckpointPlan, time_stamp: float) -> Moment:
        """Return the moment from which the next checkpoint counts: the last one, else the start."""
        if self._checkpoints.last is None:
            # Counting from the start makes the first regular checkpoint due one interval later.
            self._checkpoints.last = Moment(0.0, self._first_time(plan, time_stamp))
        return self._checkpoints.last

    def _first_time(self, plan: CheckpointPlan, time_stamp: float) -> float:
        """Return the simulated time after which a checkpoint can be due, -inf for any time."""
        if self.sim_conf.get("SIMULATION_MODE") == "RESTART":
            with contextlib.suppress(KeyError, ValueError):
                return float(self.sim_conf["RESTART_TIME"])
        if plan.mode != "PHYSTIME_REGULAR":
            return -math.inf
        return self.get_time_loop()[0] if "TIME_LOOP" in self.sim_conf else time_stamp

    def _remove_obsolete(self, keep: int) -> None:
        root = self._root_directory()
        if keep > 0:
            for name in self._checkpoints.obsolete(checkpoints(root), keep):
                remove_checkpoint(root, name)

    def _root_directory(self) -> str:
        return self._start.simulation.root

    def _unnumbered(self) -> str:
        """Return the component's name without its number, which may differ in the next run."""
        component = self._start.simulation.components[self._start.section]
        return f"{component.class_}_{component.sub_class}_{component.name}"
