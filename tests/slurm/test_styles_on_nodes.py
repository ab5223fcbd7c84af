"""The styles that existing components are written in: example simulations on four nodes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from ips_simulations.comparison import RUNS, check_traces, expected, seen

from ips_core import read_log


def test_all_styles_in_one_allocation(job_id: str, shared_tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ips_core", "--platform", "platform.conf", "--config"]
    for run in RUNS:
        folder = shared_tmp_path / run.style
        config = run.prepare(folder, "cluster.conf")
        done = subprocess.run(
            [*command, config], cwd=folder, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, ""), run.name
        events = read_log(folder / run.name / "simulation_log")
        wanted, found = expected(run), seen(run, folder, done.stdout, events)
        for section in wanted:
            assert found[section] == wanted[section], run.name
        check_traces(events)
        assert events[1]["comment"] == "Nodes = 4   PPN = 2"
    _check_equilibrium(shared_tmp_path / "discharge" / "again")
    _check_hosts(shared_tmp_path)


def _check_equilibrium(root: Path) -> None:
    """NPROC = 4 with task_ppn=2 on whole nodes: four processes on two nodes."""
    log = (root / "work" / "epa_solovev_Solovev_3" / "solve.log").read_text()
    found = re.findall(r"process (\d) of 4 on (n\d)\n", log)
    assert sorted(rank for rank, _ in found) == ["0", "1", "2", "3"]
    nodes = [node for _, node in found]
    assert sorted(nodes.count(node) for node in set(nodes)) == [2, 2]


def _check_hosts(folder: Path) -> None:
    """Whole nodes for the processes of one task, the nodes of the cluster for those of another."""
    launched = [
        event
        for event in read_log(folder / "retry" / "retry" / "simulation_log")
        if event["eventtype"] == "IPS_LAUNCH_TASK" and event["task_name"] == "stiff"
    ]
    assert len(launched) == 2
    for event in launched:  # NPROC = 2, PROCS_PER_NODE = 1 of the component
        assert event["comment"].partition("Target = srun ")[2].startswith("-N 2 -n 2 "), event
    ends = [
        event
        for event in read_log(folder / "ensemble" / "ensemble" / "simulation_log")
        if event["eventtype"] == "IPS_TASK_END" and event["task_name"].startswith("cost")
    ]
    assert 1 <= len({event["host"] for event in ends}) <= 2
