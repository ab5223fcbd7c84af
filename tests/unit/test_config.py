"""Simulation and platform files: what they say, and every complaint about them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ips_core.config import (
    ComponentConfig,
    PlatformConfig,
    SimulationConfig,
    overridden,
    read_platform,
    read_simulation,
    read_simulations,
)
from ips_core.errors import ConfigError

SIMULATION = """\
SIM_NAME = sim
SIM_ROOT = $PWD/sim
LOG_FILE = $SIM_ROOT/sim.log
LOG_LEVEL = INFO

[PORTS]
   NAMES = DRIVER WORKER
   [[DRIVER]]
      IMPLEMENTATION = Driver
   [[WORKER]]
      IMPLEMENTATION = Worker

[Driver]
   CLASS = DRIVER
   SUB_CLASS =
   NAME = MyDriver
   SCRIPT = driver.py

[Worker]
   CLASS = WORKERS
   SUB_CLASS = FAST
   NAME = MyWorker
   MODULE = my.worker
   KEY = value
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The launch directory, with a driver in it; the shell's PWD is stale."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", "/elsewhere")
    monkeypatch.setenv("USER", "someone")
    Path("driver.py").touch()
    return tmp_path


@pytest.fixture(autouse=True)
def _launched(here: Path) -> None:
    """Every test runs there."""


def changed(**lines: str) -> str:
    """The simulation with other values for keys, each in every place it is."""
    text = SIMULATION
    for key, value in lines.items():
        text, count = re.subn(rf"(?m)^( *{key} =).*$", lambda m, v=value: f"{m[1]} {v}", text)
        assert count, key
    return text


def without(*keys: str) -> str:
    """The simulation without the first line that sets each key."""
    text = SIMULATION
    for key in keys:
        text, count = re.subn(rf"(?m)^ *{key} =.*\n", "", text, count=1)
        assert count, key
    return text


def read(text: str, platform: PlatformConfig | None = None, file: str = "a.config") -> Any:
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).write_text(text)
    return read_simulation(file, platform or PlatformConfig())


def problems(call: Callable[[], object], file: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        call()
    where, found = caught.value.args
    assert where == file
    prefix = f"{file}: " if file else ""
    assert str(caught.value) == "\n".join(f"{prefix}{problem}" for problem in found)
    return list(found)


def complaints(text: str) -> list[str]:
    return problems(lambda: read(text), "a.config")


# A good simulation file.


def test_whole_simulation_file(here: Path) -> None:
    driver = {"CLASS": "DRIVER", "SUB_CLASS": "", "NAME": "MyDriver", "SCRIPT": "driver.py"}
    worker = {
        "CLASS": "WORKERS",
        "SUB_CLASS": "FAST",
        "NAME": "MyWorker",
        "MODULE": "my.worker",
        "KEY": "value",
    }
    ports = {"DRIVER": "Driver", "WORKER": "Worker"}
    found = read(SIMULATION)
    assert found == SimulationConfig(
        file=str(here / "a.config"),
        name="sim",
        root=str(here / "sim"),
        log_file=str(here / "sim" / "sim.log"),
        log_level="INFO",
        ports=ports,
        components={
            "Driver": ComponentConfig(
                "Driver",
                "DRIVER",
                "",
                "MyDriver",
                str(here / "driver.py"),
                "",
                {"INPUT_DIR": str(here), **driver},
            ),
            "Worker": ComponentConfig(
                "Worker",
                "WORKERS",
                "FAST",
                "MyWorker",
                "",
                "my.worker",
                {"INPUT_DIR": str(here), **worker},
            ),
        },
        values={
            "SIM_NAME": "sim",
            "SIM_ROOT": f"{here}/sim",
            "LOG_FILE": f"{here}/sim/sim.log",
            "LOG_LEVEL": "INFO",
            "SIMULATION_MODE": "NORMAL",
            "PORTS": {
                "NAMES": "DRIVER WORKER",
                **{port: {"IMPLEMENTATION": section} for port, section in ports.items()},
            },
            "Driver": driver,
            "Worker": worker,
        },
        environment=found.environment,
    )


def test_directories_are_named_after_class_and_number() -> None:
    components = read(SIMULATION).components
    assert components["Driver"].full_id(1) == "DRIVER__MyDriver_1"
    assert components["Worker"].full_id(2) == "WORKERS_FAST_MyWorker_2"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain text", "plain text"),
        ("a, b, c", ["a", "b", "c"]),
        ("a,", ["a"]),
        ('"a, b"', "a, b"),
        ('"a, b", c', ["a, b", "c"]),
        ("'say \"x\"'", 'say "x"'),
        ("", ""),
        ("value   # comment", "value"),
        ("$SIM_NAME/x", "sim/x"),
        ("${SIM_NAME}s, $$5", ["sims", "$5"]),
        ("3", "3"),
    ],
)
def test_values_are_texts_and_lists_of_texts(text: str, value: Any) -> None:
    found = read(changed(KEY=text))
    assert found.components["Worker"].values["KEY"] == found.values["Worker"]["KEY"] == value


def test_subsections_are_plain_dicts() -> None:
    text = SIMULATION + "   [[sub]]\n   A = $KEY\n      [[[deeper]]]\n      B = 1, 2\n"
    sub = read(text).components["Worker"].values["sub"]
    assert sub == {"A": "value", "deeper": {"B": ["1", "2"]}}
    assert (type(sub), type(sub["deeper"])) == (dict, dict)


def test_names_are_looked_up_in_file_then_environment_then_platform(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IN_FILE", "IN_ENVIRONMENT"):
        monkeypatch.setenv(name, "environment")
    values = dict.fromkeys(("IN_FILE", "IN_ENVIRONMENT", "IN_PLATFORM"), "platform")
    text = "IN_FILE = file\n" + changed(KEY="$IN_FILE, $IN_ENVIRONMENT, $IN_PLATFORM, $PWD, $CORES")
    found = read(text, PlatformConfig(values=values | {"CORES": 4}))
    assert found.values["Worker"]["KEY"] == ["file", "environment", "platform", str(here), "4"]


def test_environment_and_platform_are_no_values_of_the_file(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IN_ENVIRONMENT", "x")
    found = read(SIMULATION, PlatformConfig(values={"HOST": "y"}))
    assert not {"IN_ENVIRONMENT", "HOST", "PWD"} & set(found.values)
    assert (found.environment["IN_ENVIRONMENT"], found.environment["PWD"]) == ("x", str(here))


def test_dollars_of_launch_directory_and_platform_stand_for_themselves(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = here / "a$x$$"
    folder.mkdir()
    (here / "driver.py").rename(folder / "driver.py")
    monkeypatch.chdir(folder)
    platform = PlatformConfig(values={"TOOLS": "/opt/$TOOLS", "NESTED": "${x}"})
    found = read(changed(KEY="$TOOLS/bin, $SIM_ROOT, $NESTED"), platform)
    assert found.root == f"{folder}/sim"
    assert found.components["Worker"].values["KEY"] == [
        "/opt/$TOOLS/bin",
        f"{folder}/sim",
        "${x}",
    ]


@pytest.mark.parametrize("value", ["() { :; }", "a$b", "{x}"])
def test_odd_variables_of_the_shell_are_ignored(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("ODD", value)
    assert "ODD" not in read(SIMULATION).environment


def test_script_is_found_in_the_launch_directory_first(here: Path) -> None:
    (here / "configs").mkdir()
    for script in ("driver.py", "configs/driver.py"):
        (here / script).touch()
    found = read(SIMULATION, file="configs/a.config")
    assert found.components["Driver"].script == str(here / "driver.py")


def test_script_is_found_beside_the_simulation_file(here: Path) -> None:
    (here / "configs").mkdir()
    (here / "driver.py").rename(here / "configs" / "driver.py")
    component = read(SIMULATION, file="configs/a.config").components["Driver"]
    assert component.script == str(here / "configs" / "driver.py")
    assert component.values["INPUT_DIR"] == str(here / "configs")


def test_components_inherit_directories_but_not_other_keys() -> None:
    top = "INPUT_DIR = /in\nIPS_ROOT = /ips\nBIN_DIR = /bin\nBIN_PATH = /path\nOTHER = x\n"
    components = read(top + SIMULATION + "   BIN_PATH = /own\n").components
    inherited = {"INPUT_DIR": "/in", "IPS_ROOT": "/ips", "BIN_DIR": "/bin", "BIN_PATH": "/path"}
    assert components["Driver"].values.items() >= inherited.items()
    assert components["Worker"].values.items() >= (inherited | {"BIN_PATH": "/own"}).items()
    assert "OTHER" not in components["Driver"].values


@pytest.mark.parametrize("names", ["DRIVER WORKER", "DRIVER, WORKER", '"DRIVER  WORKER"'])
def test_names_of_ports_are_separated_by_blanks_or_commas(names: str) -> None:
    assert list(read(changed(NAMES=names)).ports) == ["DRIVER", "WORKER"]


def test_port_without_a_component_is_left_out() -> None:
    text = SIMULATION.replace("IMPLEMENTATION = Worker", "IMPLEMENTATION =")
    assert read(text).ports == {"DRIVER": "Driver"}


def test_missing_level_is_warning() -> None:
    assert read(without("LOG_LEVEL")).log_level == "WARNING"


def top(**lines: str) -> str:
    """The simulation with more keys at its top level."""
    return "".join(f"{key} = {value}\n" for key, value in lines.items()) + SIMULATION


def section(name: str, **lines: str) -> str:
    """The simulation with another section."""
    return SIMULATION + f"[{name}]\n" + "".join(f"{key} = {lines[key]}\n" for key in lines)


def test_names_are_looked_up_from_the_section_of_the_value_that_is_read() -> None:
    text = "A = top\nB = ${A}_x\n" + changed(KEY="$B\n   A = local")
    found = read(text)
    assert (found.values["B"], found.values["Worker"]["KEY"]) == ("top_x", "local_x")


@pytest.mark.parametrize("key", ["SIM_NAME", "SIM_ROOT", "LOG_FILE"])
def test_required_values_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv(key, "there")
    text = re.sub(rf"(?m)^{key} =.*\n", "", SIMULATION)
    found = read(text.replace("$SIM_ROOT", "."))
    assert "there" in f"{found.name} {found.root} {found.log_file}"
    assert key not in found.values


def test_level_of_the_shell_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "trace")
    assert read(without("LOG_LEVEL")).log_level == "WARNING"
    assert read(without("LOG_LEVEL"), PlatformConfig(values={"LOG_LEVEL": "DEBUG"})).log_level == (
        "DEBUG"
    )


def test_programs_are_in_bin_dir_unless_bin_path_says_where() -> None:
    components = read("BIN_DIR = /bin\n" + SIMULATION + "   BIN_DIR = /own\n").components
    assert {name: each.values["BIN_PATH"] for name, each in components.items()} == {
        "Driver": "/bin",
        "Worker": "/own",
    }


def test_directories_are_inherited_from_environment_and_platform_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BIN_PATH", "/environment")
    platform = PlatformConfig(values={"BIN_PATH": "/platform", "IPS_ROOT": "/platform"})
    values = read(SIMULATION, platform).components["Driver"].values
    assert (values["BIN_PATH"], values["IPS_ROOT"]) == ("/environment", "/platform")


def test_script_is_found_in_bin_dir_last(here: Path) -> None:
    (here / "programs").mkdir()
    (here / "driver.py").rename(here / "programs" / "driver.py")
    found = read(top(BIN_DIR="$PWD/programs")).components["Driver"]
    assert found.script == str(here / "programs" / "driver.py")


@pytest.mark.parametrize(
    ("value", "mode"),
    [("NORMAL", "NORMAL"), ("RESTART", "RESTART"), ("restart", "RESTART"), ("", "NORMAL")],
)
def test_mode(value: str, mode: str) -> None:
    assert read(top(SIMULATION_MODE=value)).values["SIMULATION_MODE"] == mode


@pytest.mark.parametrize(
    ("folders", "latest"),
    [
        (["9.500", "10.000", "2.000", "notes"], "10.000"),
        (["-1.000"], "-1.000"),
        (["0.000"], "0.000"),
    ],
)
def test_latest_restart_is_the_greatest_number(here: Path, folders: list[str], latest: str) -> None:
    for folder in folders:
        (here / "before" / "restart" / folder).mkdir(parents=True)
    text = top(SIMULATION_MODE="RESTART", RESTART_ROOT="$PWD/before", RESTART_TIME="LATEST")
    assert read(text).values["RESTART_TIME"] == latest


@pytest.mark.parametrize(
    "keys",
    [
        {"SIMULATION_MODE": "NORMAL", "RESTART_TIME": "LATEST"},
        {"SIMULATION_MODE": "RESTART", "RESTART_TIME": "3.000"},
        {"SIMULATION_MODE": "RESTART"},
    ],
)
def test_no_restart_files_are_looked_for_otherwise(keys: dict[str, str]) -> None:
    assert read(top(**keys)).values.items() >= keys.items()


@pytest.mark.parametrize(
    ("keys", "file"),
    [
        ({}, ""),
        ({"OUT_REDIRECT": ""}, ""),
        *(({"OUT_REDIRECT": word}, "") for word in ("False", "no", "off", "0")),
        *(({"OUT_REDIRECT": word}, "sim.out") for word in ("True", "1", "anything")),
        ({"OUT_REDIRECT": "True", "OUT_REDIRECT_FNAME": "out/x"}, "out/x"),
        ({"OUT_REDIRECT_FNAME": "out/x"}, ""),
    ],
)
def test_output_of_components(here: Path, keys: dict[str, str], file: str) -> None:
    assert read(top(**keys)).out_redirect == (str(here / file) if file else "")


@pytest.mark.parametrize(
    ("word", "expected"),
    [*((w, False) for w in ("False", "no", "OFF", "0")), *((w, True) for w in ("true", "1", ""))],
)
def test_whether_a_portal_is_used(word: str, expected: bool) -> None:
    assert read(top(USE_PORTAL=word)).use_portal is expected


def test_portal_may_be_that_of_the_platform() -> None:
    platform = PlatformConfig(values={"PORTAL_URL": "http://platform"})
    assert read(SIMULATION, platform).portal_url == "http://platform"
    assert read(top(PORTAL_URL="http://own"), platform).portal_url == "http://own"
    assert (read(SIMULATION).portal_url, read(SIMULATION).use_portal) == ("", True)


@pytest.mark.parametrize(
    "text",
    [
        section("TIME_LOOP", MODE="REGULAR", START="0", FINISH="10**2 + 1.5e1", NSTEP="(4-2)*5"),
        section("TIME_LOOP", MODE="EXPLICIT", VALUES="75.000 76.5 -1e2"),
        section("TIME_LOOP", MODE="EXPLICIT", VALUES="75.000, 76"),
        section("TIME_LOOP"),
        section("TIME_LOOP", MODE="", START="what"),
        section("CHECKPOINT", MODE="ALL", NUM_CHECKPOINT="-1", PROTECT_FREQUENCY="5"),
        section("CHECKPOINT", MODE="WALLTIME_REGULAR", WALLTIME_INTERVAL="1.5"),
        section("CHECKPOINT", MODE="PHYSTIME_EXPLICIT", PHYSTIME_VALUES="1.0 2 3e1"),
        section("CHECKPOINT"),
    ],
)
def test_good_time_loop_and_checkpoint(text: str) -> None:
    assert read(text).name == "sim"


def test_section_of_the_platform_is_no_text() -> None:
    config = changed(KEY="$own")
    Path("a.config").write_text(config)
    found = platform("[own]\nA = x\n")
    assert problems(lambda: read_simulation("a.config", found), "a.config") == [
        "[Worker] KEY: $own is set neither in the file nor in the environment"
    ]


def test_keys_that_nobody_knows_pass_through() -> None:
    found = read(top(MY_KEY="1, 2") + "   YOURS = x\n")
    assert found.values["MY_KEY"] == ["1", "2"]
    assert found.components["Worker"].values["YOURS"] == "x"


#: The launch directory may be the same for all examples: each writes its file anew.
_FAST = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_WORDS = st.text("abcXYZ019_./-+:* ", max_size=12).map(str.strip)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.dictionaries(st.from_regex(r"[A-Z]{3}_[A-Z0-9_]{1,8}", fullmatch=True), _WORDS))
def test_whatever_text_is_quoted_comes_back(keys: dict[str, str]) -> None:
    values = read(top(**{f"ZZ_{key}": f"'{value}'" for key, value in keys.items()})).values
    assert {key: values[f"ZZ_{key}"] for key in keys} == keys


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text("[]=$'\"\\#,{}\n ADEIMNPRSTV", max_size=60), st.integers(0, len(SIMULATION)))
def test_no_text_makes_anything_but_a_simulation_or_complaints(text: str, place: int) -> None:
    with contextlib.suppress(ConfigError):
        read(SIMULATION[:place] + text + SIMULATION[place:])


# Complaints about a simulation file.

EMPTY_DRIVER = "[PORTS] [[DRIVER]] IMPLEMENTATION is empty: nothing would run"
NO_DRIVER = "[PORTS] NAMES has no DRIVER: nothing would run"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (without("SIM_NAME"), ["SIM_NAME is missing"]),
        (without("LOG_FILE"), ["LOG_FILE is missing"]),
        (changed(SIM_NAME=""), ["SIM_NAME is empty"]),
        (changed(LOG_FILE=""), ["LOG_FILE is empty"]),
        (
            changed(LOG_LEVEL="LOUD"),
            ["LOG_LEVEL = LOUD: expected a level of Python's logging, such as INFO"],
        ),
        (
            changed(KEY="x\n   LOG_LEVEL = LOUD"),
            ["[Worker] LOG_LEVEL = LOUD: expected a level of Python's logging, such as INFO"],
        ),
        (
            changed(KEY="x\n   PROCS_PER_NODE = two"),
            ["[Worker] PROCS_PER_NODE = two: expected a whole number"],
        ),
        (
            changed(SIM_NAME="a/b"),
            ["SIM_NAME = a/b: files are named after it, so it cannot have a /"],
        ),
        (changed(NAMES="WORKER"), [NO_DRIVER]),
        (changed(NAMES=""), [NO_DRIVER]),
        (
            changed(NAMES="DRIVER WORKER INIT"),
            [
                "[PORTS] port INIT has no IMPLEMENTATION: add [[INIT]] with "
                "IMPLEMENTATION = the section of a component"
            ],
        ),
        (SIMULATION.replace("IMPLEMENTATION = Driver", "IMPLEMENTATION ="), [EMPTY_DRIVER]),
        (
            SIMULATION.replace("[Worker]", "[Other]"),
            ["[PORTS] names the component Worker, but there is no section [Worker]"],
        ),
        (SIMULATION.partition("[PORTS]")[0], ["section [PORTS] is missing"]),
        (without("CLASS"), ["[Driver] CLASS is missing"]),
        (without("NAME", "CLASS"), ["[Driver] CLASS is missing", "[Driver] NAME is missing"]),
        (without("MODULE"), ["[Worker] needs a SCRIPT (a Python file) or a MODULE"]),
        (
            changed(SCRIPT="/no/driver.py"),
            ["[Driver] SCRIPT = /no/driver.py: there is no such file"],
        ),
        (
            top(SIMULATION_MODE="AGAIN"),
            ["SIMULATION_MODE = AGAIN: expected one of NORMAL, RESTART"],
        ),
        (
            top(SIMULATION_MODE="RESTART", RESTART_TIME="LATEST"),
            ["RESTART_ROOT is missing, which RESTART_TIME = LATEST needs"],
        ),
        (
            top(SIMULATION_MODE="RESTART", RESTART_TIME="LATEST", RESTART_ROOT="/no"),
            [
                "RESTART_TIME = LATEST: there are no restart files in /no/restart; "
                "is RESTART_ROOT the SIM_ROOT of the run before?"
            ],
        ),
        (
            top(USE_PORTAL="perhaps"),
            [
                "USE_PORTAL = perhaps: expected one of true, yes, on, 1, false, no, off, 0",
            ],
        ),
        (
            top(NODE_ALLOCATION_MODE="mine"),
            ["NODE_ALLOCATION_MODE = mine: expected one of EXCLUSIVE, SHARED"],
        ),
        (
            changed(KEY="x\n   NODE_ALLOCATION_MODE = mine\n   CPUS_PER_PROC = -1"),
            [
                "[Worker] NODE_ALLOCATION_MODE = mine: expected one of EXCLUSIVE, SHARED",
                "[Worker] CPUS_PER_PROC = -1: expected a whole number",
            ],
        ),
        (
            section("TIME_LOOP", MODE="Regular"),
            ["[TIME_LOOP] MODE = Regular: expected one of REGULAR, EXPLICIT"],
        ),
        (
            section("TIME_LOOP", MODE="REGULAR", START="0", FINISH="exit()"),
            [
                "[TIME_LOOP] FINISH = exit(): expected a number, or arithmetic of some",
                "[TIME_LOOP] NSTEP is missing",
            ],
        ),
        (
            section("TIME_LOOP", MODE="EXPLICIT", VALUES="1 b True"),
            [
                "[TIME_LOOP] VALUES has b: expected numbers",
                "[TIME_LOOP] VALUES has True: expected numbers",
            ],
        ),
        (
            section("TIME_LOOP", MODE="EXPLICIT"),
            ["[TIME_LOOP] VALUES is missing, which MODE = EXPLICIT needs"],
        ),
        (
            section("CHECKPOINT", MODE="SOMETIMES", NUM_CHECKPOINT="many"),
            [
                "[CHECKPOINT] MODE = SOMETIMES: expected one of ALL, WALLTIME_REGULAR, "
                "WALLTIME_EXPLICIT, PHYSTIME_REGULAR, PHYSTIME_EXPLICIT",
                "[CHECKPOINT] NUM_CHECKPOINT = many: expected a whole number",
            ],
        ),
        (
            section("CHECKPOINT", MODE="WALLTIME_REGULAR"),
            ["[CHECKPOINT] WALLTIME_INTERVAL is missing, which MODE = WALLTIME_REGULAR needs"],
        ),
        (
            section("CHECKPOINT", MODE="PHYSTIME_EXPLICIT", PHYSTIME_VALUES="1, x"),
            ["[CHECKPOINT] PHYSTIME_VALUES has x: expected numbers"],
        ),
        (SIMULATION + "   KEY = again\n", ["Duplicate keyword name at line 25."]),
        (
            SIMULATION + "[Bad\n",
            [
                "Invalid line ('[Bad') (matched as neither section nor keyword) at line 25.",
            ],
        ),
    ],
)
def test_problem_is_named(text: str, expected: list[str]) -> None:
    assert complaints(text) == expected


def test_all_problems_are_reported_at_once(here: Path) -> None:
    (here / "driver.py").unlink()
    text = changed(LOG_LEVEL="LOUD", SIM_NAME="", NAMES="DRIVER WORKER INIT", MODULE="")
    assert complaints(text) == [
        "SIM_NAME is empty",
        "LOG_LEVEL = LOUD: expected a level of Python's logging, such as INFO",
        "[PORTS] port INIT has no IMPLEMENTATION: add [[INIT]] with "
        "IMPLEMENTATION = the section of a component",
        f"[Driver] SCRIPT = {here}/driver.py: there is no such file",
        "[Worker] needs a SCRIPT (a Python file) or a MODULE",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (changed(KEY="$NOPE"), [("[Worker] KEY", "NOPE")]),
        (changed(KEY="a, $NOPE/x"), [("[Worker] KEY", "NOPE")]),
        ("TOP = $NOPE/x\n" + SIMULATION, [("TOP", "NOPE")]),
        (changed(LOG_FILE="$NOPE/x"), [("LOG_FILE", "NOPE")]),
        (changed(LOG_LEVEL="$NOPE", SIM_NAME=""), [("LOG_LEVEL", "NOPE")]),
        (
            SIMULATION.replace("IMPLEMENTATION = Worker", "IMPLEMENTATION = $NOPE"),
            [("[WORKER] IMPLEMENTATION", "NOPE")],
        ),
        (
            changed(KEY="$NOPE\n   OTHER = a, $NADA"),
            [("[Worker] KEY", "NOPE"), ("[Worker] OTHER", "NADA")],
        ),
        (changed(KEY="$KEY"), [("[Worker] KEY", "loop")]),
        ("LIST = a, b\n" + changed(KEY="$LIST"), [("[Worker] KEY", "a list")]),
    ],
    ids=[
        *("component", "in a list", "top level", "needed", "beside an empty key", "port"),
        *("two of a section", "loop", "list"),
    ],
)
def test_name_that_cannot_be_replaced_is_the_only_complaint(
    text: str, expected: list[tuple[str, str]]
) -> None:
    found = complaints(text)
    assert len(found) == len(expected)
    for problem, (where, what) in zip(found, expected, strict=True):
        assert problem.startswith(where)
        assert what in problem


@pytest.mark.parametrize(
    "key",
    [
        *("SIM_NAME", "SIM_ROOT", "LOG_FILE", "LOG_LEVEL", "IMPLEMENTATION"),
        *("CLASS", "SUB_CLASS", "NAME", "SCRIPT", "MODULE"),
    ],
)
def test_list_where_one_value_belongs_is_a_problem_that_names_the_key(key: str) -> None:
    """An unquoted comma in a name or a path."""
    assert any(key in problem for problem in complaints(changed(**{key: "a, b"})))


def test_section_where_one_value_belongs_is_a_problem_that_names_the_key() -> None:
    text = without("SCRIPT").replace("[Worker]", "[[SCRIPT]]\n[Worker]")
    assert any("[Driver] SCRIPT" in problem for problem in complaints(text))


def test_section_behind_two_ports_is_complained_about_once() -> None:
    text = without("CLASS").replace("IMPLEMENTATION = Worker", "IMPLEMENTATION = Driver")
    assert complaints(text) == ["[Driver] CLASS is missing"]


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("missing.config", "there is no such file"),
        ("folder", "this is a directory"),
        ("latin1.config", "UTF-8"),
    ],
)
@pytest.mark.parametrize(
    "reader", [read_platform, lambda file: read_simulation(file, PlatformConfig())]
)
def test_file_that_cannot_be_read_is_named(
    reader: Callable[[str], object], file: str, words: str
) -> None:
    Path("folder").mkdir()
    Path("latin1.config").write_bytes(b"SIM_NAME = \xff\n")
    (problem,) = problems(lambda: reader(file), file)
    assert words in problem


# Several simulation files.


def write(**files: str) -> list[str]:
    for name, text in files.items():
        Path(f"{name}.config").write_text(text)
    return [f"{name}.config" for name in files]


def named(name: str) -> str:
    return changed(SIM_NAME=name, SIM_ROOT=f"$PWD/{name}")


def test_several_simulations_in_their_order() -> None:
    found = read_simulations(write(b=named("b"), a=named("a")), PlatformConfig())
    assert [simulation.name for simulation in found] == ["b", "a"]


def test_one_file_as_a_text() -> None:
    (file,) = write(a=named("a"))
    assert [each.name for each in read_simulations(file, PlatformConfig())] == ["a"]


def test_file_that_is_named_twice_is_read_once(caplog: pytest.LogCaptureFixture) -> None:
    files = [*write(a=named("a"), b=named("b")), "./a.config"]
    found = read_simulations(files, PlatformConfig())
    assert [simulation.name for simulation in found] == ["a", "b"]
    assert caplog.messages == ["./a.config is named twice: it runs once"]


def test_no_file_is_a_problem() -> None:
    assert problems(lambda: read_simulations([], PlatformConfig()), "") == [
        "no simulation file is named"
    ]


def test_problems_of_all_files_are_reported_at_once() -> None:
    files = [*write(a=without("CLASS"), b=named("b"), c=without("SIM_NAME", "LOG_FILE")), "d"]
    assert problems(lambda: read_simulations(files, PlatformConfig()), "") == [
        "a.config: [Driver] CLASS is missing",
        "c.config: SIM_NAME is missing",
        "c.config: LOG_FILE is missing",
        "d: there is no such file",
    ]


def test_problem_of_one_file_is_that_of_the_file_alone() -> None:
    files = write(a=without("CLASS"), b=named("b"))
    assert problems(lambda: read_simulations(files, PlatformConfig()), "a.config") == [
        "[Driver] CLASS is missing"
    ]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("SIM_NAME", changed(SIM_NAME="a", SIM_ROOT="$PWD/b")),
        ("SIM_ROOT", changed(SIM_NAME="b", SIM_ROOT="$PWD/b/../a", LOG_FILE="b.log")),
        ("SIM_ROOT", changed(SIM_NAME="b", SIM_ROOT="$PWD/link", LOG_FILE="b.log")),
        ("LOG_FILE", changed(SIM_NAME="b", SIM_ROOT="$PWD/b", LOG_FILE="./a/sim.log")),
    ],
)
def test_simulations_side_by_side_share_nothing(here: Path, key: str, text: str) -> None:
    (here / "link").symlink_to("a")
    files = write(a=named("a"), b=text)
    (problem,) = problems(lambda: read_simulations(files, PlatformConfig()), "")
    assert problem.startswith(f"{here}/b.config: {key} = ")
    assert problem.endswith(
        f" is that of {here}/a.config too: simulations that run side by side need their own"
    )


def test_only_sub_workflows_are_named_after_two_simulations(here: Path) -> None:
    files = write(a=changed(SIM_NAME="a::b", SIM_ROOT="$PWD/a"))
    assert problems(lambda: read_simulations(files, PlatformConfig()), f"{here}/a.config") == [
        "SIM_NAME = a::b: only sub-workflows have :: in it"
    ]


# What simulation files say of the machine.


def test_simulation_files_say_what_the_machine_is_like() -> None:
    own = top(NODES="2", MPIRUN="eval", NODE_ALLOCATION_MODE="shared", OTHER="x")
    found = overridden(platform(PLATFORM), [read(own), read(top(NODES="3"))])
    assert (found.mpirun, found.allocation_mode) == ("eval", "SHARED")
    assert [found.number(key) for key in ("NODES", "CORES_PER_NODE")] == [3, 64]
    assert "OTHER" not in found.values


def test_simulation_file_without_such_keys_changes_nothing() -> None:
    before = platform(PLATFORM)
    assert overridden(before, [read(SIMULATION)]) == before


def test_what_makes_no_sense_of_the_machine_is_the_simulation_files_problem(here: Path) -> None:
    config = read(top(NODES="two", CORES_PER_NODE="3", SOCKETS_PER_NODE="2"))
    assert problems(lambda: overridden(PlatformConfig(), [config]), str(here / "a.config")) == [
        "NODES = two: expected a whole number, 0 or more",
        "SOCKETS_PER_NODE = 2: expected a divisor of CORES_PER_NODE = 3",
    ]


# The platform file.

PLATFORM = """\
HOST = perlmutter
MPIRUN = srun
NODES = 4
CORES_PER_NODE = 64
PROCS_PER_NODE =
NODE_ALLOCATION_MODE = exclusive
EXTRA = $HOST, b
"""

DEFAULTS = {
    "CORES_PER_NODE": 0,
    "SOCKETS_PER_NODE": 0,
    "PROCS_PER_NODE": 0,
    "NODES": 0,
    "TOTAL_PROCS": 0,
    "GPUS_PER_NODE": 0,
    "MPIRUN_VERSION": "OpenMPI-generic",
    "USER": "someone",
    "HOST": os.uname().nodename,
    "USE_ACCURATE_NODES": True,
}


def platform(text: str) -> PlatformConfig:
    Path("platform.conf").write_text(text)
    return read_platform("platform.conf")


def test_whole_platform_file() -> None:
    found = platform(PLATFORM)
    assert found == PlatformConfig(
        "platform.conf",
        "srun",
        {
            **DEFAULTS,
            "HOST": "perlmutter",
            "MPIRUN": "srun",
            "NODES": 4,
            "CORES_PER_NODE": 64,
            "NODE_ALLOCATION_MODE": "exclusive",
            "EXTRA": ["perlmutter", "b"],
        },
        allocation_mode="EXCLUSIVE",
    )
    assert [found.number(key) for key in ("NODES", "PROCS_PER_NODE", "GPUS_PER_NODE")] == [4, 0, 0]


def test_no_platform_file_is_one_of_defaults() -> None:
    assert read_platform(None) == PlatformConfig("", None, DEFAULTS)


def test_empty_launcher_is_none() -> None:
    assert platform("MPIRUN =\n").mpirun is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NODES = many\n", ["NODES = many: expected a whole number, 0 or more"]),
        ("NODES = 1.5\n", ["NODES = 1.5: expected a whole number, 0 or more"]),
        ("MPIRUN = ssh\n", ["MPIRUN = ssh: expected one of eval, srun, mpirun, mpiexec"]),
        ("HOST = $NOPE\n", ["HOST: $NOPE is set neither in the file nor in the environment"]),
        (
            "NODES = x\nMPIRUN = ssh\nSOCKETS_PER_NODE = y\n",
            [
                "SOCKETS_PER_NODE = y: expected a whole number, 0 or more",
                "NODES = x: expected a whole number, 0 or more",
                "MPIRUN = ssh: expected one of eval, srun, mpirun, mpiexec",
            ],
        ),
        ("NODES = -1\n", ["NODES = -1: expected a whole number, 0 or more"]),
        (
            "CORES_PER_NODE = 4\nSOCKETS_PER_NODE = 8\n",
            ["SOCKETS_PER_NODE = 8: expected a divisor of CORES_PER_NODE = 4"],
        ),
        (
            "NODE_ALLOCATION_MODE = mine\n",
            ["NODE_ALLOCATION_MODE = mine: expected one of EXCLUSIVE, SHARED"],
        ),
        *(
            (
                f"NODE_DETECTION = {word}\n",
                [
                    f"NODE_DETECTION = {word}: the nodes of a job are asked of Slurm only; "
                    "use slurm_env, or manual with NODES and PROCS_PER_NODE"
                ],
            )
            for word in ("pbs_env", "qstat", "qstat2", "checkjob")
        ),
        ("NODE_DETECTION = x\n", ["NODE_DETECTION = x: expected one of manual, slurm_env"]),
        ("HOST = a, b\n", ["HOST = a, b: expected one value; quote it if it has a comma"]),
        ("HOST = a\nHOST = b\n", ["Duplicate keyword name at line 2."]),
    ],
)
def test_problem_of_a_platform_file_is_named(text: str, expected: list[str]) -> None:
    assert problems(lambda: platform(text), "platform.conf") == expected


def test_platform_file_sees_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLS", "/tools")
    found = platform("PHYS_BIN = $TOOLS/bin\n[own]\nA = $PHYS_BIN/x\n").values
    assert (found["PHYS_BIN"], found["own"]) == ("/tools/bin", {"A": "/tools/bin/x"})
    assert type(found["own"]) is dict
    assert "TOOLS" not in found


@pytest.mark.parametrize(
    ("word", "accurate"), [("", True), ("ON", True), ("off", False), ("False", False)]
)
def test_whether_names_of_nodes_are_accurate_is_a_truth_value(word: str, accurate: bool) -> None:
    assert platform(f"USE_ACCURATE_NODES = {word}\n").values["USE_ACCURATE_NODES"] is accurate


@pytest.mark.parametrize("word", ["manual", "slurm_env", ""])
def test_how_nodes_are_found(word: str) -> None:
    assert platform(f"NODE_DETECTION = {word}\n").node_detection == word


@pytest.mark.parametrize("text", ["NODES = 1, 2\n", "[NODES]\nA = 1\n"], ids=["list", "section"])
def test_number_that_is_a_list_or_a_section_is_a_problem(text: str) -> None:
    (problem,) = problems(lambda: platform(text), "platform.conf")
    assert problem.startswith("NODES")
    assert problem.endswith("expected a whole number, 0 or more")
