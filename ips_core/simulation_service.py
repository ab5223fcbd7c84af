"""Answers what components ask about simulations: new ones, sub-workflows, values for others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ips_core import staging
from ips_core.calls import Call
from ips_core.config import PlatformConfig, SimulationConfig, read_simulation
from ips_core.errors import IPSError
from ips_core.messages import ComponentID, Failure, Reply, Request, Returned
from ips_core.router import Router, Service
from ips_core.simulation import Simulation

__all__ = ["SimulationService"]


class SimulationService:
    """The services about simulations, and the list of those that there are.

    Parameters
    ----------
    router : Router
        Of the components.
    platform : PlatformConfig
        Where all of them run.
    start : callable
        ``start(simulation)`` starts the components of a simulation, and returns the calls of their
        constructors.
    begin : callable
        ``begin(config)`` lets a simulation begin beside those that run.
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
            "create_sub_workflow": self._create_sub_workflow,
            "create_simulation": self._create_simulation,
            "set_config_param": self._set_config_param,
            "get_config_param": self._get_config_param,
        }

    def add(self, simulation: Simulation) -> None:
        """Take note of a simulation."""
        self._simulations[simulation.name] = simulation

    def simulation_of(self, component_id: ComponentID) -> Simulation:
        """Return the simulation that a component belongs to."""
        return self._simulations[component_id.simulation]

    # -- new ones ----------------------------------------------------------------------------

    def _create_sub_workflow(self, sender: Any, request: Request) -> None:
        """``create_sub_workflow(file)``: its ports; parked until its components are constructed.

        It writes into its parent's log and LOG_FILE, and ends with it.
        """
        (file,) = request.arguments
        config = self._read(file)
        parent = self.simulation_of(sender.component_id)
        staging.make_tree(config, [])
        config = replace(config, log_file=parent.config.log_file)
        simulation = replace(parent, config=config, ports={}, settings={})
        self.add(simulation)
        _Construction(self._router, self._start(simulation), sender, request, simulation.ports)

    def _create_simulation(self, sender: Any, request: Request) -> None:
        """``create_simulation(file)``: its name; it lives beside the others."""
        (file,) = request.arguments
        config = self._read(file)
        staging.make_tree(config, [file])
        staging.make_log_file(config)
        self._begin(config)
        sender.send(Reply(request.request_id, config.name))

    def _read(self, file: str) -> SimulationConfig:
        config = read_simulation(file, self._platform)
        if config.name in self._simulations:
            raise IPSError(f"{file}: there is a simulation {config.name} already")
        return config

    # -- values ------------------------------------------------------------------------------

    def _set_config_param(self, sender: Any, request: Request) -> None:
        """``set_config_param(name, value, simulation)``; the value is packed."""
        name, value, target = request.arguments
        if target is not None and target not in self._simulations:
            known = ", ".join(self._simulations)
            raise IPSError(f"there is no simulation {target}; there are: {known}")
        simulation = self._simulations[target or sender.component_id.simulation]
        simulation.settings[name] = value
        sender.send(Reply(request.request_id))

    def _get_config_param(self, sender: Any, request: Request) -> None:
        """``get_config_param(name)``: what a component has set, packed; None: nothing."""
        (name,) = request.arguments
        component_id = sender.component_id
        # a sub-workflow also knows what is set for the simulation that it is part of
        places = (self._simulations[each] for each in (component_id.simulation, component_id.root))
        found = next((each.settings[name] for each in places if name in each.settings), None)
        sender.send(Reply(request.request_id, found))


@dataclass
class _Construction:
    """Answers a request when all components of a sub-workflow are constructed."""

    router: Router
    calls: list[Call]
    sender: Any
    request: Request
    ports: dict[str, ComponentID]

    def __post_init__(self) -> None:
        for call in self.calls:
            self.router.calls.when_ended(call, self._ended)

    def _ended(self, outcome: Returned) -> None:
        if any(call.outcome is None for call in self.calls):
            return
        errors = [error for error in map(self.router.error_of, self.calls) if error is not None]
        failure = Failure(str(errors[0])) if errors else None
        self.sender.send(Reply(self.request.request_id, self.ports, failure))
