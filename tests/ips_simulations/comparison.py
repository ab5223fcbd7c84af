"""What simulations of each style leave behind, compared with their ``expected`` texts.

An ``expected`` text has sections. ``prints``: lines on standard output, sorted, since components
print side by side. ``events``: for each component, types of its events in their order. ``tasks``:
how many events of its tasks there are, of each name and outcome. ``files``: what is below SIM_ROOT.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["RUNS", "Run", "check_traces", "expected", "seen"]

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Run:
    """A simulation, and how its file differs from the one in the folder of its style.

    Parameters
    ----------
    style : str
        The folder, and the name of the simulation file in it.
    name : str
        SIM_NAME.
    changes : tuple of pairs of str
        What is replaced by what in the simulation file.
    """

    style: str
    name: str
    changes: tuple[tuple[str, str], ...] = ()

    def prepare(self, folder: Path, platform: str) -> str:
        """Write its files into a folder, with a platform file; return the simulation file's name.

        What a run before it has left there stays.
        """
        shutil.copytree(_HERE / self.style, folder, dirs_exist_ok=True)
        shutil.copy(_HERE / platform, folder / "platform.conf")
        text = (folder / f"{self.style}.config").read_text()
        for old, new in self.changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (folder / f"{self.name}.config").write_text(text)
        return f"{self.name}.config"


#: In this order: the second restarts from what the first has left.
RUNS = (
    Run("discharge", "discharge"),
    Run(
        "discharge",
        "again",
        (
            ("SIM_NAME = discharge", "SIM_NAME = again"),
            ("SIMULATION_MODE = NORMAL", "SIMULATION_MODE = RESTART"),
            ("RESTART_ROOT = ${SIM_ROOT}", "RESTART_ROOT = $PWD/discharge"),
            ("START = 0.0", "START = 0.75"),
            ("FINISH = 0.75", "FINISH = 1.25"),
            ("NSTEP = 3", "NSTEP = 2"),
        ),
    ),
    Run("ensemble", "ensemble"),
    Run("modeler", "modeler"),
    Run("retry", "retry"),
)


def expected(run: Run) -> dict[str, list[str]]:
    """Return the sections of a run's text, lines of each."""
    sections: dict[str, list[str]] = {}
    for line in (_HERE / "expected" / f"{run.name}.txt").read_text().splitlines():
        if line.startswith("["):
            lines = sections.setdefault(line.strip("[]"), [])
        elif line:
            lines.append(line)
    return sections


def seen(
    run: Run, folder: Path, stdout: str, events: Iterable[dict[str, Any]]
) -> dict[str, list[str]]:
    """Return what a run has left, as :func:`expected` has it."""
    root = folder / run.name
    sequences: dict[str, list[str]] = {}
    tasks: Counter[str] = Counter()
    for event in events:
        kind = event["eventtype"].removeprefix("IPS_")
        if "task_name" in event:
            status = event.get("status") or ""
            tasks[f"{event['code']} {event['task_name']} {kind} {status}".strip()] += 1
        else:
            sequences.setdefault(event["code"], []).append(kind)
    files = [path for path in root.rglob("*") if path.is_symlink() or not path.is_dir()]
    prints = [line.replace(str(folder), "FOLDER") for line in stdout.splitlines()]
    return {
        "prints": sorted(prints),
        "events": [f"{code}: {' '.join(kinds)}" for code, kinds in sorted(sequences.items())],
        "tasks": [f"{count} {task}" for task, count in sorted(tasks.items())],
        "files": sorted(_name(path.relative_to(root)) for path in files),
    }


def _name(path: Path) -> str:
    in_log = path.parts[0] == "simulation_log" and path.suffix != ".tasks"
    return f"simulation_log/RUN{path.suffix}" if in_log else str(path)


def check_traces(events: list[dict[str, Any]]) -> None:
    """Check that every end is a span of one tree, whose root is the end of the simulation."""
    ended = [event for event in events if "trace" in event]
    spans = {event["trace"]["id"]: event["trace"] for event in ended}
    assert len(spans) == len(ended)
    root = ended[-1]
    assert root["eventtype"] == "IPS_END"
    assert root["trace"]["localEndpoint"] == {
        "serviceName": f"{root['sim_name']}@FRAMEWORK@Framework@0"
    }
    trace_id = hashlib.md5(root["portal_runid"].encode()).hexdigest()
    assert {event["trace"]["traceId"] for event in ended} == {trace_id}
    for event in ended[:-1]:
        span = event["trace"]
        assert span["parentId"] in spans, event
        outer = spans[span["parentId"]]
        assert outer["timestamp"] <= span["timestamp"] + 2000, event  # clocks of processes
        if event["eventtype"] == "IPS_CALL_END":
            target = span["localEndpoint"]["serviceName"]
            assert f"Target = {target}:{span['name']}" in event["comment"]
