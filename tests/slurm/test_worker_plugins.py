"""Worker plugins on the real Slurm: four nodes, each with its own /tmp where root may make one."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import sysconfig
import textwrap
import time
import uuid
from pathlib import Path

import cloudpickle
import pytest
from distributed import Client, WorkerPlugin

from ips_dask_cluster import SlurmAllocationCluster, WorkerPluginError
from ips_dask_cluster.plugins import Archive, CopyOut

NO_DASHBOARD = {"dashboard": False}
OPTIONS = {"scheduler_options": NO_DASHBOARD}
DOCS = Path(__file__).parents[2] / "docs" / "plugins.md"


@pytest.fixture(autouse=True)
def by_value(monkeypatch):
    """Workers cannot import this module."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    # Client.submit looks only at the top of a graph (distributed #8607)
    monkeypatch.setattr(write_on_node, "__module__", "__main__")
    yield
    cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture
def node_folder() -> str:
    """A folder of each node's own; nodes without a private /tmp share it, which does no harm."""
    return f"/tmp/ips-plugins-{uuid.uuid4().hex[:8]}"


def write_on_node(folder: str, number: int) -> str:
    import os
    from pathlib import Path

    node = os.environ["IPS_DASK_NODE"]
    Path(folder).mkdir(exist_ok=True)
    Path(folder, f"{node}-{number} result").write_text(f"{node} {number}")
    return node


class Notes(WorkerPlugin):
    """Writes down what happens to it."""

    name = "notes"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _note(self, worker, what: str) -> None:
        import os
        import uuid

        note = f"{what} {worker.name.rpartition('-')[2]} {os.getpid()} {uuid.uuid4().hex}"
        (self.folder / note).touch()

    def setup(self, worker) -> None:
        self._note(worker, "setup")

    async def teardown(self, worker) -> None:
        self._note(worker, "teardown")


def notes(folder: Path) -> list[str]:
    """Such as "setup 0": what happened to which worker."""
    return sorted(" ".join(path.name.split()[:2]) for path in folder.iterdir())


# How they live.


def test_plugins_live_as_long_as_the_cluster(job_id, shared_tmp_path, wait_until, caplog):
    folder = shared_tmp_path / "notes"
    folder.mkdir()
    with SlurmAllocationCluster(3, worker_plugins=[Notes(folder)], **OPTIONS) as cluster:
        cluster.wait_for_workers()
        first = ["setup 0", "setup 1", "setup 2"]
        assert notes(folder) == first

        cluster.scale(4)
        cluster.wait_for_workers()
        first.append("setup 3")
        assert notes(folder) == first

        killed = next(path.name.split()[2] for path in folder.glob("setup 0 *"))
        os.kill(int(killed), signal.SIGKILL)
        wait_until(lambda: notes(folder) == ["setup 0", *first], 30, "the killed one is back")

        wait_until(lambda: len(cluster.observed) == 4, 20, "four workers")
        cluster.scale(3)
        wait_until(lambda: len(notes(folder)) == 6, 30, "the drained one tears down")
        assert notes(folder)[-1] == "teardown 3"
        wait_until(lambda: len(cluster.observed) == 3, 20, "it is gone")
    assert notes(folder)[-4:] == ["teardown 0", "teardown 1", "teardown 2", "teardown 3"]
    assert len(notes(folder)) == 9
    assert [str(loss) for loss in cluster.losses] == caplog.messages
    assert os.listdir() == ["notes"]


def test_tasks_find_the_users_own_plugin(job_id, shared_tmp_path):
    class Numbers(WorkerPlugin):
        def setup(self, worker) -> None:
            self.number = 17

    def look_up() -> int:
        from distributed import get_worker

        return get_worker().plugins["Numbers"].number

    with (
        SlurmAllocationCluster(1, worker_plugins=[Numbers()], **OPTIONS) as cluster,
        cluster.get_client() as client,
    ):
        assert client.submit(look_up).result(60) == 17


class Failing(WorkerPlugin):
    name = "licence"

    def __init__(self, good_nodes: str = "") -> None:
        self.good_nodes = good_nodes

    def setup(self, worker) -> None:
        import os

        if os.environ["IPS_DASK_NODE"] not in self.good_nodes:
            raise LookupError("no licence server")


def test_a_setup_that_fails_is_one_error(job_id):
    with SlurmAllocationCluster(2, worker_plugins=[Failing()], **OPTIONS) as cluster:
        with pytest.raises(WorkerPluginError) as caught:
            cluster.wait_for_workers()
        name = cluster.name
    assert str(caught.value) == (
        f"the worker plugin 'licence' could not be set up on {name}-0, {name}-1: LookupError: no "
        "licence server; the log of the worker has the traceback"
    )
    log = (cluster.run_directory / f"{name}-worker-n1.log").read_text()
    assert 'raise LookupError("no licence server")' in log


def test_a_late_setup_that_fails_is_logged_while_the_cluster_runs(job_id, caplog, wait_until):
    plugins = [Failing("n1")]
    with SlurmAllocationCluster(1, worker_plugins=plugins, **OPTIONS) as cluster:
        cluster.wait_for_workers()
        cluster.scale(2)
        wait_until(lambda: caplog.messages, 30, "a message")
        assert caplog.messages == [
            f"worker plugin 'licence', setup on {cluster.name}-1: LookupError: no licence server"
        ]


def test_a_plugin_whose_module_the_workers_lack_is_one_error(job_id, tmp_path, monkeypatch):
    (tmp_path / "here_only.py").write_text(
        "from distributed import WorkerPlugin\nclass Mine(WorkerPlugin): pass\n"
    )
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        import here_only

        plugins = [here_only.Mine()]
        with (
            SlurmAllocationCluster(1, worker_plugins=plugins, **OPTIONS) as cluster,
            pytest.raises(WorkerPluginError, match=r"'Mine' .*No module named 'here_only'"),
        ):
            cluster.wait_for_workers()


def test_what_is_no_plugin_leaves_nothing(job_id):
    with pytest.raises(TypeError, match="Notes is a class"):
        SlurmAllocationCluster(worker_plugins=[Notes])
    assert os.listdir() == []


class Slow(WorkerPlugin):
    """Takes its time to end."""

    name = "slow"

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self.seconds = seconds

    async def teardown(self, worker) -> None:
        import asyncio

        await asyncio.sleep(self.seconds)
        (self.folder / f"done {worker.name.rpartition('-')[2]}").touch()


def test_closing_and_draining_wait_for_teardown(job_id, shared_tmp_path, wait_until):
    # longer than any grace of the node scripts, and than close_timeout
    plugins = [Slow(shared_tmp_path, 6)]
    with SlurmAllocationCluster(2, worker_plugins=plugins, close_timeout=2, **OPTIONS) as cluster:
        cluster.wait_for_workers()
        cluster.scale(1)
        wait_until(lambda: len(cluster.observed) == 1, 40, "one has left")
        assert [path.name for path in shared_tmp_path.glob("done*")] == ["done 1"]
    assert sorted(os.listdir()) == ["done 0", "done 1"]


def test_adapting_waits_for_teardown(job_id, shared_tmp_path, wait_until):
    """Here Dask itself closes the worker, and only then its node is told to stop."""
    plugins = [Slow(shared_tmp_path, 6)]
    with SlurmAllocationCluster(2, worker_plugins=plugins, **OPTIONS) as cluster:
        cluster.wait_for_workers()
        cluster.adapt(minimum=1, maximum=2, interval="200 ms", wait_count=1)
        wait_until(lambda: len(cluster.observed) == 1, 40, "one has left")
        wait_until(lambda: list(shared_tmp_path.glob("done*")), 30, "it was torn down")


def test_closing_waits_for_teardown_no_longer_than_it_may_take(job_id, shared_tmp_path, caplog):
    plugins = [Slow(shared_tmp_path, 3600)]
    with SlurmAllocationCluster(
        2, worker_plugins=plugins, teardown_timeout=2, **OPTIONS
    ) as cluster:
        cluster.wait_for_workers()
        begin = time.monotonic()
    assert time.monotonic() - begin < 30
    name = cluster.name
    assert caplog.messages == [
        f"worker plugin 'slow', teardown on {name}-0, {name}-1: TimeoutError: it was not done "
        "after 2 s and was cancelled"
    ]
    assert os.listdir() == [cluster.run_directory.name]


# The ready-made ones.


def test_what_nodes_wrote_is_copied_and_archived(job_id, shared_tmp_path, node_folder, caplog):
    out = shared_tmp_path / "out"
    plugins = [
        CopyOut(node_folder, out / "$SLURM_JOB_ID"),
        Archive(node_folder, out / "tar", every=1),
    ]
    with SlurmAllocationCluster(worker_plugins=plugins, **OPTIONS) as cluster:
        cluster.wait_for_workers()
        with cluster.get_client() as client:
            addresses = list(cluster.scheduler_info["workers"])
            wrote = [
                client.submit(write_on_node, node_folder, number, workers=[address])
                for number, address in enumerate(addresses)
            ]
            nodes = client.gather(wrote)
            now = plugins[0].now(client)
            client.run(lambda: Path(node_folder, os.environ["IPS_DASK_NODE"]).touch())
    assert sorted(nodes) == ["n1", "n2", "n3", "n4"]
    assert {(answer["files"], len(answer["failed"])) for answer in now.values()} == {(1, 0)}
    for number, node in enumerate(nodes):
        target = out / job_id / node
        assert (target / f"{node}-{number} result").read_text() == f"{node} {number}"
        assert (target / node).exists()  # written after the copy on demand
    for number in range(4):
        tar = out / "tar" / f"{Path(node_folder).name}.{cluster.name}-{number}.tar"
        listing = subprocess.run(["tar", "-tf", tar], capture_output=True, text=True, timeout=20)
        assert len(listing.stdout.splitlines()) == 2
    assert len(list((out / "tar").iterdir())) == 4
    assert caplog.messages == []
    assert os.listdir() == ["out"]


def test_what_could_not_be_done_reaches_the_driver(job_id, shared_tmp_path, node_folder, caplog):
    """At the end, when the workers are about to go; the run directory stays."""
    out = shared_tmp_path / "out"
    plugins = [CopyOut(node_folder, out)]
    with SlurmAllocationCluster(4, worker_plugins=plugins, **OPTIONS) as cluster:
        cluster.wait_for_workers()
    name = cluster.name
    assert caplog.messages == [
        f"worker plugin 'copy-out {node_folder}', teardown on {name}-0, {name}-1, {name}-2 and 1 "
        f"more: {node_folder} is no directory: nothing was copied"
    ]
    for number in range(4):
        log = cluster.run_directory / f"{name}-worker-n{number + 1}.log"
        assert "nothing was copied" in log.read_text()
    assert list(cluster.run_directory.glob("*.pem")) == []


def test_trouble_of_an_archive_is_heard_while_the_cluster_runs(
    job_id, shared_tmp_path, node_folder, caplog, wait_until
):
    out = shared_tmp_path / "out"
    plugin = Archive(node_folder, out, every=0.5)

    def messages() -> list[str]:
        # On a busy machine a round may come before the task that makes the folder
        return [text for text in caplog.messages if "there is no archive" not in text]

    with SlurmAllocationCluster(1, worker_plugins=[plugin], **OPTIONS) as cluster:
        cluster.wait_for_workers()
        with cluster.get_client() as client:
            client.submit(write_on_node, node_folder, 0).result(30)
            wait_until(lambda: list(out.glob("*.tar")), 30, "an archive")
            client.run(lambda: os.rename(node_folder, node_folder + "-away"))
            wait_until(messages, 30, "a message")
            client.run(lambda: os.rename(node_folder + "-away", node_folder))
    assert messages() == [
        f"worker plugin 'archive {node_folder}', round on {cluster.name}-0: {node_folder} does "
        "not exist: the last whole archive stays"
    ]


def test_asynchronous(job_id, shared_tmp_path, node_folder):
    plugin = CopyOut(node_folder, shared_tmp_path / "out")

    async def use() -> dict:
        async with SlurmAllocationCluster(
            1, worker_plugins=[plugin], asynchronous=True, **OPTIONS
        ) as cluster:
            await cluster.wait_for_workers()
            async with Client(cluster, asynchronous=True) as client:
                await client.submit(write_on_node, node_folder, 0)
                return await plugin.now(client)

    (answer,) = asyncio.run(use()).values()
    assert answer == {
        "source": node_folder,
        "target": f"{shared_tmp_path}/out/n1",
        "files": 1,
        "bytes": len("n1 0"),
        "unchanged": 0,
        "failed": {},
    }


def test_workers_need_not_have_this_package(job_id, shared_tmp_path, node_folder):
    # -S: without the site module nothing tells this Python of packages but PYTHONPATH, where an
    # editable installation is not
    python = shared_tmp_path / "python"
    packages = sysconfig.get_path("purelib")
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{packages}" exec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)

    def write(folder: str) -> bool:
        from importlib.util import find_spec
        from pathlib import Path

        Path(folder).mkdir()
        Path(folder, "file").touch()
        return find_spec("ips_dask_cluster") is not None

    out = shared_tmp_path / "out"
    plugins = [CopyOut(node_folder, out / "files"), Archive(node_folder, out / "tar")]
    with SlurmAllocationCluster(
        1, worker_plugins=plugins, python=str(python), **OPTIONS
    ) as cluster:
        cluster.wait_for_workers()
        with cluster.get_client() as client:
            assert client.submit(write, node_folder).result(30) is False
            (answer,) = plugins[1].now(client).values()
    assert answer["files"] == 1
    assert (out / "files" / "n1" / "file").exists()
    assert len(list((out / "tar").glob("*.tar"))) == 1


def test_a_killed_driver_does_not_keep_nodes_from_copying_out(
    job_id, shared_tmp_path, node_folder, wait_until
):
    Path("driver.py").write_text(
        textwrap.dedent(f"""
        import asyncio, os, signal
        from pathlib import Path
        from ips_dask_cluster import SlurmAllocationCluster
        from ips_dask_cluster.plugins import CopyOut

        class LateCopy(CopyOut):
            async def teardown(self, worker):
                await asyncio.sleep(6)  # more than the node scripts' own grace
                await super().teardown(worker)

        def write():
            Path({node_folder!r}).mkdir()
            Path({node_folder!r}, "file").touch()

        with SlurmAllocationCluster(
            1, worker_plugins=[LateCopy({node_folder!r}, "out")], scheduler_options={NO_DASHBOARD}
        ) as cluster:
            cluster.wait_for_workers()
            cluster.get_client().submit(write).result()
            os.kill(os.getpid(), signal.SIGKILL)
        """)
    )
    done = subprocess.run([sys.executable, "driver.py"], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    wait_until(lambda: list(Path("out").glob("n1/file")), 60, "the copy")


def test_a_worker_that_talks_when_its_driver_is_killed_leaves_in_time(job_id, shared_tmp_path):
    """A write that is cancelled half-way would keep distributed for 30 s."""
    Path("driver.py").write_text(
        textwrap.dedent(f"""
        import os, signal, time
        from distributed import WorkerPlugin
        from ips_dask_cluster import SlurmAllocationCluster

        class Patient(WorkerPlugin):
            '''With it the node scripts do not kill the worker after three seconds.'''

            async def teardown(self, worker):
                worker.nothing = None

        def talk():
            from distributed import get_worker
            from tornado.ioloop import PeriodicCallback

            stream = get_worker().batched_stream
            message = {{"op": "log-event", "topic": "much", "msg": os.urandom(50_000_000)}}

            def send():
                if not stream.buffer and not stream.comm.closed():
                    stream.send(message)

            get_worker().loop.add_callback(PeriodicCallback(send, 1).start)

        with SlurmAllocationCluster(
            1, worker_plugins=[Patient()], scheduler_options={NO_DASHBOARD}
        ) as cluster:
            cluster.wait_for_workers()
            cluster.get_client().submit(talk).result()
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGKILL)
        """)
    )
    started = time.monotonic()
    # the step shares our pipe: its end is the end of all
    done = subprocess.run([sys.executable, "driver.py"], capture_output=True, timeout=90)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert time.monotonic() - started < 25


# The documentation.


def documented() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(documented())))
def test_the_documented_examples_run(two_nodes, shared_tmp_path, monkeypatch, number, node_folder):
    monkeypatch.setenv("SCRATCH", str(shared_tmp_path))
    monkeypatch.setenv("NODE_DATA", node_folder)
    Path("example.py").write_text(documented()[number].replace("/tmp/run-data", node_folder))
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "example.py"],
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout != ""
