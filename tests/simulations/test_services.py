"""Services of which no other test has a simulation: calls, configuration, messages, attributes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

DRIVER = """
import json
import logging
import os
from pathlib import Path

from ipsframework import Component
from ipsframework.ipsExceptions import IncompleteCallException


def error_of(function, *args, **keywords):
    try:
        return function(*args, **keywords)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


class Driver(Component):
    def __init__(self, services, config):
        super().__init__(services, config)
        services.info("constructed beside %s", services.get_port("WORKER"))
        self.created = {"cwd": os.getcwd(), "param": services.get_config_param("SIM_NAME")}

    def init(self, timestamp=0.0, **keywords):
        self.got = [repr(timestamp), keywords, self.method_name, list(self.args)]

    def step(self, timestamp=0.0, **keywords):
        self.worker = self.services.get_port("WORKER")
        told = {}
        for part in (
            self.calls, self.lists, self.values, self.messages, self.attributes, self.old,
            self.twins,
        ):
            told[part.__name__] = part()
        print("told", json.dumps(told | {"init": self.got, "created": self.created}))

    def twins(self):
        services, twin = self.services, self.services.get_port("TWIN")
        return [str(self.worker), str(twin), *services.call(self.worker, "where", twin)]

    def calls(self):
        services, worker = self.services, self.worker
        found = [services.call(worker, "both", 1, word="x"), services.call(worker, "init", 0)]
        call_id = services.call_nonblocking(worker, "wait_for", "go")
        try:
            services.wait_call(call_id, block=False)
        except IncompleteCallException as error:
            found.append(type(error).__name__)
        Path("go").touch()
        found.append(services.wait_call(call_id))
        found += [error_of(services.wait_call, call_id), error_of(services.get_port, "NOPE")]
        found += [error_of(services.call, worker, "fail"), error_of(services.call, worker, "nope")]
        return found

    def lists(self):
        services, worker = self.services, self.worker
        ids = [services.call_nonblocking(worker, "both", n) for n in range(3)]
        results = services.wait_call_list(ids)
        found = [[results[call_id] for call_id in ids], len(results)]
        held = [services.call_nonblocking(worker, name, "on") for name in ("wait_for", "both")]
        found.append(services.wait_call_list(held, block=False))
        Path("on").touch()
        found.append(list(services.wait_call_list(tuple(held)).values()))
        mixed = [services.call_nonblocking(worker, name, 5) for name in ("both", "fail", "both")]
        found.append(error_of(services.wait_call_list, mixed))
        found.append(error_of(services.wait_call_list, mixed[2:]))
        return found

    def values(self):
        get = self.services.get_config_param
        names = ("TEXT", "LIST", "MARK", "TOOLS", "CORES_PER_NODE", "Worker")
        found = [get(name) for name in names]
        found.append(error_of(get, "NOPE"))
        found.append(error_of(get, "QUIET", silent=True))
        return [*found, get("PORTAL_RUNID"), get("SIMULATION_MODE"), self.TEXT_OF_OWN, self.LIST]

    def messages(self):
        services = self.services
        for level in ("debug", "info", "log", "warning", "error", "critical"):
            getattr(services, level)("%s says %d", level, 7)
        try:
            raise ValueError("no plasma")
        except ValueError:
            services.exception("caught by %s", "driver")

    def old(self):
        Path("shared").mkdir()
        Path("shared", "state").write_text("a")
        services = self.services
        found = [services.getGlobalConfigParameter(name) for name in ("SIM_NAME", "TEXT")]
        services.stage_plasma_state()
        found.append(Path("state").read_text())
        Path("state").write_text("b")
        services.update_plasma_state()
        found.append(Path("shared", "state").read_text())
        services.merge_current_plasma_state("part", merge_binary=self.MERGE)
        return [*found, Path("shared", "state").read_text()]

    def attributes(self):
        services = self.services
        worked = services.sim_conf["LOOP"]["TMIN"]
        services.component_ref.config["INPUT_DIR"] = "elsewhere"
        return [
            worked, services.component_ref is self, self.config["INPUT_DIR"], services.sim_name,
            services.full_comp_id, services.workdir == os.getcwd() == services.get_working_dir(),
            services.task_map, services.task_pools, services.sub_flows, services.fwk,
            str(self.component_id), error_of(setattr, self, "services", None)[:14],
        ]
"""

WORKER = """
import os
import time
from pathlib import Path

from ipsframework import Component


class Worker(Component):
    def both(self, number, word=None):
        return [number, word]

    def wait_for(self, name):
        deadline = time.monotonic() + 30
        while not Path("..", "DRIVER__Driver_1", name).exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return name

    def where(self, other=None):
        services = self.services
        mine = [services.full_comp_id, os.path.basename(os.getcwd()), os.getpid(), self.KEY]
        return mine if other is None else [mine, services.call(other, "where")[0]]

    def fail(self, *args):
        raise RuntimeError("on purpose")
"""

PLATFORM = """
MPIRUN = eval
NODE_DETECTION = manual
CORES_PER_NODE = 2
SOCKETS_PER_NODE = 1
NODE_ALLOCATION_MODE = shared
TOOLS = /opt/tools
"""

FAILED = "IPSError: component WORKERS__Worker_2 failed in fail: RuntimeError: on purpose"


@pytest.fixture
def run(simulation: Any, once: Callable[..., Any]) -> Any:
    def answer() -> Any:
        simulation.write(DRIVER, WORKER)
        simulation.edit(
            "DRIVER WORKER", "DRIVER WORKER TWIN\n   [[TWIN]]\n      IMPLEMENTATION = Worker"
        ).edit("NAME = Worker", "NAME = Worker\n   KEY = value")
        simulation.edit("LOG_LEVEL = INFO", "LOG_LEVEL = DEBUG\nTEXT = $MARK of $TOOLS\nLIST = a,")
        simulation.edit(
            "NAME = Driver",
            "NAME = Driver\n   LIST = b, c\n   TEXT_OF_OWN = $TEXT\n   MERGE = $PWD/merge",
        )
        state = "STATE_WORK_DIR = shared\nSTATE_FILES = state\nCURRENT_STATE = state\n"
        simulation.edit("SIM_NAME", f"{state}SIM_NAME")
        (simulation.folder / "merge").write_text("#!/bin/sh\necho merged > $2")
        (simulation.folder / "merge").chmod(0o755)
        with simulation.config.open("a") as file:
            file.write("\n[LOOP]\n   TMIN = 3\n")
        (simulation.folder / "platform.conf").write_text(PLATFORM)
        outcome = simulation.run("--platform", "platform.conf", MARK="a mark")
        assert (outcome.code, outcome.stderr) == (0, ""), outcome.log
        (line,) = [line for line in outcome.stdout.splitlines() if line.startswith("told ")]
        return outcome, json.loads(line[5:]), simulation.folder

    return once("run", answer)


def test_calls_give_one_tuples_and_errors_that_name_the_component(run: Any) -> None:
    _, told, _ = run
    both, init, incomplete, waited, again, port, fail, nope = told["calls"]
    assert (both, init, incomplete, waited) == (
        [[1, "x"]],
        [None],
        "IncompleteCallException",
        ["go"],
    )
    assert again.startswith("KeyError: 'no call ")
    assert port == "KeyError: 'no port NOPE; there are DRIVER, WORKER, TWIN'"
    assert fail.startswith(FAILED)
    assert "Worker has no method nope" in nope


def test_ports_of_one_section_have_components_of_their_own_which_may_call_each_other(
    run: Any,
) -> None:
    _, told, _ = run
    worker, twin, ((*first, pid, key), (*second, other_pid, other_key)) = told["twins"]
    assert (worker, twin) == ("sim@Worker@2", "sim@Worker@3")
    assert first == ["WORKERS__Worker_2"] * 2
    assert second == ["WORKERS__Worker_3"] * 2
    assert (key, other_key) == ("value", "value")
    assert pid != other_pid


def test_lists_of_calls_are_waited_for_to_their_ends(run: Any) -> None:
    _, told, _ = run
    results, count, at_once, later, failed, forgotten = told["lists"]
    assert results == [[[n, None]] for n in range(3)]
    assert (count, at_once) == (3, {})
    assert later == [["on"], [["on", None]]]
    assert failed.startswith(FAILED)
    assert forgotten.startswith("KeyError")  # it was waited for with the others


def test_values_of_files_and_environment(run: Any) -> None:
    outcome, told, _ = run
    text, values, mark, tools, cores, section, missing, silent, run_id, mode, own, list_ = told[
        "values"
    ]
    assert (text, values, mark, tools, cores) == (
        "a mark of /opt/tools",
        ["a"],
        "a mark",
        "/opt/tools",
        2,
    )
    assert section["NAME"] == "Worker"
    assert (missing, silent) == (
        "KeyError: 'no configuration parameter NOPE'",
        "KeyError: 'no configuration parameter QUIET'",
    )
    assert run_id == outcome.events[0]["portal_runid"]
    assert (mode, own, list_) == ("NORMAL", "a mark of /opt/tools", ["b", "c"])
    assert "NOPE" in outcome.log
    assert "QUIET" not in outcome.log


def test_messages_of_all_levels(run: Any) -> None:
    outcome, _, _ = run
    said = re.findall(r"DRIVER__Driver_1 (\w+) +(\w+) says 7", outcome.log)
    assert said == [
        ("DEBUG", "debug"),
        ("INFO", "info"),
        ("INFO", "log"),
        ("WARNING", "warning"),
        ("ERROR", "error"),
        ("CRITICAL", "critical"),
    ]
    assert re.search(
        r"ERROR +caught by driver\nTraceback .*\n.*\n.*\nValueError: no pl", outcome.log
    )


def test_attributes_that_components_read(run: Any) -> None:
    outcome, told, folder = run
    assert told["attributes"] == [
        *("3", True, "elsewhere", "sim", "DRIVER__Driver_1", True, {}, {}, {}, None),
        *("sim@Driver@1", "AttributeError"),
    ]
    assert told["init"] == ["0", {}, "init", [0]]
    assert "INFO     constructed beside sim@Worker@2" in outcome.log
    assert told["created"] == {"cwd": str(folder), "param": "sim"}


def test_names_of_before_2020_work_and_say_once_what_they_are_called_now(run: Any) -> None:
    outcome, told, _ = run
    assert told["old"] == ["sim", "a mark of /opt/tools", "a", "b", "merged\n"]
    assert re.findall(r"WARNING +(\w+) is deprecated: it is called (\w+) now", outcome.log) == [
        ("getGlobalConfigParameter", "get_config_param"),
        ("stage_plasma_state", "stage_state"),
        ("update_plasma_state", "update_state"),
        ("merge_current_plasma_state", "merge_current_state"),
    ]
