"""Answer requests about simulations: new ones, sub-workflows, and values for other components."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ips_core.config import PlatformConfig, SimulationConfig, read_simulation, shared_values
from ips_core.errors import ConfigError, IPSError, describe
from ips_core.files import staging
from ips_core.framework.router import Router, Service
from ips_core.framework.simulation import Simulation
from ips_core.ipc.calls import Call
from ips_core.ipc.messages import ComponentID, Failure, Reply, Request, Terminate

__all__ = ["SimulationService"]


class SimulationService:
    """The services about simulations, and the list of all simulations.

    `start` starts the components of a simulation and returns the calls of their constructors.
    `begin` creates the directories of a simulation and starts it beside the running ones.
    """

    def __init__(
        self,
        router: Router,
        platform: PlatformConfig,
        start: Callable[[Simulation], list[Call]],
        begin: Callable[[SimulationConfig], None],
    ) -> None:
        self._router = router
        self._platform = platform
        self._start = start
        self._begin = begin
        self._simulations: dict[str, Simulation] = {}
        self.services: dict[str, Service] = {
            "read_simulation": self._read_simulation,
            "create_sub_workflow": self._create_sub_workflow,
            "create_simulation": self._create_simulation,
            "set_config_param": self._set_config_param,
            "get_config_param": self._get_config_param,
        }

    def add(self, simulation: Simulation) -> None:
        """Add a simulation to the list."""
        self._simulations[simulation.name] = simulation

    def simulation_of(self, component_id: ComponentID) -> Simulation:
        """Return the simulation that a component belongs to."""
        return self._simulations[component_id.simulation]

    def _read_simulation(self, sender: Any, request: Request) -> None:
        """``read_simulation(file)``: reply with the simulation file as it would run."""
        (file,) = request.arguments
        sender.send(Reply(request.request_id, read_simulation(file, self._platform)))

    # -- new ones ----------------------------------------------------------------------------

    def _create_sub_workflow(self, sender: Any, request: Request) -> None:
        """``create_sub_workflow(file)``: reply with the ports after all constructors have ended.

        A sub-workflow writes to its parent's log and LOG_FILE, and ends with its parent.
        """
        (file,) = request.arguments
        if self._simulations[sender.component_id.root].ending:  # too late to shut it down
            raise IPSError("the simulation is ending")
        config = self._read(file)
        parent = self.simulation_of(sender.component_id)
        staging.make_tree(config, [])
        config = replace(config, log_file=parent.config.log_file)
        simulation = replace(parent, config=config, ports={}, settings={})
        self.add(simulation)
        before = len(simulation.members)
        try:
            calls = self._start(simulation)
        except Exception as error:
            self._release(simulation, simulation.members[before:], describe(error))
            raise
        for call in calls:
            self._router.calls.when_ended(
                call, lambda _: self._constructed(simulation, calls, sender, request)
            )

    def _constructed(
        self, simulation: Simulation, calls: list[Call], sender: Any, request: Request
    ) -> None:
        if any(call.outcome is None for call in calls):
            return
        errors = [error for error in map(self._router.error_of, calls) if error is not None]
        failure = Failure(str(errors[0])) if errors else None
        if failure is not None:
            self._release(simulation, [call.target for call in calls], failure.text)
        sender.send(Reply(request.request_id, simulation.ports, failure))

    def _release(self, part: Simulation, members: list[ComponentID], reason: str) -> None:
        """End the components of a sub-workflow that could not begin, and free its name."""
        part.failure = reason
        for handle in self._router.handles(members):
            handle.send(Terminate(ok=False))

    def _create_simulation(self, sender: Any, request: Request) -> None:
        """``create_simulation(file)``: begin a simulation beside others; reply with its name."""
        (file,) = request.arguments
        config = self._read(file)
        others = [each.config for each in self._simulations.values() if not each.is_part]
        if shared := shared_values([*others, config]):
            raise ConfigError("", shared)
        self._begin(config)
        sender.send(Reply(request.request_id, config.name))

    def _read(self, file: str) -> SimulationConfig:
        config = read_simulation(file, self._platform)
        there = self._simulations.get(config.name)
        if there is not None and not (there.is_part and there.failure):
            raise IPSError(f"{file}: there is a simulation {config.name} already")
        return config

    # -- values ------------------------------------------------------------------------------

    def _set_config_param(self, sender: Any, request: Request) -> None:
        """``set_config_param(name, value, simulation)``: keep a packed value."""
        name, value, target = request.arguments
        if target is not None and target not in self._simulations:
            known = ", ".join(self._simulations)
            raise IPSError(f"there is no simulation {target}; there are: {known}")
        simulation = self._simulations[target or sender.component_id.simulation]
        simulation.settings[name] = value
        sender.send(Reply(request.request_id))

    def _get_config_param(self, sender: Any, request: Request) -> None:
        """``get_config_param(name)``: reply with the packed value, or None if none was set."""
        (name,) = request.arguments
        component_id = sender.component_id
        # A sub-workflow also sees the values of its root simulation.
        places = (self._simulations[each] for each in (component_id.simulation, component_id.root))
        found = next((each.settings[name] for each in places if name in each.settings), None)
        sender.send(Reply(request.request_id, found))
