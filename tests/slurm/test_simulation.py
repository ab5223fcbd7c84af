"""Simulations inside a real ``salloc -N4 --exclusive``: four nodes, a private /tmp each."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ips_core import read_log

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
IPS = (sys.executable, "-m", "ips_core")


def without_salloc(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if not line.startswith("salloc: ")]


def task_events(events: list[dict]) -> dict[str, list[tuple[str, bool]]]:
    """What happened to each task of a pool, in order."""
    found: dict[str, list[tuple[str, bool]]] = {}
    for event in events:
        if event.get("task_name", "").startswith("task"):
            found.setdefault(event["task_name"], []).append((event["eventtype"], event["ok"]))
    return found


def live_steps(slurm) -> str:
    return slurm.run(["squeue", "--steps", "-h", "-o", "%i %j"]).stdout


def test_the_documented_command(slurm, shared_tmp_path):
    shutil.copytree(EXAMPLES / "dask", shared_tmp_path / "dask")
    arguments = ("--config", "dask_sim.config", "--platform", "platform.conf")
    done = slurm.salloc([*IPS, *arguments], nodes=4, cwd=shared_tmp_path / "dask")
    assert done.returncode == 0
    assert without_salloc(done.stderr) == []
    lines = done.stdout.splitlines()
    assert lines[1] == "ret_val = 3"
    assert sorted(lines[2:5]) == ["myfun(0.5)", "mymethod(0.5)", "sh 0.5"]
    assert lines[5:] == ["exit_status = {'binary': 0, 'function': 0, 'method': 0}"]


@pytest.mark.versions
def test_sixteen_tasks_use_four_nodes_and_leave_nothing(slurm, pool_simulation, shared_tmp_path):
    root = pool_simulation()
    done = slurm.salloc([*IPS, "--config", "pool.config"], nodes=4)
    on_nodes = read_log(root / "simulation_log")
    assert (done.returncode, without_salloc(done.stderr)) == (0, [])
    assert not live_steps(slurm)
    expected = ["pool", "pool.config", "pool.py"]
    assert sorted(path.name for path in shared_tmp_path.iterdir()) == expected
    assert not [path for path in root.iterdir() if path.name.startswith(".")]
    ends = [e for e in on_nodes if e["eventtype"] == "IPS_TASK_END" and "host" in e]
    assert {event["host"] for event in ends} == {"n1", "n2", "n3", "n4"}
    assert len({event["worker"] for event in ends}) == 4

    shutil.rmtree(root)
    local = subprocess.run([*IPS, "--config", "pool.config", "--nodes", "4"], timeout=100)
    here = read_log(root / "simulation_log")
    assert local.returncode == 0
    assert task_events(here) == task_events(on_nodes)
    assert [e["eventtype"] for e in here if "TASK" not in e["eventtype"]] == [
        e["eventtype"] for e in on_nodes if "TASK" not in e["eventtype"]
    ]


@pytest.mark.versions
def test_a_killed_worker_costs_no_result(slurm, pool_simulation, wait_until, processes_with):
    """Its binaries are gone within a second, and every task has a status in the end."""
    root = pool_simulation(tasks=8, seconds=8)
    salloc = ThreadPoolExecutor(1).submit(
        slurm.salloc, [*IPS, "--config", "pool.config"], nodes=4, timeout=100
    )

    def started() -> list[dict]:
        logs = list(root.glob("simulation_log/*.json"))
        events = read_log(logs[0]) if logs else []
        return [event for event in events if event["eventtype"] == "IPS_LAUNCH_DASK_TASK"]

    wait_until(lambda: len(started()) == 8, 60, "all eight tasks have started")
    victim = started()[0]
    tagged_processes = dict(processes_with(f"IPS_DASK_MARK={victim['worker']}@"))
    worker = next(pid for pid, command in tagged_processes.items() if "dask_worker" in command)
    binaries = [pid for pid, command in tagged_processes.items() if "/sleep 8" in command]
    assert len(binaries) == 2
    os.kill(worker, signal.SIGKILL)
    wait_until(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in binaries), 6, "binaries are gone"
    )
    done = salloc.result()
    (told,) = without_salloc(done.stderr)
    assert re.match(rf"worker {victim['worker']} on node n\d was killed by signal 9 ", told)
    lost = [e for e in read_log(root / "simulation_log") if not e["ok"]]
    assert [(e["eventtype"], e["error"]) for e in lost] == [
        ("IPS_TASK_END", "its worker was lost")
    ] * 2
    assert {e["worker"] for e in lost} == {victim["worker"]}
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == str({f"task{number}": 0 for number in range(8)})


DEVICES = """
import os
from ipsframework import Component


def device(seconds):
    import time

    time.sleep(seconds)
    return os.environ["CUDA_VISIBLE_DEVICES"]


class Pool(Component):
    def step(self, timestamp=0.0, **keywords):
        self.services.create_task_pool("pool")
        for number in range(8):
            self.services.add_task(
                "pool", f"task{number}", 1, self.services.get_working_dir(), device, 1
            )
        self.services.submit_tasks(
            "pool", use_dask=True, dask_nodes=2, dask_ppw=2, dask_worker_per_gpu=True
        )
        print(sorted(self.services.get_finished_tasks("pool").values()))
"""


def test_a_worker_for_each_gpu(gpu_slurm, pool_simulation):
    root = pool_simulation()
    Path("pool.py").write_text(DEVICES)
    options = ("--exclusive", "--gpus-per-node=2")
    done = gpu_slurm.salloc([*IPS, "--config", "pool.config"], nodes=2, options=options)
    assert (done.returncode, without_salloc(done.stderr)) == (0, [])
    assert done.stdout.splitlines()[-1] == str(["0"] * 4 + ["1"] * 4)
    ends = [e for e in read_log(root / "simulation_log") if e["eventtype"] == "IPS_TASK_END"]
    workers = {event["worker"] for event in ends if "worker" in event}
    assert sorted(worker[-4:] for worker in workers) == ["-0-0", "-0-1", "-1-0", "-1-1"]


# What goes wrong, and what is said then


def failed_run(slurm, *arguments: str, **options) -> list[str]:
    """Run in an allocation what must fail; what it says on standard error."""
    argv = [*arguments] or [*IPS, "--config", "pool.config"]
    done = slurm.salloc(argv, nodes=4, timeout=60, **options)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert not live_steps(slurm)
    return without_salloc(done.stderr)


def test_a_step_that_cannot_start_quotes_srun(slurm, pool_simulation, monkeypatch):
    root = pool_simulation()
    monkeypatch.setenv("DASK_JOBQUEUE__SLURM_ALLOCATION__SRUN_EXTRA_ARGS", "--gres=gpu:9")
    said = failed_run(slurm)
    assert re.match(
        r"ips.py: component DRIVER_TEST_Pool_1 failed in step: the scheduler step on", said[0]
    )
    assert any("srun: error: Invalid generic resource" in line for line in said)
    assert "Traceback" in (root / "pool.log").read_text()
    last = read_log(root / "simulation_log")[-1]
    assert (last["eventtype"], last["ok"]) == ("IPS_END", False)


def test_a_run_directory_that_a_node_cannot_see_is_named(slurm, pool_simulation, tmp_path):
    pool_simulation(root=tmp_path / "root")
    said = " ".join(failed_run(slurm))
    assert re.search(rf"node n\d cannot see the directory {tmp_path}/root/", said)


def test_more_nodes_than_the_allocation_has(slurm, pool_simulation):
    pool_simulation()
    done = slurm.salloc([*IPS, "--config", "pool.config"], nodes=2)
    assert done.returncode == 1
    assert without_salloc(done.stderr)[0] == (
        "ips.py: component DRIVER_TEST_Pool_1 failed in step: pool pool: dask_nodes = 4, but there "
        "are only 2"
    )


def test_srun_missing_inside_an_allocation(slurm, pool_simulation):
    pool_simulation()
    said = failed_run(slurm, "env", "PATH=/nowhere", *IPS, "--config", "pool.config")
    assert "scontrol is not on PATH although this is a Slurm job" in said[0]
    assert len(said) == 1


def test_a_component_that_raises_leaves_no_step(slurm, pool_simulation):
    root = pool_simulation()
    Path("pool.py").write_text(
        Path("pool.py").read_text() + "        raise ValueError('as asked')\n"
    )
    said = failed_run(slurm)
    assert said[0] == "ips.py: component DRIVER_TEST_Pool_1 failed in step: ValueError: as asked"
    events = [event["eventtype"] for event in read_log(root / "simulation_log")]
    assert events[-2:] == ["IPS_TASK_END", "IPS_END"]


# The second example


def test_the_equilibrium_scan_on_four_nodes(slurm, small_scan):
    folder = small_scan(4)
    done = slurm.salloc([*IPS, "--config", "equilibrium_scan.config"], nodes=4, cwd=folder)
    assert done.returncode == 0
    root = folder / "equilibrium_scan"
    (work,) = root.glob("work/*ScanWorker*")
    rows = (work / "scan.csv").read_text().splitlines()
    assert [row.split(",")[3] for row in rows] == ["converged", *["True"] * 4]
    ends = [e for e in read_log(root / "simulation_log") if e["eventtype"] == "IPS_TASK_END"]
    assert len({event["host"] for event in ends if "host" in event}) == 4
