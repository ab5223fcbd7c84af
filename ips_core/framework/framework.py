"""Read the files of a run, lead its simulations and answer their components.

One thread and one loop serve all simulations. The framework never imports distributed and never
blocks on a component.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ips_core.config import (
    ComponentConfig,
    SimulationConfig,
    overridden,
    read_platform,
    read_simulations,
)
from ips_core.errors import ComponentError, ConfigError, IPSError, describe
from ips_core.files import staging
from ips_core.framework.interruption import Interruptions
from ips_core.framework.lifecycle import Lifecycle
from ips_core.framework.machine import find_resources
from ips_core.framework.router import Router
from ips_core.framework.simulation import Simulation, run_id_of
from ips_core.framework.simulation_service import SimulationService
from ips_core.ipc.calls import Call
from ips_core.ipc.messages import Broadcast, ComponentID, Start, Terminate, pack
from ips_core.log.selection import log_sinks
from ips_core.log.simulation_log import SimulationLog
from ips_core.resources.service import KeeperControl, ResourceService, idle_seconds
from ips_core.version import ips_core_version

__all__ = ["Framework"]

_KEEPER = "ips_core.pools.dask.keeper:ClusterKeeper"


class Framework:
    """Runs one or several simulations side by side.

    Parameters
    ----------
    config_file_list : sequence of str, or str
        Paths of the simulation files; a single path may be a str.
    log_file_name : str or None
        File for the framework's own messages. Default, and "sys.stdout": standard output.
    platform_file_name : str or None
        Path of the platform file. Default: the Slurm job or, outside of one, this machine.
    debug, verbose_debug : bool
        Accepted for compatibility with IPS-framework and ignored; LOG_LEVEL of the simulation file
        sets what is logged.
    cmd_nodes, cmd_ppn : int
        Number of nodes, and of cores on each, to use. Default: 0, all that the platform file or the
        Slurm job gives.
    resume : bool
        True: pools skip the tasks that the run before has finished. Default: False.

    Raises
    ------
    ConfigError
        A file is missing or invalid, or the Slurm job does not have what the run needs; the message
        names file, section and key.

    Examples
    --------
    >>> from ips_core import Framework
    >>> Framework(["dask_sim.config"]).run()  # doctest: +SKIP
    True
    """

    def __init__(
        self,
        config_file_list: Sequence[str] | str,
        log_file_name: str | None = None,
        platform_file_name: str | None = None,
        debug: bool = False,
        verbose_debug: bool = False,
        cmd_nodes: int = 0,
        cmd_ppn: int = 0,
        resume: bool = False,
    ) -> None:
        self.started = time.time()
        platform = read_platform(platform_file_name)
        self.configs = read_simulations(config_file_list, platform)
        self.platform = overridden(platform, self.configs)
        self.resources = find_resources(self.platform, cmd_nodes, cmd_ppn)
        #: All simulations that have begun, in that order, without sub-workflows.
        self.simulations: list[Simulation] = []
        self._output = None if log_file_name == "sys.stdout" else log_file_name
        self._resume = resume
        self._launch_directory = os.getcwd()
        self._numbers = itertools.count(1)
        self._lives: list[Lifecycle] = []
        self._held = contextlib.ExitStack()
        self._interruptions = Interruptions()
        self._router = Router(self)
        control = KeeperControl(
            self._start_keeper, self._invoke_keeper, self._dismiss_keeper, self._router.broadcast
        )
        idle = min(idle_seconds(config.file, config.values) for config in self.configs)
        self._lending = ResourceService(self.resources, idle, self._router.calls, control)
        self._workflows = SimulationService(
            self._router, self.platform, self._start, self._begin_another
        )
        self._router.services |= self._lending.services | self._workflows.services

    def run(self) -> bool:
        """Run the simulations until all have ended; a Framework runs once.

        Returns
        -------
        bool
            True if all simulations succeeded. Otherwise :attr:`failure` has the reasons, and the
            log files have the tracebacks.

        Raises
        ------
        ConfigError
            A file or directory of a simulation cannot be written.
        IPSError
            This Framework has run before.
        """
        if self.simulations:
            raise IPSError("this Framework has run before: make a new one for another run")
        self._say(f"Starting IPS {ips_core_version()}")
        with self._held, self._interruptions:
            for config in self.configs:  # before any component starts
                self._prepare(config)
            try:
                for config in self.configs:
                    self._begin(config)
                self._loop()
            except BaseException as error:
                self._interruptions.reason = describe(error)
                raise
            finally:
                self._loop()
                # After all simulations have ended, so that the waits for their portals overlap.
                for simulation in self.simulations:
                    simulation.log.close()
        return not self.failure

    def terminate_all_sims(self, status: int = 0) -> None:
        """End all simulations in order, from any thread; do nothing outside of :meth:`run`.

        Parameters
        ----------
        status : int
            Accepted for compatibility with IPS-framework and ignored. Default: 0.
        """
        self._interruptions.request("terminated")

    @property
    def failure(self) -> str:
        """Reasons of failed simulations, one line each; empty if none failed."""
        failed = [each for each in self.simulations if each.failure]
        if len(self.simulations) == 1:
            return self.simulations[0].failure
        return "\n".join(f"{each.name}: {each.failure}" for each in failed)

    def _say(self, text: str) -> None:
        if self._output is None:
            print(text + "\n", end="", flush=True)  # one write: a portal's thread prints, too
        else:
            with open(self._output, "a", encoding="utf-8") as file:
                file.write(text + "\n")

    # -- the loop ----------------------------------------------------------------------------

    def _loop(self) -> None:
        """Serve components until no simulation is left."""
        while self._lives:
            for life in list(self._lives):
                if self._interruptions.reason:
                    life.interrupt(self._interruptions.reason)
                if not life.advance():
                    self._lives.remove(life)
            if self._lives:
                self._serve()

    def _serve(self) -> None:
        deadline = min(life.deadline for life in self._lives)
        limits = [] if deadline == math.inf else [max(0.0, deadline - time.monotonic())]
        limits += [seconds for seconds in [self._lending.timeout()] if seconds is not None]
        if self._router.serve(self._interruptions, min(limits, default=None)):
            self._interruptions.drain()
        self._lending.tick()

    # -- the Listener of the router ----------------------------------------------------------

    def hear_events(self, sender: ComponentID, events: Iterable[dict[str, Any]]) -> None:
        """Write a component's events to the log of its simulation."""
        self._workflows.simulation_of(sender).write(events)

    def hear_news(self, sender: ComponentID, news: Broadcast) -> None:
        """Pass a broadcast on to the resource service."""
        self._lending.hear(sender, news)

    def hear_end(self, component_id: ComponentID, reason: str) -> None:
        """Release what a component held."""
        self._lending.gone(component_id, reason)

    # -- simulations and their processes -----------------------------------------------------

    def _prepare(self, config: SimulationConfig) -> None:
        """Create the directories of a simulation, and lock its LOG_FILE until the run ends."""
        staging.make_tree(config, [config.file, self.platform.file])
        self._held.enter_context(staging.make_log_file(config))

    def _begin_another(self, config: SimulationConfig) -> None:
        """Prepare and begin a simulation that a component has created."""
        self._prepare(config)
        self._begin(config)

    def _begin(self, config: SimulationConfig) -> None:
        """Begin a simulation beside the running ones."""
        run_id = run_id_of(config, self.platform, self.started)
        folder = Path(config.root) / "simulation_log"
        try:
            sinks = log_sinks(config, folder, run_id, self._say, self.platform.values)
            log = SimulationLog(folder, run_id, config.name, sinks)
        except OSError as error:
            raise ConfigError(config.file, [f"cannot write the simulation log: {error}"]) from None
        simulation = Simulation(config, run_id, log, self.started)
        parent = config.values.get("PARENT_PORTAL_RUNID") or None
        if self.simulations:
            parent = self.simulations[0].run_id
        simulation.begin(self.platform, self.resources, parent)
        self.simulations.append(simulation)
        self._workflows.add(simulation)
        life = Lifecycle(
            simulation,
            self._router,
            lambda: self._start(simulation),
            lambda: self._lending.end(simulation.name),
            lambda: simulation.end(self.resources),
        )
        self._lives.append(life)

    def _start(self, simulation: Simulation) -> list[Call]:
        """Start all components of a simulation and return the calls of their constructors."""
        config = simulation.config
        simulation.ports.update(
            (port, ComponentID(config.name, config.components[section].name, next(self._numbers)))
            for port, section in config.ports.items()
        )
        calls = []
        for port, section in config.ports.items():  # two ports may share a section
            component, component_id = config.components[section], simulation.ports[port]
            number = component_id.number
            directory = staging.work_directory(config, component, number)
            try:
                directory.mkdir(parents=True, exist_ok=True)
                self._stage_inputs(simulation, component, directory)
            except OSError as error:
                raise ComponentError(component.full_id(number), "staging", str(error)) from None
            calls.append(self._start_process(simulation, section, component_id, directory))
            simulation.members.append(component_id)
        return calls

    def _stage_inputs(
        self, simulation: Simulation, component: ComponentConfig, directory: Path
    ) -> None:
        """Copy a component's INPUT_FILES to its work directory, and report a missing one.

        A missing file is not an error yet: the component may set another INPUT_DIR before it stages
        its inputs, and the owner of a sub-workflow may provide the sub-workflow's inputs later.
        """
        try:
            staging.stage_inputs(component, directory, missing_ok=simulation.is_part)
        except FileNotFoundError as error:
            staging.stage_inputs(component, directory, missing_ok=True)
            self._say(f"{simulation.name}: {error}")

    def _start_process(
        self, simulation: Simulation, section: str, component_id: ComponentID, directory: Path
    ) -> Call:
        """Start a component's process and return the call of its constructor."""
        config = simulation.config
        component = config.components.get(section)
        name = component.full_id(component_id.number) if component else component_id.class_name
        start = Start(
            call_id=0,
            component_id=component_id,
            name=name,
            section=section,
            simulation=config,
            platform=self.platform.values,
            resources=self.resources,
            ports=simulation.ports,
            launch_directory=self._launch_directory,
            work_directory=str(directory),
            run_id=simulation.run_id,
            start_time=self.started,
            resume=self._resume,
            interactive="ipykernel" in sys.modules,
        )
        return self._router.start(start)

    # -- the keepers of Dask clusters --------------------------------------------------------

    def _start_keeper(self, simulation: str) -> ComponentID:
        keeper = ComponentID(simulation, "ClusterKeeper", next(self._numbers))
        owner = self._workflows.simulation_of(keeper)
        self._start_process(owner, _KEEPER, keeper, Path(owner.config.root))
        return keeper

    def _invoke_keeper(self, keeper: ComponentID, method: str, *arguments: Any) -> Call:
        return self._router.invoke(keeper, method, pack((arguments, {})), method)

    def _dismiss_keeper(self, keeper: ComponentID, kill: bool) -> None:
        (handle,) = self._router.handles([keeper])
        if kill:
            handle.signal(signal.SIGKILL)
        else:
            handle.send(Terminate(ok=True))
