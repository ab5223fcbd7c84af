"""Several simulations in one framework: side by side, inside of one another, started by others."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any
from unittest.mock import Mock

import pytest

from ips_core import Framework, read_log
from ips_core.errors import ConfigError, IPSError
from ips_core.framework import framework as framework_module

PARENT = """
import json
from pathlib import Path

from ipsframework import Component


def text_of(call, *arguments, **keywords):
    try:
        call(*arguments, **keywords)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


class Driver(Component):
    def step(self, timestamp=0.0, **keywords):
        services = self.services
        facts = {}
        name, init, driver = services.create_sub_workflow(
            "inner", "../../../inner.config", override={"Inner": {"GREETING": "$PWD, changed"}}
        )
        facts["created"] = [name, str(init), str(driver)]
        Path("../../../input.txt").write_text("later")
        services.stage_input_files("")
        for method in ("init", "step", "finalize"):
            facts[method] = services.call(driver, method, 1.5)[0]
        facts["staged"] = services.stage_subflow_output_files()
        facts["output"] = Path("inner.out").read_text()
        services.set_config_param("SHARED", {"a": [1]})
        facts["shared"] = services.call(driver, "shared")[0]
        services.set_config_param("ONLY_THERE", 7, target_sim_name="sim::inner")
        facts["only there"] = services.call(driver, "only_there")[0]
        facts["not here"] = text_of(services.get_config_param, "ONLY_THERE")
        facts["dynamic"] = services.create_simulation(
            "../../../other.config", override={"SIM_NAME": "dynamic", "SIM_ROOT": "dynamic"}
        )
        facts["errors"] = [
            text_of(services.create_sub_workflow, "inner", "../../../inner.config"),
            text_of(services.create_sub_workflow, "a/b", "../../../inner.config"),
            text_of(services.create_sub_workflow, "lost", "no.config"),
            text_of(services.create_sub_workflow, "broken", "../../../broken.config"),
            text_of(services.create_simulation, "../../../other.config", {"SIM_NAME": "sim"}),
            text_of(services.stage_subflow_output_files, "other"),
            text_of(services.set_config_param, "SIM_NAME", "x"),
            text_of(services.set_config_param, "HOME", "x"),
            text_of(services.set_config_param, "X", "x", target_sim_name="nobody"),
        ]
        print(json.dumps(facts))
"""

INNER = """
from pathlib import Path

from ipsframework import Component


class Inner(Component):
    def init(self, timestamp=0.0, **keywords):
        self.services.stage_input_files(self.INPUT_FILES)
        return Path("input.txt").read_text()

    def step(self, timestamp=0.0, **keywords):
        Path("inner.out").write_text(f"{self.GREETING} at {timestamp}")
        self.services.warning("a word from inside")
        return self.services.get_working_dir()

    def finalize(self, timestamp=0.0, **keywords):
        return self.services.get_config_param("OF_PARENT")

    def shared(self):
        return self.services.get_config_param("SHARED")

    def only_there(self):
        return self.services.get_config_param("ONLY_THERE")
"""

INNER_CONFIG = """
[PORTS]
   NAMES = DRIVER
   [[DRIVER]]
      IMPLEMENTATION = Inner

[Inner]
   CLASS = INNER
   SUB_CLASS =
   NAME = Inner
   SCRIPT = inner.py
   INPUT_FILES = input.txt
   OUTPUT_FILES = inner.out
   GREETING = hello
"""

OTHER_CONFIG = """
SIM_NAME = other
SIM_ROOT = $PWD/other
LOG_FILE = $SIM_ROOT/other.log
""" + INNER_CONFIG.replace("inner.py", "other.py").replace("INPUT_FILES = input.txt", "")

OTHER = """
from ipsframework import Component


class Inner(Component):
    def step(self, timestamp=0.0, **keywords):
        print("the other one runs in", self.services.get_run_directory())
"""


@pytest.fixture
def nested(simulation: Any, once: Callable[..., Any]) -> Any:
    def run() -> Any:
        simulation.write(PARENT).edit("LOG_LEVEL = INFO", 'OF_PARENT = "$$5, from above"')
        for name, text in {
            "inner.py": INNER,
            "inner.config": INNER_CONFIG,
            "broken.config": INNER_CONFIG.replace("inner.py", "broken.py"),
            "broken.py": "no Python",
            "input.txt": "early",
            "other.py": OTHER,
            "other.config": OTHER_CONFIG,
        }.items():
            (simulation.folder / name).write_text(text)
        outcome = simulation.run()
        assert outcome.stderr == ""
        lines = outcome.stdout.splitlines()
        facts = json.loads(next(line for line in lines if line.startswith("{")))
        return simulation.folder, outcome, facts

    return once("nested", run)


def test_a_sub_workflow_is_run_by_its_parent(nested: Any) -> None:
    folder, outcome, facts = nested
    work = folder / "sim" / "work" / "DRIVER__Driver_1"
    assert outcome.code == 0
    assert facts["created"] == ["sim::inner", "None", "sim::inner@Inner@2"]
    assert facts["init"] == "later"
    assert facts["step"] == str(work / "inner" / "work" / "INNER__Inner_2")
    assert facts["finalize"] == "$5, from above"
    assert facts["staged"] == {"inner": ["inner.out"]}
    assert facts["output"] == f"{folder}, changed at 1.5"
    assert (work / "inner.config").is_file()


def test_its_events_and_messages_are_in_its_parents_files(nested: Any) -> None:
    _, outcome, _ = nested
    assert "INNER__Inner_2" in outcome.log
    assert "a word from inside" in outcome.log
    assert {event["portal_runid"] for event in outcome.events} == {
        outcome.events[0]["portal_runid"]
    }
    names = [event["sim_name"] for event in outcome.of_type("IPS_STAGE_INPUTS")]
    assert "sim::inner" in names
    (created,) = outcome.of_type("IPS_CREATE_SUB_WORKFLOW")
    assert created["comment"] == "workflow_name = inner"
    assert len(outcome.of_type("IPS_START")) == len(outcome.of_type("IPS_END")) == 1


def test_components_set_values_for_others(nested: Any) -> None:
    _, _, facts = nested
    assert facts["shared"] == {"a": [1]}
    assert facts["only there"] == 7
    assert facts["not here"] == "KeyError: 'no configuration parameter ONLY_THERE'"


def test_a_dynamic_simulation_lives_beside(nested: Any) -> None:
    folder, outcome, facts = nested
    root = folder / "dynamic"
    assert facts["dynamic"] == "dynamic"
    assert f"the other one runs in {root}" in outcome.stdout
    events = read_log(root / "simulation_log")
    assert (events[0]["eventtype"], events[-1]["eventtype"]) == ("IPS_START", "IPS_END")
    assert events[0]["parent_portal_runid"] == outcome.events[0]["portal_runid"]


def test_what_cannot_be_created_is_told(nested: Any) -> None:
    _, _, facts = nested
    (again, slash, lost, broken, twice, unknown, own, environment, nobody) = facts["errors"]
    assert again == "IPSError: there is a sub-workflow inner already"
    assert slash.startswith("IPSError: 'a/b' cannot name a sub-workflow")
    assert lost == "ConfigError: no.config: there is no such file"
    assert broken.startswith("IPSError: component INNER__Inner_4 failed in constructor: ")
    assert broken.endswith("broken.py, line 1: invalid syntax")
    assert twice.endswith("there is a simulation sim already")
    assert unknown == "KeyError: 'no sub-workflow other; there are: inner'"
    assert own.startswith("IPSError: cannot set SIM_NAME")
    assert environment.startswith("IPSError: cannot set HOME")
    assert nobody.startswith("IPSError: there is no simulation nobody; there are: sim, sim::inner")


SIDE = """
SIM_NAME = {name}
SIM_ROOT = $PWD/{name}
LOG_FILE = $SIM_ROOT/{name}.log
[PORTS]
   NAMES = DRIVER
   [[DRIVER]]
      IMPLEMENTATION = Driver
[Driver]
   CLASS = DRIVER
   SUB_CLASS =
   NAME = Driver
   SCRIPT = side.py
"""

SIDE_DRIVER = """
import time
from pathlib import Path

from ipsframework import Component


class Driver(Component):
    def step(self, timestamp=0.0, **keywords):
        own = self.services.sim_name
        Path("../../..", f"{own}.here").touch()
        wait_for(lambda: all(Path("../../..", f"{each}.here").exists() for each in "ab"))
        if own == "b":
            raise ValueError("no plasma")
        Path("here").touch()
        wait_for(lambda: Path("../../../go").exists())
        self.services.create_task_pool("p")
        self.services.add_task("p", "t", 1, ".", "true")
        self.services.submit_tasks("p")
        print("codes", self.services.get_finished_tasks("p"))


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()
"""


def beside(folder: Path, *names: str) -> None:
    for name in names:
        (folder / f"{name}.config").write_text(SIDE.format(name=name))
    (folder / "side.py").write_text(SIDE_DRIVER)


def test_two_run_side_by_side_and_one_fails(tmp_path: Path, wait_until: Any) -> None:
    beside(tmp_path, "a", "b")
    process = subprocess.Popen(
        [sys.executable, "-m", "ips_core", "--config", "a.config,b.config"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:

        def ended() -> Any:
            folder = tmp_path / "b" / "simulation_log"
            events = read_log(folder) if list(folder.glob("*.json")) else []
            return events if events and events[-1]["eventtype"] == "IPS_END" else None

        failed = wait_until(ended, 30, "the end of the one that fails")
        assert process.poll() is None  # the other goes on
        (tmp_path / "go").touch()
        stdout, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert "codes {'t': 0}" in stdout
    sentence = "component DRIVER__Driver_2 failed in step: ValueError: no plasma"
    assert stderr.splitlines() == [
        f"ips.py: b: {sentence}",
        f"ips.py: more in {tmp_path / 'b' / 'b.log'}",
    ]
    assert process.returncode == 1
    went_well = read_log(tmp_path / "a" / "simulation_log")
    assert (went_well[-1]["ok"], failed[-1]["ok"], failed[-1]["error"]) == (True, False, sentence)
    assert failed[0]["parent_portal_runid"] == went_well[0]["portal_runid"]
    assert went_well[0]["parent_portal_runid"] is None


def test_another_thread_ends_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Any, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    beside(tmp_path, "a")
    (tmp_path / "b.here").touch()
    framework = Framework("a.config", log_file_name="sys.stdout")
    framework.terminate_all_sims()  # nothing runs yet
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(framework.run()))
    thread.start()
    work = tmp_path / "a" / "work" / "DRIVER__Driver_1"
    wait_until((work / "here").exists, 30, "the step")
    log_file = tmp_path / "a" / "a.log"
    log_file.write_text("of the first\n")
    with pytest.raises(ConfigError, match=r"another run writes LOG_FILE = .*a\.log now: wait for"):
        Framework(["a.config"]).run()
    assert log_file.read_text() == "of the first\n"
    framework.terminate_all_sims()
    thread.join(30)
    assert results == [False]
    assert framework.failure == "terminated"
    assert read_log(tmp_path / "a" / "simulation_log")[-1]["error"] == "terminated"
    framework.terminate_all_sims()  # nothing runs any more
    with pytest.raises(IPSError, match="has run before: make a new one"):
        framework.run()
    assert "Starting IPS" in capfd.readouterr().out
    assert not Path("sys.stdout").exists()


def test_a_log_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    beside(tmp_path, "a")
    reason = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "a.eventlog")
    monkeypatch.setattr(framework_module, "log_sinks", Mock(side_effect=reason))
    with pytest.raises(ConfigError, match=r"a\.config: cannot write the simulation log: .*quota"):
        Framework(["a.config"]).run()


def test_names_are_unique(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    beside(tmp_path, "a")
    (tmp_path / "c.config").write_text(dedent(SIDE.format(name="a")))
    with pytest.raises(ConfigError, match="SIM_NAME"):
        Framework(["a.config", "c.config"])
