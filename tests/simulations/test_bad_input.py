"""What a user writes wrongly is told in one sentence that names it; nobody sees a traceback."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

FINE = 'print("fine")'


def complaints(outcome: Any, code: int = 1) -> list[str]:
    """The sentences on stderr, without the name of the program."""
    assert outcome.code == code, outcome
    lines = outcome.stderr.splitlines()
    assert all(line.startswith("ips.py: ") for line in lines), outcome.stderr
    return [line.removeprefix("ips.py: ") for line in lines]


# Before anything runs.


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("      IMPLEMENTATION = Driver\n", "", "[PORTS] port DRIVER has no IMPLEMENTATION"),
        (
            "IMPLEMENTATION = Driver",
            "IMPLEMENTATION =",
            "[PORTS] [[DRIVER]] IMPLEMENTATION is empty",
        ),
        ("IMPLEMENTATION = Driver", "IMPLEMENTATION = a, b", "IMPLEMENTATION = a, b: expected one"),
        ("NAMES = DRIVER", "NAMES =", "[PORTS] NAMES has no DRIVER"),
        ("CLASS = DRIVER", "", "[Driver] CLASS is missing"),
        ("NAME = Driver", "NAME =", "[Driver] NAME is empty"),
        ("$PWD/driver.py", "$PWD/no.py", "[Driver] SCRIPT = {folder}/no.py: there is no such file"),
        ("$PWD/driver.py", "$PWD/a,b.py", "[Driver] SCRIPT = {folder}/a, b.py: expected one value"),
        ("$PWD/driver.py", "$NOPE/driver.py", "[Driver] SCRIPT: $NOPE is set neither"),
        ("$PWD/sim", "$NOPE/sim", "SIM_ROOT: $NOPE is set neither in the file nor in the env"),
        ("$PWD/sim", "$PWD/driver.py/x", "cannot set up SIM_ROOT: [Errno 20] Not a directory: "),
        ("$SIM_ROOT/sim.log", "driver.py/x", "cannot write LOG_FILE: "),
        ("LOG_FILE = $SIM_ROOT/sim.log", "", "LOG_FILE is missing"),
        ("LOG_LEVEL = INFO", "LOG_LEVEL = LOUD", "LOG_LEVEL = LOUD: expected a level of Python"),
        ("SUB_CLASS =", "LOG_LEVEL = LOUD", "[Driver] LOG_LEVEL = LOUD: expected a level of"),
        ("SUB_CLASS =", "PROCS_PER_NODE = two", "[Driver] PROCS_PER_NODE = two: expected a whole"),
        ("SIM_NAME = sim", "SIM_NAME = a/b", "SIM_NAME = a/b: files are named after it"),
        ("SIM_NAME = sim", "SIM_NAME = sim\nSIMULATION_MODE = AGAIN", "SIMULATION_MODE = AGAIN: "),
        ("[Worker]", "[TIME_LOOP]\nMODE = X\n[Worker]", "[TIME_LOOP] MODE = X: expected one of"),
        ("[Worker]", "[Worker", "Invalid line ('[Worker') (matched as neither section nor"),
    ],
)
def test_simulation_file(simulation: Any, old: str, new: str, expected: str) -> None:
    outcome = simulation.write(FINE).edit(old, new).run()
    (complaint,) = complaints(outcome)
    assert complaint.removeprefix(f"{simulation.folder}/").startswith("sim.config: ")
    assert expected.format(folder=simulation.folder) in complaint
    assert len(outcome.stdout.splitlines()) <= 1  # "Starting IPS"
    assert outcome.events == []


def test_check_tells_what_a_run_would_without_running(simulation: Any) -> None:
    simulation.write('raise SystemExit("executed")\nclass Driver(Wrong): ...')
    driver = simulation.folder / "driver.py"
    driver.write_text(driver.read_text().replace("class Driver", "class Other"))
    done = subprocess.run(
        [sys.executable, "-m", "ips_core", "check", simulation.config],
        cwd=simulation.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    problem = f"[Driver] {driver}: there is no class Driver, which is the component's NAME"
    assert (done.returncode, done.stderr) == (1, f"ips.py: sim.config: {problem}\n")
    assert f"work directory  {simulation.root}/work/DRIVER__Driver_1" in done.stdout
    assert not simulation.root.exists()


def test_each_problem_has_its_sentence(simulation: Any) -> None:
    simulation.write(FINE).edit("CLASS = DRIVER", "").edit("NAME = Driver", "").edit("INFO", "LOUD")
    assert complaints(simulation.run()) == [
        "sim.config: LOG_LEVEL = LOUD: expected a level of Python's logging, such as INFO",
        "sim.config: [Driver] CLASS is missing",
        "sim.config: [Driver] NAME is missing",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "there is no such file"),
        ("directory", "this is a directory"),
        (bytes(range(256)), "this is no text file (in UTF-8)"),
    ],
    ids=["missing", "directory", "garbage"],
)
@pytest.mark.parametrize("which", ["config", "platform"])
def test_file_that_cannot_be_read(
    simulation: Any, which: str, content: str | bytes | None, expected: str
) -> None:
    simulation.write(FINE)
    file = simulation.folder / "the file"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content:
        file.mkdir()
    arguments = {"config": file.name} if which == "config" else {}
    outcome = simulation.run(
        *(("--platform", file.name) if which == "platform" else ()), **arguments
    )
    assert complaints(outcome) == [f"the file: {expected}"]


def test_platform_file(simulation: Any) -> None:
    text = "CORES_PER_NODE = 4\nSOCKETS_PER_NODE = 3\nNODE_DETECTION = qstat\nNODES = $NOPE\n"
    file = simulation.write(FINE).folder / "platform.conf"
    file.write_text(text)
    assert complaints(simulation.run("--platform", file.name)) == [
        "platform.conf: NODES: $NOPE is set neither in the file nor in the environment",
        "platform.conf: SOCKETS_PER_NODE = 3: expected a divisor of CORES_PER_NODE = 4",
        "platform.conf: NODE_DETECTION = qstat: the nodes of a job are asked of Slurm only; "
        "use slurm_env, or manual with NODES and PROCS_PER_NODE",
    ]


def test_launcher_of_a_job_outside_of_one(simulation: Any) -> None:
    (simulation.write(FINE).folder / "platform.conf").write_text("MPIRUN = srun\n")
    assert complaints(simulation.run("--platform", "platform.conf")) == [
        "platform.conf: MPIRUN = srun, but this is no Slurm job: run it inside salloc or sbatch"
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--nope"], "unrecognized arguments: --nope"),
        (["--clone=x"], "--clone is no option any more: copy the simulation's files, and give the"),
        (["--nodes", "0"], "argument --nodes/-n: expected a number of 1 or more, not '0'"),
        (["--ppn", "x"], "argument --ppn/-o: expected a number of 1 or more, not 'x'"),
        (["--log", "driver.py/x"], "argument --log/-l: cannot write driver.py/x: Not a directory"),
    ],
)
def test_command_line(simulation: Any, arguments: list[str], expected: str) -> None:
    outcome = simulation.write(FINE).run(*arguments)
    assert outcome.code == 2
    usage, _, complaint = outcome.stderr.rpartition("ips.py: error: ")
    assert usage.startswith("usage: ips.py ")
    assert complaint.startswith(expected)
    assert complaint.count("\n") == 1


# Scripts.


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("class Driver(:\n    pass\n", "{script}, line 1: invalid syntax"),
        (
            "import os\n",
            "{script}: the class Driver, which is NAME of section [Driver], is not there",
        ),
        (
            "class Driver():\n    pass\n",
            "{script}: the class Driver, which is NAME of section [Driver], "
            "is not derived from Component",
        ),
        ("import nope\nclass Driver(): ...\n", "ModuleNotFoundError: No module named 'nope'"),
        ("import sys\nsys.exit('no')\nclass Driver(): ...\n", "it called sys.exit('no')"),
    ],
    ids=["syntax", "no class", "no component", "import", "exit"],
)
def test_script(simulation: Any, script: str, expected: str) -> None:
    simulation.write(FINE)
    file = simulation.folder / "driver.py"
    file.write_text(script)
    outcome = simulation.run()
    assert complaints(outcome) == [
        "component DRIVER__Driver_1 failed in constructor: " + expected.format(script=file),
        f"more in {simulation.root / 'sim.log'}",
    ]
    assert "Traceback (most recent call last)" in outcome.log


def test_files_may_be_where_the_simulation_would_copy_them(simulation: Any) -> None:
    simulation.write(FINE).edit("SIM_ROOT = $PWD/sim", "SIM_ROOT = $PWD/link")
    (simulation.folder / "link").symlink_to(simulation.folder)
    outcome = simulation.run()
    assert outcome.stderr == ""
    assert outcome.code == 0


# What a component asks of a pool.


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ('add("no-such-program")', "task t of pool pool: Program no-such-program is not in path"),
        ('add("it\'s")', 'task t: binary = "it\'s": expected each quote to be closed'),
        ('add("true", tmeout=3)', "task t: unknown keyword tmeout; did you mean timeout?"),
        ('add("true", timeout="soon")', "task t: timeout = 'soon': expected a number of seconds"),
        ("add(len)", "task t: len() cannot be called so: missing a required argument: 'obj'"),
        ("submit(dask_nodes=3)", "pool pool: dask_nodes = 3, but there are only 2"),
        (
            "submit(use_shifter=True)",
            "pool pool: use_shifter=True, but shifter is not on PATH",
        ),
        ('services.get_finished_tasks("loop")', "KeyError: 'no task pool loop'"),
        ('services.get_port("WORKER")', "KeyError: 'no port WORKER; there are DRIVER'"),
    ],
)
def test_pool(simulation: Any, statement: str, expected: str) -> None:
    simulation.write(
        f"""
        from functools import partial

        services.create_task_pool("pool")
        add = partial(services.add_task, "pool", "t", 1, cwd)
        submit = partial(services.submit_tasks, "pool", use_dask=True)
        {statement}
        """
    )
    outcome = simulation.run("--nodes", "2")
    complaint, more = complaints(outcome)
    assert complaint.startswith(f"component DRIVER__Driver_1 failed in step: {expected}")
    assert more == f"more in {simulation.root / 'sim.log'}"
    assert not outcome.of_type("IPS_LAUNCH_TASK")
