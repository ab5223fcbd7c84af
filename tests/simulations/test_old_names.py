"""A driver as written for IPS-framework: its imports, its attributes, what it asks of the files."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

DRIVER = """
import json
import os

import ipsframework
from ipsframework import Component, ServicesProxy, ipsutil
from ipsframework.component import Component as again
from ipsframework.componentRegistry import ComponentID
from ipsframework.ipsExceptions import IncompleteCallException
from ipsframework.messages import Message
from ipsframework.services import Task


class Driver(Component):
    def __init__(self, services, config):
        super().__init__(services, config)
        self.in_constructor = [os.getcwd(), services.get_config_param("SIM_NAME")]

    def slow(self):
        pass

    def init(self, timestamp=0.0, **keywords):
        self.asked = {
            key: self.services.get_config_param(key)
            for key in (
                "SIMULATION_MODE", "PWD", "IN_ENVIRONMENT", "IN_PLATFORM", "PROCS_PER_NODE",
                "CORES_PER_NODE", "GPUS_PER_NODE", "NODES", "HOST", "EMPTY", "LIST", "Mine",
            )
        }

    def step(self, timestamp=0.0, **keywords):
        os.mkdir("from")
        open("from/a.txt", "w").close()
        ipsutil.copyFiles("from", "*.txt", "to", prefix="p_")
        try:
            ipsframework.TaskManager
        except ImportError as error:
            instead = str(error)
        call = self.services.call_nonblocking(self.services.get_port("DRIVER"), "slow")
        try:
            self.services.wait_call(call, block=False)
            incomplete = False
        except IncompleteCallException:
            incomplete = True
        print(json.dumps({
            "constructor": self.in_constructor,
            "asked": self.asked,
            "same": [
                Component is again,
                isinstance(self.services, ServicesProxy),
                isinstance(self.component_id, ComponentID),
                Task("t", 1, ".", "true").nproc == 1,
                Message.SUCCESS == 0,
            ],
            "seen": [self.NPROC, self.MY_LIST, self.sub["KEY"], self.INPUT_DIR, self.BIN_PATH],
            "copied": os.listdir("to"),
            "instead": instead,
            "incomplete": incomplete,
            "version": ipsframework.__version__,
        }))
"""

PLATFORM = """
HOST = machine
MPIRUN = eval
NODE_DETECTION = manual
CORES_PER_NODE = 4
SOCKETS_PER_NODE = 2
NODE_ALLOCATION_MODE = shared
NODES = 3
IN_PLATFORM = $IN_ENVIRONMENT/x
"""


@pytest.fixture
def said(simulation: Any, once: Callable[..., Any]) -> Any:
    """What the driver printed, and the folder it ran from."""

    def run() -> Any:
        simulation.write(DRIVER)
        own = "EMPTY =\nLIST = a, b\nNODES = 2\nBIN_PATH = /bin\nONE = one"
        simulation.edit("LOG_LEVEL = INFO", f"LOG_LEVEL = INFO\n{own}")
        simulation.edit("[Worker]", "[Mine]\nKEY = $SIM_NAME\n[Worker]")
        script = "   SCRIPT = $PWD/driver.py\n"
        more = "   NPROC = 4\n   MY_LIST = a,\n   [[sub]]\n      KEY = $ONE\n"
        simulation.edit(script, script + more)
        (simulation.folder / "platform.conf").write_text(PLATFORM)
        outcome = simulation.run("--platform=platform.conf", IN_ENVIRONMENT="there")
        assert (outcome.code, outcome.stderr) == (0, ""), outcome
        return json.loads(outcome.stdout.splitlines()[1]), simulation.folder

    return once("driver", run)


def test_names_of_ipsframework(said: Any) -> None:
    found, _ = said
    assert found["same"] == [True] * 5
    assert found["copied"] == ["p_a.txt"]
    assert found["incomplete"] is True
    assert found["instead"].startswith(
        "ips_core has no ipsframework.TaskManager: launch tasks with"
    )
    assert found["version"][0].isdecimal()


def test_what_the_files_say(said: Any) -> None:
    found, folder = said
    assert found["asked"] == {
        "SIMULATION_MODE": "NORMAL",
        "PWD": str(folder),
        "IN_ENVIRONMENT": "there",
        "IN_PLATFORM": "there/x",
        "PROCS_PER_NODE": 0,
        "CORES_PER_NODE": 4,
        "GPUS_PER_NODE": 0,
        "NODES": "2",  # a simulation file's number stays a text
        "HOST": "machine",
        "EMPTY": "",
        "LIST": ["a", "b"],
        "Mine": {"KEY": "sim"},
    }


def test_constructor_and_attributes(said: Any) -> None:
    found, folder = said
    assert found["constructor"] == [str(folder), "sim"]
    assert found["seen"] == ["4", ["a"], "one", str(folder), "/bin"]
