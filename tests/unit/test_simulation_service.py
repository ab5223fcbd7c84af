"""What components get that ask for simulations of their own; processes are fakes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ips_core.config import PlatformConfig, SimulationConfig, read_simulation
from ips_core.errors import ComponentError, ConfigError, IPSError
from ips_core.framework.simulation import Simulation, run_id_of
from ips_core.framework.simulation_service import SimulationService
from ips_core.ipc.calls import Call, CallTable
from ips_core.ipc.messages import ComponentID, Failure, Reply, Request, Returned, Terminate

DRIVER = ComponentID("sim", "Driver", 1)
_FILE = """\
SIM_NAME = {name}
SIM_ROOT = {folder}
LOG_FILE = {folder}/sim.log
[PORTS]
   NAMES = DRIVER
   [[DRIVER]]
      IMPLEMENTATION = Driver
[Driver]
   CLASS = DRIVER
   NAME = Driver
   MODULE = driver
"""


class World:
    """A framework with one simulation, whose driver asks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = CallTable()
        self.sent: list[tuple[ComponentID, object]] = []
        self.received: list[Any] = []
        self.begun: list[str] = []
        log: Any = None
        self.simulation = Simulation(self.read("sim", "sim"), "run", log, 0.0)
        self.service = SimulationService(
            self,  # type: ignore[arg-type]
            PlatformConfig(),
            self.start,
            lambda config: self.begun.append(config.name),
        )
        self.service.add(self.simulation)

    def file(self, name: str, root: str) -> str:
        path = self.folder / f"{name.replace(':', '_')}.config"
        path.write_text(_FILE.format(name=name, folder=self.folder / root))
        return str(path)

    def read(self, name: str, root: str) -> SimulationConfig:
        return read_simulation(self.file(name, root), PlatformConfig())

    def start(self, simulation: Simulation) -> list[Call]:
        made = [ComponentID(simulation.name, "Driver", 2), ComponentID(simulation.name, "W", 3)]
        simulation.members.extend(made)
        return [self.calls.open(each, "constructor") for each in made]

    def handles(self, ids: list[ComponentID]) -> list[Any]:
        return [
            SimpleNamespace(send=lambda message, to=each: self.sent.append((to, message)))
            for each in ids
        ]

    def error_of(self, call: Call) -> ComponentError | None:
        failure = call.outcome.failure if call.outcome else None
        return ComponentError("W", call.method, failure.text) if failure else None

    def ask(self, service: str, *arguments: Any) -> None:
        asker = SimpleNamespace(component_id=DRIVER, send=self.received.append)
        self.service.services[service](asker, Request(1, service, arguments))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_sub_workflow_that_cannot_begin_is_ended_and_may_be_tried_again(world: World) -> None:
    file = world.file("sim::x", "x")
    world.ask("create_sub_workflow", file)
    world.calls.end(Returned(1))
    assert world.received == []
    world.calls.end(Returned(2, failure=Failure("no such class")))
    (reply,) = world.received
    assert reply.failure.text == "component W failed in constructor: no such class"
    assert world.sent == [(each, Terminate(ok=False)) for each in world.simulation.members]
    world.ask("create_sub_workflow", file)
    world.calls.end(Returned(3))
    world.calls.end(Returned(4))
    assert world.received[1:] == [Reply(1, {})]
    with pytest.raises(IPSError, match="there is a simulation sim::x already"):
        world.ask("create_sub_workflow", file)


def test_nothing_begins_in_a_simulation_that_is_ending(world: World) -> None:
    world.simulation.ending = True
    with pytest.raises(IPSError, match="the simulation is ending"):
        world.ask("create_sub_workflow", world.file("sim::x", "x"))
    assert world.simulation.members == []


def test_a_simulation_beside_others_needs_files_of_its_own(world: World) -> None:
    log_file = world.folder / "sim" / "sim.log"
    log_file.parent.mkdir()
    log_file.write_text("of the other one")
    with pytest.raises(ConfigError, match=r"(?s)SIM_ROOT = .*LOG_FILE = .*need their own"):
        world.ask("create_simulation", world.file("dynamic", "sim"))
    assert (log_file.read_text(), world.begun) == ("of the other one", [])
    world.ask("create_simulation", world.file("dynamic", "elsewhere"))
    assert world.begun == ["dynamic"]


def test_files_are_named_after_the_run_whatever_the_user_is_called(world: World) -> None:
    config = replace(world.simulation.config, values={"USER": "fusion/al\udcffce", "HOST": "h"})
    name = run_id_of(config, PlatformConfig(), 0.0)
    assert name.startswith("sim_h_fusion_al\\udcffce_19")
    assert name.encode()
