"""Components share the four nodes of an allocation: side by side, one after the other, waiting."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ips_core import read_log
from ips_dask_cluster import SlurmAllocationCluster

COMPONENTS = """
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

from ips_core.resources.clusters import ClusterRequest
from ips_core.ipc.messages import unpack
from ipsframework import Component


class Base(Component):
    def start(self, pool, nodes, *command, tasks=1):
        self.services.create_task_pool(pool)
        for number in range(tasks):
            self.services.add_task(pool, f"{pool}{number}", 1, self.top, *command)
        self.services.submit_tasks(pool, use_dask=True, dask_nodes=nodes)

    def finish(self, pool):
        print(pool, sorted(set(self.services.get_finished_tasks(pool).values())), flush=True)

    @property
    def top(self):
        return str(Path("../../..").resolve())


class Driver(Base):
    def step(self, timestamp=0.0, **keywords):
        worker = self.services.get_port("WORKER")
        self.start("large", 3, "sh", "-c", "until test -e go; do sleep 0.05; done", tasks=6)
        self.services.call(worker, "beside", 0.0)
        waiting = self.services.call_nonblocking(worker, "waits", 0.0)
        while not Path(self.top, "asking").exists():
            time.sleep(0.02)
        Path(self.top, "go").touch()
        self.finish("large")
        self.services.wait_call(waiting)
        self.look()

    def look(self):
        ask = self.services.link.ask
        request = ClusterRequest(2, None, None, "srun")
        packed, lease = ask("acquire_cluster", request, "a look", True)
        reached = unpack(packed)
        told = {
            "workers": [asdict(place) for place in reached.workers],
            "slots": reached.slots,
            "job": reached.job_id == os.environ["SLURM_JOB_ID"],
            "ends in": reached.ends_at - time.time(),
            "margin": reached.margin,
        }
        free = ask("allocate", 4, 0, 1, 0, True, True)
        told["others"] = free.nodes
        print(json.dumps(told), flush=True)


class Worker(Base):
    def beside(self, timestamp):
        self.start("small", 1, "true")
        self.finish("small")

    def waits(self, timestamp):
        Path(self.top, "asking").touch()
        self.start("middle", 2, "sleep", "1", tasks=4)
        self.finish("middle")
"""


def test_four_nodes_among_clusters(slurm, shared_tmp_path, two_components):
    (shared_tmp_path / "sim.config").write_text(two_components)
    (shared_tmp_path / "components.py").write_text(COMPONENTS)
    done = slurm.salloc(
        [sys.executable, "-m", "ips_core", "--config", "sim.config"],
        nodes=4,
        options=("--exclusive", "--time=10"),
        cwd=shared_tmp_path,
        timeout=120,
    )
    assert [line for line in done.stderr.splitlines() if not line.startswith("salloc: ")] == []
    assert done.returncode == 0
    *pools, told = done.stdout.splitlines()[1:]
    assert sorted(pools) == ["large [0]", "middle [0]", "small [0]"]

    events = read_log(shared_tmp_path / "sim" / "simulation_log")
    hosts = {pool: hosts_of(pool, events) for pool in ("large", "small", "middle")}
    assert [len(hosts[pool]) for pool in ("large", "small", "middle")] == [3, 1, 2]
    assert not hosts["large"] & hosts["small"]

    story = [what for event in events if (what := story_of(event))]
    assert story[:9] == ["3 nodes start", "1 nodes start", "small", *["large"] * 6]
    # it waited for nodes, which idle clusters then gave
    assert sorted(story[9:11]) == ["1 nodes end", "3 nodes end"]
    assert story[11:] == ["2 nodes start", *["middle"] * 4, "2 nodes end"]

    look = json.loads(told)
    nodes = {place["node"] for place in look["workers"]}
    assert nodes == hosts["middle"]  # the same cluster, since it was unused
    assert sorted(nodes | set(look["others"])) == ["n1", "n2", "n3", "n4"]
    assert [place["slots"] for place in look["workers"]] == [2, 2]
    assert (look["slots"], look["job"], look["margin"]) == (4, True, 120.0)
    assert 300 < look["ends in"] <= 600


def test_the_nodes_of_another_driver_are_left_to_it(job_id, pool_simulation):
    root = pool_simulation(tasks=4, seconds=1)
    text = Path("pool.py").read_text()

    def run(nodes: int) -> subprocess.CompletedProcess[str]:
        Path("pool.py").write_text(text.replace("dask_nodes=4", f"dask_nodes={nodes}"))
        command = [sys.executable, "-m", "ips_core", "--config", "pool.config"]
        return subprocess.run(command, capture_output=True, text=True, timeout=100)

    with SlurmAllocationCluster(nodelist="n1,n3", scheduler_options={"dashboard": False}):
        beside = run(2)
        assert (beside.returncode, beside.stderr) == (0, "")
        assert hosts_of("task", read_log(root / "simulation_log")) == {"n2", "n4"}
        too_many = run(3)
    assert too_many.returncode == 1
    assert too_many.stderr.splitlines()[0] == (
        "ips.py: component DRIVER_TEST_Pool_1 failed in step: another driver in this Slurm job has "
        "a cluster on n1, n3, and too few are left"
    )


def hosts_of(pool: str, events: list[dict[str, Any]]) -> set[str]:
    return {e["host"] for e in events if e.get("task_name", "").startswith(pool) and "host" in e}


def story_of(event: dict[str, Any]) -> str:
    """Starts and ends of clusters by their nodes, and the ends of tasks by their pool."""
    if event["eventtype"] == "IPS_TASK_END" and "host" in event:
        return event["task_name"].rstrip("0123456789")
    if event.get("task_name") != "dask-worker":
        return ""
    if event["eventtype"] == "IPS_LAUNCH_TASK":
        return f"{event['comment'].split('nproc = ')[1][0]} nodes start"
    return f"{event['trace']['tags']['procs_requested']} nodes end"
