"""A time loop with staging, checkpoints and merges; then a restart from one of the checkpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CONFIG = """\
SIM_NAME = {name}
SIM_ROOT = $PWD/{name}
LOG_FILE = $SIM_ROOT/{name}.log
OUTPUT_PREFIX = p_
INPUT_DIR = inputs
{more}

[PORTS]
   NAMES = DRIVER FIRST SECOND
   [[DRIVER]]
      IMPLEMENTATION = Driver
   [[FIRST]]
      IMPLEMENTATION = First
   [[SECOND]]
      IMPLEMENTATION = Second

[Driver]
   CLASS = DRIVER
   SUB_CLASS =
   NAME = Driver
   SCRIPT = $PWD/driver.py
   INPUT_FILES =
   OUTPUT_FILES =

[First]
   CLASS = WORKERS
   SUB_CLASS = A
   NAME = Worker
   SCRIPT = $PWD/worker.py
   INPUT_FILES = first.in more*.in
   OUTPUT_FILES = out.txt, "with blank"
   RESTART_FILES = out.txt memory

[Second]
   CLASS = WORKERS
   SUB_CLASS = B
   NAME = Worker
   SCRIPT = $PWD/worker.py
   INPUT_FILES = "second  blank.in",
   OUTPUT_FILES = out.txt missing.txt
   RESTART_FILES = out.txt memory
   STATE_FILES = state.txt
"""

NORMAL = """\
SIMULATION_MODE = NORMAL
STATE_WORK_DIR = $SIM_ROOT/work/state
STATE_FILES = state.txt, eq.dat
CURRENT_STATE = state.txt

[TIME_LOOP]
   MODE = REGULAR
   START = 0
   FINISH = 2**2
   NSTEP = 4

[CHECKPOINT]
   MODE = PHYSTIME_EXPLICIT
   PHYSTIME_VALUES = 1 2 3 4
   NUM_CHECKPOINT = 2
"""

RESTART = """\
SIMULATION_MODE = RESTART
RESTART_ROOT = $PWD/sim
RESTART_TIME = 3.000
"""

WORKER = """\
from pathlib import Path

from ipsframework import Component


class Worker(Component):
    def init(self, timestamp=0.0, **keywords):
        self.services.stage_input_files(self.INPUT_FILES)
        Path("memory").write_text("")
        return sorted(path.name for path in Path().iterdir())

    def step(self, timestamp=0.0, **keywords):
        self.services.stage_state()
        with open("memory", "a") as memory:
            memory.write(f"{self.SUB_CLASS}{timestamp:g} ")
        Path("out.txt").write_text(Path("memory").read_text())
        Path("with blank").write_text("")
        if self.SUB_CLASS == "A":
            with open("state.txt", "a") as state:
                state.write(f"A{timestamp:g} ")
            Path("eq.dat").write_text(f"{timestamp:g}")
            self.services.update_state()
        else:
            Path("part").write_text(f"B{timestamp:g} ")
            merge = keywords["merge"]
            self.services.merge_current_state("part", logfile="merge.log", merge_binary=merge)
        self.services.stage_output_files(timestamp, self.OUTPUT_FILES)
        return Path("state.txt").read_text()

    def checkpoint(self, timestamp=0.0, **keywords):
        if timestamp == 9.0:
            raise RuntimeError("no checkpoint today")
        self.services.save_restart_files(timestamp, self.RESTART_FILES)

    def restart(self, timestamp=0.0, **keywords):
        services = self.services
        root = services.get_config_param("RESTART_ROOT")
        services.get_restart_files(root, timestamp, self.RESTART_FILES)
        return Path("memory").read_text()
"""

DRIVER = """\
import json
import os
from pathlib import Path

from ipsframework import Component


class Driver(Component):
    def init(self, timestamp=0.0, **keywords):
        self.found = {}
        self.errors = {}
        self.folder = Path(self.services.get_config_param("PWD"))

    def tried(self, name, method, *arguments, **keywords):
        try:
            getattr(self.services, method)(*arguments, **keywords)
        except Exception as error:
            self.errors[name] = [type(error).__name__, str(error)]

    def step(self, timestamp=0.0, **keywords):
        services = self.services
        self.workers = [services.get_port("FIRST"), services.get_port("SECOND")]
        if services.get_config_param("SIMULATION_MODE") == "RESTART":
            self.restarted()
        else:
            self.normal()
        print(json.dumps(self.found | {"errors": self.errors}))

    def normal(self):
        services, merge = self.services, str(self.folder / "merge")
        self.found["inputs"] = [services.call(worker, "init", 0)[0] for worker in self.workers]
        for name in ("state.txt", "eq.dat"):
            Path(name).write_text("")
        services.update_state("state.txt eq.dat")
        loop = services.get_time_loop()
        self.found["loop"] = loop
        self.found["checkpointed"] = []
        for time in loop:
            services.update_time_stamp(time)
            for worker in self.workers:
                self.found["state"] = services.call(worker, "step", time, merge=merge)[0]
            done = services.checkpoint_components(self.workers, time, Protect=time == 1)
            self.found["checkpointed"].append(done and list(done.values()))
        self.other_uses()
        self.wrong_uses()

    def other_uses(self):
        services = self.services
        self.config["INPUT_DIR"] = str(self.folder / "elsewhere")
        services.stage_input_files(["with  blank", "late*"])
        os.chdir("/")
        Path(services.workdir, "sub").mkdir()
        for text in ("first", "second"):
            Path(services.workdir, "sub", "own.txt").write_text(text)
            services.stage_output_files(5.0, "sub/*", save_plasma_state=False)
        services.stage_output_files(5.0, "late.in", False, False)
        services.stage_output_files(5.0, ["late.in"], False, False)
        os.chdir(services.workdir)
        Path("eq.dat").write_text("newer")
        services.update_state(["eq.dat"])
        state = Path(services.get_config_param("STATE_WORK_DIR"))
        self.found["eq.dat"] = (state / "eq.dat").read_text()

    def wrong_uses(self):
        tried, merge = self.tried, str(self.folder / "merge")
        tried("input", "stage_input_files", "late* missing")
        tried("state", "stage_state", "missing")
        tried("update", "update_state", ["state.txt", "missing"])
        tried("no program", "merge_current_state", "part")
        tried("merge", "merge_current_state", "missing", merge_binary=merge)
        results = Path(self.services.get_run_directory(), "simulation_results")
        (results / "blocked").write_text("")
        tried("output", "stage_output_files", "blocked", "late.in")
        tried("save", "save_restart_files", 4.0, "missing")
        tried("get", "get_restart_files", str(self.folder / "sim"), "2.0", "out.txt")
        tried("failing", "checkpoint_components", self.workers, 9.0, Force=True)
        tried("time stamp", "update_time_stamp", "soon")
        tried("checkpoint time", "checkpoint_components", self.workers, "soon")

    def restarted(self):
        services, time = self.services, float(self.services.get_config_param("RESTART_TIME"))
        self.found["memory"] = [services.call(each, "restart", time)[0] for each in self.workers]
        Path("own.txt").write_text("")
        self.tried("no STATE_FILES", "stage_output_files", time, "own.txt")
        self.tried("no [TIME_LOOP]", "get_time_loop")
        self.tried("no [CHECKPOINT]", "checkpoint_components", [], time)
        self.tried("nothing to save", "save_restart_files", time, "own.txt")
        self.found["forced"] = services.checkpoint_components([], time, Force=True)
"""

MERGE = """#!/bin/sh
echo "merging $4"
cat "$4" >> "$2"
"""


@dataclass(frozen=True)
class Runs:
    """Both simulations, and what their drivers found."""

    folder: Path
    first: Any
    second: Any
    normal: dict[str, Any]
    restarted: dict[str, Any]

    def comments(self, run: Any, *eventtypes: str, code: str = "", ok: bool = True) -> list[str]:
        """Comments of events, without the times that they took."""
        found = [e for e in run.of_type(*eventtypes) if e["ok"] is ok and code in e["code"]]
        return [each["comment"].partition(" = 0.")[2][4:] or each["comment"] for each in found]


@pytest.fixture
def runs(simulation: Any, once: Callable[[str, Callable[[], Runs]], Runs]) -> Runs:
    return once("runs", lambda: run_both(simulation))


def run_both(simulation: Any) -> Runs:
    folder = simulation.folder
    for name, text in {
        "driver.py": DRIVER,
        "worker.py": WORKER,
        "merge": MERGE,
        "inputs/first.in": "",
        "inputs/more1.in": "",
        "inputs/more2.in": "",
        "inputs/second  blank.in": "",
        "elsewhere/with  blank": "",
        "elsewhere/late.in": "",
        "sim.config": CONFIG.format(name="sim", more=NORMAL),
        "again.config": CONFIG.format(name="again", more=RESTART),
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "merge").chmod(0o755)
    outcomes = []
    for name in ("sim", "again"):
        simulation.name = name
        outcomes.append(simulation.run())
        assert outcomes[-1].code == 0, outcomes[-1]
    normal, restarted = (json.loads(outcome.stdout.splitlines()[-1]) for outcome in outcomes)
    return Runs(folder, *outcomes, normal, restarted)


def tree(root: Path) -> set[str]:
    """The files below a folder."""
    found = [path for path in root.rglob("*") if path.is_symlink() or not path.is_dir()]
    return {str(path.relative_to(root)) for path in found}


def test_time_loop_and_its_stamps_in_the_log(runs: Runs) -> None:
    assert runs.normal["loop"] == [0.0, 1.0, 2.0, 3.0, 4.0]
    stamps = runs.first.of_type("IPS_UPDATE_TIME_STAMP")
    assert [event["comment"] for event in stamps] == [
        f"Timestamp = {time}" for time in runs.normal["loop"]
    ]
    steps = runs.first.of_type("IPS_UPDATE_TIME_STAMP", "IPS_STAGE_OUTPUTS")[:15]
    assert [event["phystimestamp"] for event in steps] == [
        time for time in runs.normal["loop"] for _ in range(3)
    ]


def test_inputs_are_in_the_work_directory_and_in_the_setup(runs: Runs) -> None:
    first, second = runs.normal["inputs"]
    assert first == ["first.in", "memory", "more1.in", "more2.in"]
    assert second == ["memory", "second  blank.in"]
    setup = runs.folder / "sim" / "simulation_setup"
    assert tree(setup) == {
        "driver.py",
        "worker.py",
        "DRIVER__Driver_1/p_late.in",
        "DRIVER__Driver_1/p_with  blank",
        "WORKERS_A_Worker_2/p_first.in",
        "WORKERS_A_Worker_2/p_more1.in",
        "WORKERS_A_Worker_2/p_more2.in",
        "WORKERS_B_Worker_3/p_second  blank.in",
    }
    assert runs.comments(runs.first, "IPS_STAGE_INPUTS") == [
        f"Path = {runs.folder}/inputs Files = first.in more*.in",
        f"Path = {runs.folder}/inputs Files = ['second  blank.in']",
        f"Path = {runs.folder}/elsewhere Files = ['with  blank', 'late*']",
    ]


def test_state_goes_round(runs: Runs) -> None:
    expected = "".join(f"A{time} B{time} " for time in range(5))
    state = runs.folder / "sim" / "work" / "state"
    assert runs.normal["state"] == (state / "state.txt").read_text() == expected
    assert tree(state) == {"state.txt", "eq.dat"}
    assert runs.normal["eq.dat"] == "newer"
    log = runs.folder / "sim" / "work" / "WORKERS_B_Worker_3" / "merge.log"
    assert log.read_text() == f"merging {log.with_name('part')}\n"
    staged = runs.comments(runs.first, "IPS_STAGE_STATE", code="WORKERS_A")
    assert staged == [" files = state.txt eq.dat Success"] * 5
    staged = runs.comments(runs.first, "IPS_STAGE_STATE", code="WORKERS_B")
    assert staged == [" files = state.txt Success"] * 5
    updated = runs.comments(runs.first, "IPS_UPDATE_STATE", code="WORKERS_A")
    assert updated == ["  files = state.txt eq.dat Success"] * 5
    assert runs.comments(runs.first, "IPS_MERGE_PLASMA_STATE") == ["Success"] * 5


def test_results(runs: Runs) -> None:
    results = runs.folder / "sim" / "simulation_results"
    expected = {"blocked"}
    for time in runs.normal["loop"]:
        for component in ("WORKERS_A_Worker_2", "WORKERS_B_Worker_3"):
            expected |= {
                f"{time}/components/{component}/p_out.txt",
                f"{component}/out_{time}.txt",
                f"plasma_state/p_state_{component}_{time}.txt",
            }
        expected |= {
            f"{time}/components/WORKERS_A_Worker_2/p_with blank",
            f"WORKERS_A_Worker_2/with blank_{time}",
            f"plasma_state/p_eq_WORKERS_A_Worker_2_{time}.dat",
        }
    expected |= {
        "5.0/components/DRIVER__Driver_1/p_own.txt",
        "5.0/components/DRIVER__Driver_1/p_own.txt.0",
        "5.0/components/DRIVER__Driver_1/p_late.in",
        "DRIVER__Driver_1/own_5.0.txt",
        "DRIVER__Driver_1/late_5.0.in",
    }
    assert tree(results) == expected
    link = results / "WORKERS_B_Worker_3" / "out_2.0.txt"
    assert os.readlink(link) == "../2.0/components/WORKERS_B_Worker_3/p_out.txt"
    assert link.read_text() == "B0 B1 B2 "
    assert (results / "DRIVER__Driver_1" / "own_5.0.txt").read_text() == "second"
    state = results / "plasma_state" / "p_state_WORKERS_B_Worker_3_0.0.txt"
    assert state.read_text() == "A0 B0 "
    outputs = runs.comments(runs.first, "IPS_STAGE_OUTPUTS", code="WORKERS_A")
    assert outputs == [
        f"Path = {results}/{time}/components/WORKERS_A_Worker_2 Files = ['out.txt', 'with blank']"
        for time in runs.normal["loop"]
    ]


def test_checkpoints(runs: Runs) -> None:
    assert runs.normal["checkpointed"] == [None, *[[[None], [None]]] * 4]
    files = {f"WORKERS_{worker}_Worker/{name}" for worker in "AB" for name in ("out.txt", "memory")}
    kept = {f"{time}.000/{file}" for time in (1, 3, 4) for file in files}
    assert tree(runs.folder / "sim" / "restart") == kept | {"9.000/.unfinished"}
    both = "Components = [sim@Worker@2, sim@Worker@3]"
    assert runs.comments(runs.first, "IPS_CHECKPOINT_START") == [both] * 5
    assert runs.comments(runs.first, "IPS_CHECKPOINT_END") == [both] * 4
    saved = runs.comments(runs.first, "IPS_SAVE_RESTART", code="WORKERS_B")
    assert saved == ["Files = out.txt memory"] * 4


def test_restart(runs: Runs) -> None:
    assert runs.restarted["memory"] == ["A0 A1 A2 A3 ", "B0 B1 B2 B3 "]
    got = runs.comments(runs.second, "IPS_GET_RESTART")
    assert got == ["Files = out.txt memory"] * 2
    assert runs.restarted["forced"] == {}
    assert not (runs.folder / "again" / "restart").exists()


def test_copies_are_spans_of_the_call_that_made_them(runs: Runs) -> None:
    *_, step = runs.first.of_type("IPS_CALL_END")[:-1]  # of the driver; finalize comes last
    own = [
        event
        for event in runs.first.of_type("IPS_STAGE_INPUTS", "IPS_UPDATE_STATE", "IPS_STAGE_OUTPUTS")
        if event["code"].startswith("DRIVER") and event["ok"]
    ]
    assert [event["trace"]["localEndpoint"]["serviceName"] for event in own] == [
        "update_state",
        "stage_input_files",
        *["stage_output_files"] * 4,
        "update_state",
    ]
    assert {event["trace"]["parentId"] for event in own} == {step["trace"]["id"]}
    assert len({event["trace"]["id"] for event in own}) == len(own)


def test_errors_of_wrong_use(runs: Runs) -> None:
    folder, root = runs.folder, runs.folder / "sim"
    work, state = root / "work" / "DRIVER__Driver_1", root / "work" / "state"
    merge = f"state.txt: {folder}/merge exited with code 1"
    errors = runs.normal["errors"]
    unnamed = "component WORKERS_A_Worker_2 failed in checkpoint: RuntimeError: no checkpoint today"
    blocked = root / "simulation_results" / "blocked"
    target = blocked / "components" / "DRIVER__Driver_1" / "p_late.in"
    assert errors == {
        "input": ["FileNotFoundError", f"No such file : {folder}/elsewhere/missing"],
        "state": ["FileNotFoundError", f"No such file : {state}/missing"],
        "update": ["FileNotFoundError", f"No such file : {work}/missing"],
        "no program": ["FileNotFoundError", "Missing executable file update_state in PATH"],
        "merge": [
            "IPSError",
            f"Error merging update {work}/missing into current plasma state file {merge}",
        ],
        "output": [
            "NotADirectoryError",
            f"[Errno 20] cannot copy {work}/late.in to {target}: Not a directory",
        ],
        "save": ["FileNotFoundError", f"No such file : {work}/missing"],
        "get": ["FileNotFoundError", f"No such file : {root}/restart/2.000/DRIVER__Driver/out.txt"],
        "failing": ["IPSError", unnamed],
        "time stamp": ["ValueError", "time stamp 'soon': expected a number"],
        "checkpoint time": ["ValueError", "time stamp 'soon': expected a number"],
    }
    failed = [event for event in runs.first.events if not event["ok"]]
    own = {event["eventtype"]: event["comment"] for event in failed if "DRIVER" in event["code"]}
    both = "Components = [sim@Worker@2, sim@Worker@3]"
    assert {name: comment for name, comment in own.items() if name != "IPS_CALL_END"} == {
        "IPS_STAGE_INPUTS": f"Files = late* missing Exception raised : {errors['input'][1]}",
        "IPS_STAGE_STATE": f" Exception raised : {errors['state'][1]}",
        "IPS_UPDATE_STATE": f" Exception raised : {errors['update'][1]}",
        "IPS_MERGE_PLASMA_STATE": f" Exception raised : {errors['merge'][1]}",
        "IPS_STAGE_OUTPUTS": f"Files = late.in Exception raised : {errors['output'][1]}",
        "IPS_STAGE_RESTART": f"Files = missing Exception raised : {errors['save'][1]}",
        "IPS_GET_RESTART": f"Files = out.txt Exception raised : {errors['get'][1]}",
        "IPS_CHECKPOINT_END": f"{both} Exception raised : {unnamed}",
    }
    assert "stage_output_files failed\nTraceback" in runs.first.log


def test_sections_that_are_missing(runs: Runs) -> None:
    missing = "'section [CHECKPOINT] is missing'"
    unset = (
        "'STATE_FILES is set neither in [Driver] nor at the top of the simulation file; "
        "STATE_FILES = (empty) if there are none'"
    )
    assert runs.restarted["errors"] == {
        "no STATE_FILES": ["KeyError", unset],
        "no [TIME_LOOP]": ["KeyError", "'section [TIME_LOOP] is missing'"],
        "no [CHECKPOINT]": ["KeyError", missing],
        "nothing to save": ["KeyError", missing],
    }
    assert tree(runs.folder / "again" / "simulation_results") == {
        "3.0/components/DRIVER__Driver_1/p_own.txt",
        "DRIVER__Driver_1/own_3.0.txt",
    }
