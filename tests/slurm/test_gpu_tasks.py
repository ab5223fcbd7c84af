"""Tasks with GPUs of their own, on two nodes with two devices as far as Slurm knows."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import pytest

from ips_core import read_log

IPS = (sys.executable, "-m", "ips_core")

DRIVER = """
import json
import os
import time
from pathlib import Path

from ipsframework import Component

PROGRAM = 'b=$(date +%s.%N); sleep 0.$3; echo $CUDA_VISIBLE_DEVICES $b $(date +%s.%N) > "$1"'


def hold(path, tenths):
    begin = time.time()
    time.sleep(tenths / 10)
    devices = os.environ["CUDA_VISIBLE_DEVICES"]
    assert os.environ["ROCR_VISIBLE_DEVICES"] == os.environ["ZE_AFFINITY_MASK"] == devices
    Path(path).write_text(f"{devices} {begin} {time.time()}")


class Pool(Component):
    def step(self, timestamp=0.0, **keywords):
        self.cwd = self.services.get_working_dir()
        said = {
            "shared": self.run("shared", dask_ppw=2),
            "per gpu": self.run("per gpu", wide=False, dask_ppw=2, dask_worker_per_gpu=True),
            "too many": self.refused(3, dask_ppw=2),
            "too many per gpu": self.refused(2, dask_ppw=2, dask_worker_per_gpu=True),
        }
        print(json.dumps(said))

    def add(self, pool, name, *work, **keywords):
        self.services.add_task(pool, name, 1, self.cwd, *work, **keywords)

    def run(self, pool, wide=True, **keywords):
        folder = Path(self.cwd, pool)
        folder.mkdir()
        self.services.create_task_pool(pool)
        for number in range(16):
            gpus, tenths = 2 if wide and number % 4 == 0 else 1, 1 + number % 3
            path = folder / f"{pool} {number}"
            work = ("sh", "-c", PROGRAM, "sh", path, gpus, tenths) if number % 2 else (
                hold, str(path), tenths
            )
            self.add(pool, path.name, *work, gpus=gpus)
        self.add(pool, "none", "sh", "-c", 'echo "$CUDA_VISIBLE_DEVICES"')
        self.services.submit_tasks(pool, use_dask=True, dask_nodes=2, **keywords)
        values = self.services.get_finished_tasks(pool)
        return {name: repr(value) for name, value in values.items() if value not in (0, None)}

    def refused(self, gpus, **keywords):
        pool = f"too many {gpus}"
        self.services.create_task_pool(pool)
        self.add(pool, "greedy", "true", gpus=gpus)
        try:
            self.services.submit_tasks(pool, use_dask=True, dask_nodes=2, **keywords)
        except Exception as error:
            return str(error)
"""


@pytest.mark.versions
@pytest.mark.timeout(180)
def test_no_device_is_two_tasks_at_the_same_time(gpu_slurm, pool_simulation):
    root = pool_simulation()
    Path("pool.py").write_text(DRIVER)
    options = ("--exclusive", "--gpus-per-node=2")
    done = gpu_slurm.salloc(
        [*IPS, "--config", "pool.config"], nodes=2, options=options, timeout=120
    )
    assert [line for line in done.stderr.splitlines() if not line.startswith("salloc: ")] == []
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {
        "shared": {},
        "per gpu": {},
        "too many": "task greedy of pool too many 3: gpus = 3, but a worker has 2",
        "too many per gpu": "task greedy of pool too many 2: gpus = 2, but a worker has 1",
    }
    events = read_log(root / "simulation_log")
    ends = {e["task_name"]: e for e in events if e["eventtype"] == "IPS_TASK_END"}
    (work,) = root.glob("work/*")
    for pool, wide in (("shared", 4), ("per gpu", 0)):
        uses: dict[tuple[str, str], list[tuple[float, float]]] = {}
        counts = []
        for file in (work / pool).iterdir():
            devices, begin, end = file.read_text().split()
            counts.append(len(devices.split(",")))
            for device in devices.split(","):
                uses.setdefault((ends[file.name]["host"], device), []).append(
                    (float(begin), float(end))
                )
        assert sorted(counts) == [1] * (16 - wide) + [2] * wide
        assert uses.keys() == {(node, device) for node in ("n1", "n2") for device in "01"}
        for spans in uses.values():
            spans.sort()
            for (_, end), (begin, _) in itertools.pairwise(spans):
                assert end <= begin
