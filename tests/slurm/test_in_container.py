"""Scheduler and workers in a real container, and nodes whose Python has other versions."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest

from ips_dask_cluster import (
    Charliecloud,
    ClusterError,
    Shifter,
    SlurmAllocationCluster,
    StepError,
)
from ips_dask_cluster.versions import driver_versions

# Distributed warns of the smallest difference, such as Python 3.11.7 and 3.11.2
pytestmark = pytest.mark.filterwarnings("ignore:Mismatched versions found")

NO_DASHBOARD = {"dashboard": False}
HERE = driver_versions()
_CHECKOUT = Path(__file__).parents[2]
_MARK = "/etc/ips-dask-rootfs"


@pytest.fixture
def container(rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> Charliecloud:
    """Charliecloud with the folder that the tests' run directories are in."""
    monkeypatch.setenv("USER", pwd.getpwuid(os.getuid()).pw_name)  # ch-run insists on it
    return Charliecloud(rootfs, volumes=("/var/tmp:/var/tmp",))


@pytest.fixture(autouse=True)
def by_value() -> Iterator[None]:
    """As for what is defined in a script: nobody inside has this file."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture
def cluster(two_nodes, container):
    with SlurmAllocationCluster(container=container, scheduler_options=NO_DASHBOARD) as cluster:
        cluster.wait_for_workers()
        yield cluster


def what_is_seen() -> tuple[str, bool, str, str | None, str, str]:
    """Run inside: the mark of the image, whether our package is there, and where we are."""
    import importlib.util
    import os
    from pathlib import Path

    mark = Path("/etc/ips-dask-rootfs")
    return (
        mark.read_text() if mark.exists() else "the host",
        importlib.util.find_spec("ips_dask_cluster") is not None,
        os.environ["IPS_DASK_NODE"],
        os.environ.get("PYTHONNOUSERSITE"),
        os.getcwd(),
        os.environ["IPS_DASK_MARK"],
    )


def test_scheduler_and_workers_are_inside_and_the_driver_is_not(
    cluster, rootfs, shared_tmp_path
) -> None:
    mark = (rootfs / "etc" / "ips-dask-rootfs").read_text()
    assert not Path(_MARK).exists()
    with cluster.get_client() as client:
        workers = sorted(client.run(what_is_seen).values(), key=lambda seen: seen[2])
        scheduler = client.run_on_scheduler(what_is_seen)
    assert [seen[:5] for seen in (scheduler, *workers)] == [
        (mark, False, node, "1", str(shared_tmp_path)) for node in ("n1", "n1", "n2")
    ]
    assert [seen[5].partition("@")[0] for seen in (scheduler, *workers)] == [
        f"{cluster.name}-{name}" for name in ("scheduler", 0, 1)
    ]
    assert cluster.scheduler_address.startswith("tls://")


def test_functions_lambdas_and_own_classes_travel_by_value(cluster, rootfs, shared_tmp_path):
    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

        def doubled(self) -> Point:
            return Point(2 * self.x)

    def seen_by(command: str) -> str:
        import subprocess

        return subprocess.run(["sh", "-c", command], capture_output=True, text=True).stdout

    with cluster.get_client() as client:
        assert client.submit(lambda x: x + 1, 1).result() == 2
        assert client.submit(Point(3).doubled).result().x == 6
        # a program of a task is that of the image, its files are those of the driver
        said = client.submit(seen_by, f"cat {_MARK}; echo done > here; pwd").result()
    mark = (rootfs / "etc" / "ips-dask-rootfs").read_text()
    assert said == f"{mark}{shared_tmp_path}\n"
    assert (shared_tmp_path / "here").read_text() == "done\n"


def test_scratch_directory_is_on_the_disk_that_the_node_offers(
    two_nodes, container, shared_tmp_path, monkeypatch
) -> None:
    """As on machines whose fast local disk is elsewhere than below /tmp."""
    fast = shared_tmp_path / "fast"
    fast.mkdir()
    monkeypatch.setenv("TMPDIR", str(fast))

    def scratch(dask_worker) -> str:
        import tempfile
        from pathlib import Path

        Path(dask_worker.local_directory, "spilled").touch()
        return str(Path(dask_worker.local_directory).relative_to(tempfile.gettempdir()))

    with SlurmAllocationCluster(container=container, scheduler_options=NO_DASHBOARD) as cluster:
        cluster.wait_for_workers()
        with cluster.get_client() as client:
            inside = set(client.run(scratch).values())
        assert {str(path.parent.relative_to(fast)) for path in fast.rglob("spilled")} == inside
        assert len(inside) == 2
    assert list(fast.iterdir()) == []


def test_several_workers_of_a_node_in_containers_of_their_own(two_nodes, container) -> None:
    with SlurmAllocationCluster(
        container=container, processes=2, nodes=1, scheduler_options=NO_DASHBOARD
    ) as cluster:
        cluster.wait_for_workers()
        assert len(cluster.observed) == 2


def test_the_example_of_the_page_runs(two_nodes, rootfs, container, shared_tmp_path) -> None:
    page = (_CHECKOUT / "docs" / "containers.md").read_text()
    source = page.partition("```python\n")[2].partition("```")[0]
    for shown, here in (
        ("/scratch/me/images/code", str(rootfs)),
        ("/scratch:/scratch", "/var/tmp:/var/tmp"),
    ):
        assert source.count(shown) == 1
        source = source.replace(shown, here)
    script = shared_tmp_path / "example.py"
    script.write_text(source)
    argv = [sys.executable, "-W", "ignore", script]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith('PRETTY_NAME="Debian GNU/Linux')
    assert [path.name for path in shared_tmp_path.iterdir()] == ["example.py"]


def test_a_bare_shifter_finds_the_image_of_the_job(two_nodes, shared_tmp_path, monkeypatch):
    """Shifter is in no registry: this one notes the image that it would take."""
    shifter = shared_tmp_path / "bin" / "shifter"
    shifter.parent.mkdir()
    shifter.write_text(
        "#!/usr/bin/env bash\n"
        f'echo "$IPS_DASK_NODE $SLURM_SPANK_SHIFTER_IMAGE $1" >>{shared_tmp_path}/calls\n'
        'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n'
    )
    shifter.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shifter.parent}:{os.environ['PATH']}")
    options = {"python": sys.executable, "scheduler_options": NO_DASHBOARD}
    with pytest.raises(ClusterError, match=r"^Shifter has no image, and this job was not"):
        SlurmAllocationCluster(container=Shifter(), **options)
    assert [path.name for path in shared_tmp_path.iterdir()] == ["bin"]
    monkeypatch.setenv("SLURM_SPANK_SHIFTER_IMAGE", "ab12")
    with SlurmAllocationCluster(container=Shifter(), **options) as cluster:
        cluster.wait_for_workers()
    calls = sorted((shared_tmp_path / "calls").read_text().splitlines())
    assert calls == [f"{node} ab12 --env=PYTHONNOUSERSITE=1" for node in ("n1", "n1", "n2")]


# What goes wrong, and what is said then


def start_fails(**options) -> StepError:
    """The error of a start that fails within seconds, not after its deadline of 120."""
    begin = time.monotonic()
    with (
        pytest.raises(StepError) as caught,
        SlurmAllocationCluster(scheduler_options=NO_DASHBOARD, **options) as cluster,
    ):
        cluster.wait_for_workers()
    assert time.monotonic() - begin < 40
    return caught.value


def test_a_tool_or_a_python_that_is_not_there_is_named(two_nodes, container) -> None:
    class Missing(Charliecloud):
        def prefix(self, visible=(), directory=None) -> list[str]:
            words = super().prefix(visible, directory)
            return [word.replace("ch-run", "ch-nowhere") for word in words]

    error = start_fails(container=Missing(container.image))
    assert error.args[3].startswith("the nodes have no program ch-nowhere; ")
    error = start_fails(container=container, python="/opt/python")
    assert error.args[3].startswith("the container has no program /opt/python; pass python= ")


def test_a_mount_point_that_the_image_lacks_is_named(two_nodes, container, rootfs) -> None:
    error = start_fails(container=Charliecloud(rootfs))
    assert "the container has no mount point " in error.args[3]
    assert "; make that directory in the image, bind one above it (volumes=), or " in error.args[3]


def test_a_directory_that_the_container_does_not_show_is_named(
    two_nodes, container, shared_tmp_path
) -> None:
    """A container that binds nothing of ours, like Shifter with what its site does not mount."""

    class Narrow(Charliecloud):
        def prefix(self, visible=(), directory=None) -> list[str]:
            return super().prefix()

    error = start_fails(container=Narrow(container.image))
    assert f": the container does not show the directory {shared_tmp_path}/." in error.args[3]
    assert "; bind it (volumes=), or choose one that containers see" in error.args[3]
    error = start_fails(container=container, local_directory="/nowhere")
    assert error.args[0] == "worker"
    assert "the nodes have no directory /nowhere" in error.args[3]


def test_other_versions_of_scheduler_and_workers_are_told_at_once(
    two_nodes, container, rootfs
) -> None:
    old = Charliecloud(rootfs, container.volumes, env={"PYTHONPATH": "/opt/other-dask"})
    error = start_fails(container=old)
    assert error.args[:3] == ("scheduler", "n1", 67)
    assert error.args[3] == (
        "node n1: /usr/bin/python3 has dask 2025.1.0, distributed 2025.1.0, but the driver has "
        f"dask {HERE['dask']}, distributed {HERE['distributed']}; install the same there, pass "
        "python= or container= with one that has them, or turn the check off "
        "(version_check=False)"
    )


def test_other_versions_of_workers_alone_are_told_after_one_start(two_nodes, container) -> None:
    error = start_fails(container=container, env={"PYTHONPATH": "/opt/other-dask"})
    assert error.args[0] == "worker"
    assert "/usr/bin/python3 has dask 2025.1.0, distributed 2025.1.0, but the " in error.args[3]
    assert "start 1 of 4" in error.args[4]
    assert "start 2 of 4" not in error.args[4]


def test_the_check_of_versions_can_be_turned_off(two_nodes, container, rootfs) -> None:
    old = Charliecloud(rootfs, container.volumes, env={"PYTHONPATH": "/opt/other-dask"})
    with SlurmAllocationCluster(
        container=old, version_check=False, nodes=1, scheduler_options=NO_DASHBOARD
    ) as cluster:
        cluster.wait_for_workers()
        assert len(cluster.observed) == 1


def test_a_python_without_msgpack_is_told(two_nodes, shared_tmp_path) -> None:
    """No container: a virtual environment with all that is here, but for one package."""
    venv.create(shared_tmp_path / "venv", symlinks=True)
    (there,) = (shared_tmp_path / "venv").glob("lib/python*/site-packages")
    for package in Path(cloudpickle.__file__).parents[1].iterdir():
        if not package.name.startswith("msgpack") and not (there / package.name).exists():
            (there / package.name).symlink_to(package)
    error = start_fails(python=f"{shared_tmp_path}/venv/bin/python")
    assert "the Python of the nodes has no module 'msgpack'" in error.args[3]
