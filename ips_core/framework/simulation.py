"""Keep the framework's state of one simulation, and write its events."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ips_core.config import PlatformConfig, SimulationConfig
from ips_core.ipc.messages import ComponentID
from ips_core.log.events import framework_event, root_target, simulation_fields, span_id, trace
from ips_core.log.simulation_log import SimulationLog
from ips_core.resources.nodes import Resources
from ips_core.version import ips_core_version

__all__ = ["Simulation", "run_id_of"]


def run_id_of(config: SimulationConfig, platform: PlatformConfig, started: float) -> str:
    """Return the portal run id of a simulation: its name, host, user and start.

    Files are named after it, so it has no slash and can always be encoded.
    """
    stamp = datetime.fromtimestamp(started).isoformat(timespec="milliseconds")
    text = f"{config.name}_{_host(config, platform)}_{_user(config)}_{stamp}"
    return text.replace("/", "_").encode(errors="backslashreplace").decode()


def _user(config: SimulationConfig) -> str:
    return config.values.get("USER") or config.environment.get("USER") or "user"


def _host(config: SimulationConfig, platform: PlatformConfig) -> str:
    return config.values.get("HOST") or platform.values.get("HOST") or os.uname().nodename


@dataclass(eq=False)
class Simulation:
    """The framework's state of a simulation or sub-workflow."""

    config: SimulationConfig
    #: Portal run id; a sub-workflow shares run id, log and members with its parent.
    run_id: str
    log: SimulationLog
    #: Start of the framework, in seconds since the epoch.
    started: float
    #: Components by port.
    ports: dict[str, ComponentID] = field(default_factory=dict)
    #: All components, also those of sub-workflows.
    members: list[ComponentID] = field(default_factory=list)
    #: Packed values that components have set with ``set_config_param``.
    settings: dict[str, bytes] = field(default_factory=dict)
    #: Reason of a failure, in one sentence; empty if there was none.
    failure: str = ""
    #: Whether the simulation is shutting down, so that nothing new may begin in it.
    ending: bool = False

    @property
    def name(self) -> str:
        """SIM_NAME."""
        return self.config.name

    @property
    def is_part(self) -> bool:
        """Whether this is a sub-workflow."""
        return "::" in self.name

    @property
    def root_span(self) -> str:
        """Target of the outermost span of the simulation's trace."""
        return root_target(self.name)

    def write(self, events: Iterable[dict[str, Any]]) -> None:
        """Write events of the simulation's components to the log."""
        self.log.write_all(events, self.name)

    def tell(self, eventtype: str, comment: str, at: float | None = None, **fields: Any) -> None:
        """Write an event of the framework to the log; `at` is in seconds since the epoch."""
        moment = time.time() if at is None else at
        self.write([framework_event(eventtype, comment, at=moment, started=self.started, **fields)])

    def begin(self, platform: PlatformConfig, resources: Resources, parent: str | None) -> None:
        """Write the events of the simulation's start.

        `parent` is the portal run id of the simulation that this one belongs to on the portal.
        """
        self.tell(
            "IPS_START",
            "Starting IPS Simulation",
            at=self.started,
            state="Running",
            host=_host(self.config, platform),
            simname=self.name,
            user=_user(self.config),
            startat=datetime.fromtimestamp(self.started).isoformat(timespec="milliseconds"),
            ips_version=ips_core_version(),
            parent_portal_runid=parent,
            **simulation_fields(self.config.values),
        )
        comment = f"Nodes = {resources.nodes}   PPN = {resources.cores_per_node}"
        self.tell("IPS_RESOURCE_ALLOC", comment)

    def end(self, resources: Resources) -> None:
        """Write the event of the simulation's end, with its outcome, and end the log."""
        now = time.time()
        ended = trace(
            self.root_span,
            "run",
            span=span_id(self.root_span),
            begin=self.started,
            end=now,
            total_cores=resources.nodes * resources.cores_per_node,
        )
        self.tell(
            "IPS_END",
            "Simulation Execution Error" if self.failure else "Simulation Ended",
            at=now,
            ok=not self.failure,
            state="Completed",
            stopat=datetime.fromtimestamp(now).isoformat(timespec="milliseconds"),
            trace=ended,
            **({"error": self.failure} if self.failure else {}),
        )
        self.log.end()
