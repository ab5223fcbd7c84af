"""Worker plugins and Shifter volumes that live as long as a pool, on four nodes."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from ips_core import read_log

IPS = (sys.executable, "-m", "ips_core", "--config", "sim.config")
PLUGINS = """
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path
from threading import Event, Thread

from distributed.diagnostics.plugin import WorkerPlugin
from ipsframework import Component

HERE = Path({here!r})
NODE = Path({node!r})  # of each node's own


def until(what):
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class CopyOut(WorkerPlugin):
    def __init__(self, source, target):
        self.source = source
        self.target = target

    def setup(self, worker):
        # nodes without a private /tmp share it
        self.source = os.path.join(self.source, os.environ["IPS_DASK_NODE"])
        os.makedirs(self.source, exist_ok=True)

    def teardown(self, worker):
        # slow enough that only one who waits for it finds the files
        time.sleep(1)
        shutil.copytree(self.source, os.path.join(self.target, worker.id))
        shutil.rmtree(self.source, ignore_errors=True)


def keep_archiving(worker_id, event, source, target):
    while True:
        over = event.wait(0.2)
        part = f"{{target}}/{{worker_id}}.part"
        subprocess.run(["tar", "-cf", part, "-C", source, "."], check=False)
        os.rename(part, f"{{target}}/{{worker_id}}.tar")
        if over:
            break


class Archiving(WorkerPlugin):
    def __init__(self, source, target):
        self.source = source
        self.target = target

    def setup(self, worker):
        # nodes without a private /tmp share it
        self.source = os.path.join(self.source, os.environ["IPS_DASK_NODE"])
        os.makedirs(self.source, exist_ok=True)
        self.event = Event()
        arguments = (worker.id, self.event, self.source, self.target)
        self.thread = Thread(target=keep_archiving, args=arguments)
        self.thread.start()

    def teardown(self, worker):
        self.event.set()
        self.thread.join()
        shutil.rmtree(self.source, ignore_errors=True)


class Base(Component):
    def add(self, pool, name, script):
        self.services.add_task(pool, name, 1, self.services.get_working_dir(), "sh", "-c", script)

    def submit(self, pool, **keywords):
        self.services.submit_tasks(pool, use_dask=True, dask_nodes=4, **keywords)

    def run_with(self, plugin, when_running):
        '''Run two tasks on each node; each leaves a file on its node.'''
        pool = type(plugin).__name__
        go = HERE / f"go {{pool}}"
        self.services.create_task_pool(pool)
        for number in range(8):
            result = f"{{NODE}}/{{pool}}/$IPS_DASK_NODE/result {{number}}"
            self.add(pool, f"t{{number}}", f'echo {{number}} > "{{result}}"; '
                     f"until test -e '{{go}}'; do sleep 0.05; done")
        self.submit(pool, dask_worker_plugin=plugin)
        when_running()
        go.touch()
        self.services.get_finished_tasks(pool)
"""

COMPONENTS = """

class Worker(Base):
    def step(self, timestamp=0.0, **keywords):
        self.services.create_task_pool("other")
        self.add("other", "other task", "true")
        (HERE / "asking").touch()
        self.submit("other")
        self.services.get_finished_tasks("other")


class Driver(Base):
    def step(self, timestamp=0.0, **keywords):
        for name in ("copied", "archived"):
            (HERE / name).mkdir()
        self.run_with(CopyOut(str(NODE / "CopyOut"), str(HERE / "copied")), self.call_other)
        copied = sorted(path.name for path in (HERE / "copied").glob("*/*"))
        print("copied:", len(list((HERE / "copied").iterdir())), copied)
        (HERE / "copied now").write_text(str(time.time()))
        self.services.wait_call(self.called)
        archiving = Archiving(str(NODE / "Archiving"), str(HERE / "archived"))
        self.run_with(archiving, lambda: until(self.are_archived))
        print("archived:", self.archived())

    def call_other(self):
        worker = self.services.get_port("WORKER")
        self.called = self.services.call_nonblocking(worker, "step", 0.0)
        until((HERE / "asking").exists)

    def archived(self):
        '''What is in the archives, one of each worker.'''
        found = []
        for path in (HERE / "archived").glob("*.tar"):
            with tarfile.open(path) as archive:
                found += [os.path.basename(name) for name in archive.getnames() if "result" in name]
        return len(list((HERE / "archived").glob("*.tar"))), sorted(found)

    def are_archived(self):
        return len(self.archived()[1]) >= 8
"""


@pytest.fixture
def run(job_id: str, shared_tmp_path: Path, two_components: str) -> Any:
    """``run(components)``: run a simulation; its standard output by topic, and its events."""

    def run(components: str) -> tuple[dict[str, str], list[dict[str, Any]]]:
        node = f"/tmp/ips-pools-{uuid.uuid4().hex[:8]}"
        text = PLUGINS.format(here=str(shared_tmp_path), node=node) + components
        (shared_tmp_path / "components.py").write_text(text)
        (shared_tmp_path / "sim.config").write_text(two_components)
        done = subprocess.run([*IPS], capture_output=True, text=True, timeout=100)
        log = (shared_tmp_path / "sim" / "sim.log").read_text()
        assert (done.returncode, done.stderr, log) == (0, "", log)
        said = dict(line.split(": ", 1) for line in done.stdout.splitlines()[1:])
        return said, read_log(shared_tmp_path / "sim" / "simulation_log")

    return run


def test_plugins_as_ips_describes_them(run: Any, shared_tmp_path: Path) -> None:
    said, events = run(COMPONENTS)
    results = [f"result {number}" for number in range(8)]
    assert said["copied"] == f"4 {results}"
    assert said["archived"] == f"(4, {results})"
    # a pool with a plugin has its cluster to itself
    (other,) = [
        event["start_time"]
        for event in events
        if event["eventtype"] == "IPS_LAUNCH_DASK_TASK" and event["task_name"] == "other task"
    ]
    copied = max(path.stat().st_ctime for path in (shared_tmp_path / "copied").glob("*/*"))
    assert other > copied
    clusters = [event for event in events if event["eventtype"] == "IPS_LAUNCH_TASK"]
    assert len(clusters) == 1


CACHED = """

class Worker(Base):
    pass


class Driver(Base):
    def step(self, timestamp=0.0, **keywords):
        for pool in ("one", "two"):
            self.services.create_task_pool(pool)
            self.add(pool, "t", "true")
            self.services.submit_tasks(
                pool, use_dask=True, dask_nodes=4, use_shifter=True,
                shifter_args="--image=docker:me/code:1 "
                f"--volume={HERE}:/cache:perNodeCache=size=1G",
            )
            print(f"{pool}:", self.services.get_finished_tasks(pool))
"""


def test_a_cache_of_each_node_is_fresh_for_each_pool(
    run: Any, shared_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shifter is in no registry: this one notes its options, and runs what follows them."""
    shifter = shared_tmp_path / "bin" / "shifter"
    shifter.parent.mkdir()
    shifter.write_text(
        "#!/usr/bin/env bash\n"
        "options=()\n"
        'while [ "${1#--}" != "$1" ]; do options+=("$1"); shift; done\n'
        f'echo "$SLURMD_NODENAME ${{options[*]}} $1" >>{shared_tmp_path}/calls\n'
        f'PATH={os.path.dirname(sys.executable)}:$PATH exec "$@"\n'  # what the image has
    )
    shifter.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shifter.parent}:{os.environ['PATH']}")
    said, events = run(CACHED)
    assert said == {"one": "{'t': 0}", "two": "{'t': 0}"}
    types = [event["eventtype"] for event in events if event.get("task_name") == "dask-worker"]
    assert types == ["IPS_LAUNCH_TASK", "IPS_TASK_END"] * 2
    calls = (shared_tmp_path / "calls").read_text().splitlines()
    volume = f"--volume={shared_tmp_path}:/cache:perNodeCache=size=1G"
    options = f"--env=PYTHONNOUSERSITE=1 --image=docker:me/code:1 {volume}"
    assert sorted(calls) == sorted(
        f"{node} {options} python3" for node in ("n1", "n1", "n2", "n3", "n4") * 2
    )
