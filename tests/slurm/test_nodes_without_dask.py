"""Pools without Dask in an allocation: srun on nodes that clusters and other pools use, too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ips_core import read_log

COMPONENTS = """
import json
from pathlib import Path

from ipsframework import Component
from ipsframework.ipsExceptions import InsufficientResourcesException

NOTE = "b=$(date +%s.%N); sleep 0.5; echo $SLURMD_NODENAME $b $(date +%s.%N) > $0-$SLURM_PROCID"


class Base(Component):
    top = property(lambda self: str(Path("../../..").resolve()))

    def programs(self, pool, *sizes):
        self.services.create_task_pool(pool)
        for number, nproc in enumerate(sizes):
            name = f"{pool}{number}"
            self.services.add_task(pool, name, nproc, self.top, "sh", "-c", NOTE, name)
        self.services.submit_tasks(pool)
        return self.services.get_finished_tasks(pool)


class Driver(Base):
    def step(self, timestamp=0.0, **keywords):
        services = self.services
        services.create_task_pool("dask")
        for number in range(4):
            services.add_task("dask", f"dask{number}", 1, self.top, "sleep", "1")
        services.submit_tasks("dask", use_dask=True, dask_nodes=4)
        other = services.call_nonblocking(services.get_port("WORKER"), "programs", "b", 2, 1, 4, 1)
        # all nodes are the cluster's: these wait until it is idle, and then get its nodes
        told = []
        try:
            services.launch_task(1, self.top, "true", block=False)
        except InsufficientResourcesException:
            told.append({"refused": 0})
        task = services.launch_task(
            4, self.top, "sh", "-c", NOTE, "a9", task_ppn=1, launch_cmd_extra_args=["--label"]
        )
        told += [self.programs("a", 8, 1, 2, 1), services.get_finished_tasks("dask")]
        told += [services.wait_call(other)[0], {"a9": services.wait_task(task)}]
        Path(self.top, "told").write_text(json.dumps(told))


class Worker(Base):
    pass
"""


def test_cores_of_the_nodes_are_shared_with_clusters_and_components(
    job_id, shared_tmp_path, two_components
) -> None:
    Path("sim.config").write_text(two_components)
    Path("components.py").write_text(COMPONENTS)
    command = [sys.executable, "-m", "ips_core", "--config", "sim.config"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(Path("told").read_text())
    assert [set(codes.values()) for codes in told] == [{0}] * 5
    uses: dict[str, list[tuple[float, int]]] = {}
    for path in shared_tmp_path.glob("[ab][0-9]-*"):
        node, begin, end = path.read_text().split()
        uses.setdefault(node, []).extend([(float(begin), 1), (float(end), -1)])
    assert sum(len(changes) for changes in uses.values()) == 2 * (4 + 8 + 1 + 2 + 1 + 2 + 1 + 4 + 1)
    assert sorted(uses) == ["n1", "n2", "n3", "n4"]
    for changes in uses.values():
        held = [sum(change for _, change in sorted(changes)[:n]) for n in range(len(changes))]
        assert max(held) <= 2
    events = read_log(shared_tmp_path / "sim" / "simulation_log")
    ends = {e["task_name"]: e for e in events if e["eventtype"] == "IPS_TASK_END" and "host" in e}
    first = min(begin for changes in uses.values() for begin, _ in changes)
    assert max(ends[f"dask{n}"]["start_time"] for n in range(4)) + 1 <= first
    (launch,) = [e for e in events if e["eventtype"] == "IPS_LAUNCH_TASK" and "host" in e]
    begin, _, target = launch["comment"].partition(" , Target = ")
    assert begin == "task_id = 2 , Tag = None , nproc = 4"
    assert target.startswith("srun -N 4 -n 4 -c 1 ")
    assert " --label " in target
    assert sorted(launch["host"].split(",")) == ["n1", "n2", "n3", "n4"]
    (end,) = [e for e in events if e["eventtype"] == "IPS_TASK_END" and e.get("task_id") == 2]
    assert end["trace"]["tags"] == {"procs_requested": "4", "cores_allocated": "4"}
