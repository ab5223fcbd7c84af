"""What tasks get, what they give back, where they run, and when one hears of them."""

from __future__ import annotations

import json
import stat
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.versions

#: Arguments that a shell, or a split on blanks, would not leave alone.
NASTY = ["a  b", "it's", 'say "hi"', "", "$HOME", "`id`", "two\nlines", "*", "\\", "--x=1", "ä"]

DRIVER = """
from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from ipsframework import Component


GREETING = {"GREETING": "hi  there"}


class Plain:
    def __init__(self, number):
        self.number = number


@dataclass
class Point:
    x: int
    y: float = 0.0


def give(*args, **kwargs):
    return args, kwargs


def named(timeout, tag):
    return timeout, tag


def double(plain):
    return Plain(2 * plain.number)


def mirror(point: Point) -> Point:
    return Point(-point.x, point.y)


def running(pid):
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Driver(Component):
    def init(self, timestamp=0.0, **keywords):
        self.offset = 40

    def method(self, number, by=1):
        return self.offset + number * by, self.FACTOR, self.services is None

    def step(self, timestamp=0.0, **keywords):
        cwd = self.services.get_working_dir()
        other = Path("other place")
        other.mkdir()
        Path("beside").symlink_to(shutil.which("true"))
        nasty = json.loads(Path("../../../nasty.json").read_text())

        def add(name, *args, **keywords):
            self.services.add_task("pool", name, 1, cwd, *args, **keywords)

        self.services.create_task_pool("pool")
        add("argv", "../../../my programs/write argv", "argv.json", *nasty, 3, None, 2.5)
        add("give", give, 3, None, {"a": [1.5]}, "x  y", key=4, other={5})
        add("named", named, timeout=3, tag="t")
        add("double", double, Plain(21))
        add("mirror", mirror, Point(1, 2.5))
        add("method", self.method, 1, by=2)
        add("env", "sh", "-c", 'echo "$GREETING"', task_env=GREETING, logfile="env.log")
        add("words", "sh -c 'exit 5'")
        add("apart", "sh", "-c", "echo out; echo err >&2", logfile="logs/out", errfile="logs/err")
        add("joined", "sh", "-c", "echo err >&2; echo out", logfile="joined")
        add("worker's", "sh", "-c", "echo to the screen >&2")
        self.services.add_task("pool", "place", 1, other, "sh", "-c", "pwd > where; exit 7")
        self.services.add_task("pool", "beside", 1, other, "./beside")
        add("late", "sh", "-c", "echo $$ > pids; sleep 300 & echo $! >> pids; wait", timeout=1)
        self.services.submit_tasks("pool", use_dask=True)
        values = self.services.get_finished_tasks("pool")

        deadline = time.monotonic() + 5
        pids = Path("pids").read_text().split()
        while any(running(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.02)
        facts = {
            "order": list(values),
            "codes": {name: code for name, code in values.items() if isinstance(code, int)},
            "give": values["give"] == ((3, None, {"a": [1.5]}, "x  y"), {"key": 4, "other": {5}}),
            "named": values["named"],
            "double": type(values["double"]) is Plain and values["double"].number == 42,
            "mirror": values["mirror"] == Point(-1, 2.5),
            "method": values["method"],
            "alive": [pid for pid in pids if running(pid)],
        }
        print(json.dumps(facts))
"""

ARGV = f"""#!{sys.executable}
import json, sys
with open(sys.argv[1], "w") as file:
    json.dump(sys.argv[2:], file)
"""


@pytest.fixture
def tasks(simulation: Any, once: Callable[..., Any]) -> Any:
    """One pool of all kinds of tasks: the outcome, what the driver found, its work directory."""

    def run() -> Any:
        simulation.write(DRIVER).edit("NAME = Driver", "NAME = Driver\n   FACTOR = 2")
        program = simulation.folder / "my programs" / "write argv"
        program.parent.mkdir()
        program.write_text(ARGV)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        (simulation.folder / "nasty.json").write_text(json.dumps(NASTY))
        outcome = simulation.run()
        assert outcome.stderr == ""
        assert outcome.code == 0
        facts = json.loads(outcome.stdout.splitlines()[-1])
        return outcome, facts, simulation.root / "work" / "DRIVER__Driver_1"

    return once("tasks", run)


def test_a_binary_gets_its_arguments_untouched(tasks: Any) -> None:
    _, facts, work = tasks
    assert facts["codes"]["argv"] == 0
    assert json.loads((work / "argv.json").read_text()) == [*NASTY, "3", "None", "2.5"]


def test_a_function_gets_its_arguments_as_they_are(tasks: Any) -> None:
    _, facts, _ = tasks
    assert facts["give"]
    assert facts["named"] == [3, "t"]


def test_classes_of_the_script_go_to_a_task_and_come_back(tasks: Any) -> None:
    _, facts, _ = tasks
    assert facts["double"]
    assert facts["mirror"]


def test_a_method_sees_its_component_but_no_services(tasks: Any) -> None:
    _, facts, _ = tasks
    assert facts["method"] == [42, "2", True]


def test_environment_and_output_files(tasks: Any) -> None:
    _, _, work = tasks
    assert (work / "env.log").read_text() == "hi  there\n"
    assert (work / "logs" / "out").read_text() == "out\n"
    assert (work / "logs" / "err").read_text() == "err\n"
    assert (work / "joined").read_text() == "err\nout\n"


def test_stderr_of_a_binary_is_seen_on_the_screen(tasks: Any) -> None:
    outcome, _, _ = tasks
    assert "to the screen" in outcome.stdout.splitlines()


def test_a_binary_runs_in_its_working_directory(tasks: Any) -> None:
    _, facts, work = tasks
    assert (work / "other place" / "where").read_text() == f"{work / 'other place'}\n"
    assert facts["codes"]["place"] == 7


def test_a_binary_may_bring_arguments(tasks: Any) -> None:
    _, facts, _ = tasks
    assert facts["codes"]["words"] == 5


def test_a_relative_path_is_that_of_the_component_wherever_the_binary_runs(tasks: Any) -> None:
    _, facts, _ = tasks
    assert facts["codes"]["beside"] == 0


def test_a_late_binary_ends_with_all_it_started(tasks: Any) -> None:
    outcome, facts, _ = tasks
    assert facts["codes"]["late"] == -1
    assert facts["alive"] == []
    (end,) = [e for e in outcome.of_type("IPS_TASK_END") if e["task_name"] == "late"]
    assert end["ok"] is False
    assert end["exit_status"] == -1
    assert end["error"] == "timed out after 1 s"
    assert 1 <= end["elapsed_time"] < 5
    assert end["comment"] == f"task_name = late, timed-out after {end['elapsed_time']:.2f}s"


def test_results_come_in_the_order_of_adding(tasks: Any) -> None:
    outcome, facts, _ = tasks
    assert facts["order"] == [
        *("argv", "give", "named", "double", "mirror", "method", "env", "words", "apart"),
        *("joined", "worker's", "place", "beside", "late"),
    ]
    assert set(facts["order"]) == {e["task_name"] for e in outcome.of_type("IPS_LAUNCH_DASK_TASK")}


def test_four_nodes(simulation: Any) -> None:
    simulation.write(
        """
        services.create_task_pool("pool")
        for number in range(16):
            services.add_task("pool", f"t{number}", 1, cwd, "sleep", 0.3)
        services.submit_tasks("pool", use_dask=True, dask_nodes=4)
        print(list(services.get_finished_tasks("pool").items()))
        """
    )
    outcome = simulation.run("--nodes", "4")
    assert outcome.stderr == ""
    assert outcome.code == 0
    names = [f"t{number}" for number in range(16)]
    assert outcome.stdout.splitlines()[1:] == [str([(name, 0) for name in names])]
    assert outcome.events[1]["comment"].startswith("Nodes = 4   PPN = ")
    (step,) = outcome.of_type("IPS_LAUNCH_TASK")
    assert " nproc = 4 " in step["comment"]
    tasks = [e for e in outcome.of_type("IPS_LAUNCH_DASK_TASK", "IPS_TASK_END") if "host" in e]
    assert len({event["host"] for event in tasks}) == 4
    assert len({event["worker"] for event in tasks}) == 4
    for name in names:
        begin, end = (event for event in tasks if event["task_name"] == name)
        assert begin["eventtype"] == "IPS_LAUNCH_DASK_TASK"
        assert end["eventtype"] == "IPS_TASK_END"
        assert begin["worker"] == end["worker"]
        assert begin["host"] == end["host"]


def test_a_start_is_in_the_log_and_a_print_on_the_screen_while_the_task_runs(
    simulation: Any, wait_until: Callable[..., Any]
) -> None:
    simulation.write(
        """
        def long(folder):
            print("the task speaks")
            while not os.path.exists(os.path.join(folder, "go")):
                time.sleep(0.02)
            return "done"

        services.create_task_pool("pool")
        services.add_task("pool", "long", 1, cwd, long, cwd)
        services.submit_tasks("pool", use_dask=True)
        print("submitted")
        print(services.get_finished_tasks("pool"))
        """
    )
    running = simulation.start()
    wait_until(lambda: running.launched(1), 30, "the start of the task in the log")
    seen = time.time()
    (launch,) = [e for e in simulation.events() if e["eventtype"] == "IPS_LAUNCH_DASK_TASK"]
    assert launch["task_name"] == "long"
    assert seen - launch["start_time"] < 1
    wait_until(lambda: "the task speaks\n" in running.stdout, 5, "what the task prints")
    assert "submitted\n" in running.stdout
    assert simulation.events()[-1]["eventtype"] == "IPS_LAUNCH_DASK_TASK"
    (simulation.root / "work" / "DRIVER__Driver_1" / "go").touch()
    outcome = running.finish()
    assert outcome.code == 0
    assert outcome.stdout.splitlines()[-1] == "{'long': 'done'}"


def test_prints_of_components_come_in_order_and_at_once(
    simulation: Any, wait_until: Callable[..., Any]
) -> None:
    simulation.write(
        driver="""
        print("driver", 1)
        services.call(services.get_port("WORKER"), "step", 0.0)
        print("driver", 2)
        while not os.path.exists("go"):
            time.sleep(0.02)
        services.call(services.get_port("WORKER"), "step", 0.0)
        print("driver", 3)
        """,
        worker='print("worker")',
    )
    running = simulation.start()
    wait_until(lambda: len(running.stdout) >= 4, 30, "the first lines")
    assert running.process.poll() is None
    (simulation.root / "work" / "DRIVER__Driver_1" / "go").touch()
    outcome = running.finish()
    assert outcome.stderr == ""
    assert outcome.stdout.splitlines()[1:] == [
        *("driver 1", "worker", "driver 2"),
        *("worker", "driver 3"),
    ]
