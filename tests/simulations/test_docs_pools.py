"""The examples of docs/pools.md run as they stand; docs/simulation_log.md knows what they log.

The parts on MPI and GPUs need Slurm; here they are run up to the error that says so, and in
tests/slurm/test_docs_pools_slurm.py to their end.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest

from ips_core import read_log

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "pools.md").read_text(encoding="utf-8")

_PIECE = """\
from ipsframework import Component


class Driver(Component):
    def step(self, timestamp=0.0, **keywords):
        services, here = self.services, self.services.get_working_dir()
{statements}"""


def sections() -> dict[str, str]:
    """The text below each heading of the page."""
    parts = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    return {part.splitlines()[0]: part for part in parts}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def drivers() -> dict[str, str]:
    """The drivers of the page, by heading; a section's pieces of one are one driver."""
    found = {}
    for heading, text in sections().items():
        python = blocks(text, "python")
        whole = [block for block in python if "class Driver(" in block]
        pieces = [block for block in python if "class Driver(" not in block]
        for number, block in enumerate(whole, 1):
            found[heading if not pieces else f"{heading}: driver {number}"] = block
        if pieces:
            statements = indent("\n".join(pieces), " " * 8)
            found[heading] = _PIECE.format(statements=statements)
    return found


DRIVERS = drivers()
(CONFIG,) = blocks(PAGE, "ini")

#: What must be in the output.
SAYS = {
    "Example": ["{'growth_1': 0.6, 'date_1': 0, 'growth_2': 0.3, 'date_2': 0,"],
    "Kinds of task": [
        "{'program': 0, 'namelist': 0, 'environment': 0, 'stuck': -1, 'function': 8.0, "
        "'coroutine': 0.1, 'isolated': 0, 'openmp': 0}"
    ],
    "Kinds of task: driver 1": ["{'0.8 MA': 15.0, '1.0 MA': 12.0, '1.2 MA': 10.0}"],
    "When a task fails": [
        "task 4 kPa failed: ValueError: no equilibrium at 4 kPa\n",
        "4 kPa failed ",
        ", in equilibrium\n",
    ],
    "Retries": ["{'mesh_0': 0, 'mesh_1': 0, 'mesh_2': 0, 'mesh_3': 0}"],
    "A hundred thousand tasks": ["shot_198 exit code 1\n", "shot_199 exit code 1\n"],
    "Watching": [f"wait_{n} finished " for n in range(6)],
    "Time": ["{'run_0': 0, 'run_1': 0, 'run_2': 0, 'run_3': 0}"],
    "Resume": ["'run_9': 0}"],
    "Worker plugins": ["['0.txt', '1.txt', '2.txt', '3.txt']"],
    "Pools without Dask": ["'run_3': 0"],
    "Ending a pool": [],
}
#: What cannot be had here, in the words of the error.
NOT_HERE = {
    "MPI programs": "MPI tasks of a pool need srun, and this is no Slurm job",
    "GPUs": "gpus = 1, but a worker has 0",
}


def write(simulation: Any, heading: str) -> Any:
    simulation.name = "scan"
    simulation.config.write_text(CONFIG)
    # but for the disk of the node, which is this machine's
    script = DRIVERS[heading].replace("/tmp/run-data", str(simulation.folder / "run-data"))
    (simulation.folder / "driver.py").write_text(script)
    return simulation


def test_every_example_has_something_to_say() -> None:
    assert DRIVERS.keys() == SAYS.keys() | NOT_HERE.keys()


@pytest.fixture
def run(simulation: Any, once: Callable[..., Any]) -> Callable[[str], Any]:
    """``run(heading)``: what came of the example, which is run once, and its folder."""

    def answer(heading: str) -> Any:
        def example() -> Any:
            outcome = write(simulation, heading).run("--ppn", "2")
            assert outcome.code == 0, outcome.stderr
            return outcome, simulation.root

        return once(heading, example)

    return answer


@pytest.mark.parametrize("heading", SAYS)
def test_example_runs(
    run: Callable[[str], Any], heading: str, undocumented: Callable[..., Any]
) -> None:
    outcome, _ = run(heading)
    assert [said for said in SAYS[heading] if said not in outcome.stdout] == [], outcome.stdout
    assert undocumented(outcome.events) == set()


@pytest.mark.parametrize("heading", NOT_HERE)
def test_what_is_not_here_is_said(
    simulation: Any, heading: str, undocumented: Callable[..., Any]
) -> None:
    outcome = write(simulation, heading).run()
    assert outcome.code == 1
    assert NOT_HERE[heading] in outcome.stderr
    assert undocumented(outcome.events) == set()


def test_files_of_the_kinds_of_task(run: Callable[[str], Any]) -> None:
    _, root = run("Kinds of task")
    (folder,) = (root / "work").iterdir()
    said = {path.name: path.read_text() for path in folder.glob("*.log")}
    assert said.keys() == {"date.log", "cat.log", "env.log", "threads.log"}
    assert said["cat.log"] == "&in n=3 /\n"
    assert "B0=2.5\n" in said["env.log"]
    assert said["threads.log"] == "2\n"


def test_line_of_the_log_file(run: Callable[[str], Any]) -> None:
    (shown,) = re.findall(r"^    (pool waits: .*)$", PAGE, re.MULTILINE)
    outcome, _ = run("Watching")
    (line,) = (line for line in outcome.log.splitlines() if "pool waits: " in line)
    figure = re.compile(r"\d+(\.\d+)?(?= s| to| of| core)")
    assert figure.sub("N", line).endswith(figure.sub("N", shown))


def test_second_run_resumes(run: Callable[[str], Any], simulation: Any) -> None:
    _, root = run("Resume")
    outcome = write(simulation, "Resume").edit("$PWD/scan", str(root)).run("--ppn", "2")
    assert outcome.code == 0, outcome.stderr
    (end,) = (e for e in read_log(root / "simulation_log") if e["eventtype"] == "IPS_TASK_POOL_END")
    assert (end["tasks"], end["resumed"], end["attempts"]) == (10, 10, 0)
