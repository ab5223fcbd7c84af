"""Scheduler and workers in each container tool that this machine is said to have.

``--container-tools=charliecloud,apptainer,podman-hpc`` chooses the tools; one that is named and
missing fails its tests. All tools get the same root file system, which ``make container`` makes.
"""

from __future__ import annotations

import dataclasses
import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ips_dask_cluster import Apptainer, Charliecloud, PodmanHPC, SlurmAllocationCluster, StepError
from ips_dask_cluster.containers import Container

# Distributed warns of the smallest difference, such as Python 3.11.7 and 3.11.2
pytestmark = pytest.mark.filterwarnings("ignore:Mismatched versions found")

NO_DASHBOARD = {"dashboard": False}
MARK = "/etc/ips-dask-rootfs"
CHECKOUT = Path(__file__).parents[2]
IMAGE = "localhost/ips-dask-test:1"

#: podman-hpc is in no package registry. This shim does what its call_podman() does: podman gets the
#: site's options right after the verb, then those of the user (github.com/NERSC/podman-hpc). The
#: site's options here: a store of the tests' own, and containers that stay in the cgroups of their
#: step. crun refuses to start beside cgroups of version 2 that have controllers left where the
#: machine uses version 1, so the shim hides those.
PODMAN_HPC = """\
#!/bin/sh
set -eu
unified=/sys/fs/cgroup/unified
if grep -qs . $unified/cgroup.controllers; then
    exec unshare --mount sh -c 'umount "$0" && exec "$@"' $unified "$0" "$@"
fi
verb=$1
shift
store={store}
set -- --root "$store/root" --runroot "$store/run" --cgroup-manager cgroupfs --log-level fatal "$@"
if [ "$verb" = run ]; then
    set -- --runtime crun --runtime-flag cgroup-manager=disabled --cgroups no-conmon \\
        --security-opt seccomp=unconfined "$@"
fi
PODMAN_IGNORE_CGROUPSV1_WARNING=1 exec podman "$verb" "$@"
"""


@dataclass(frozen=True)
class Tool:
    """A container tool, its image, and images that it cannot run.

    `process` is in the command line of each process of the tool itself, `mount` in the line of a
    container's root in /proc/PID/mountinfo.
    """

    name: str
    program: str
    container: Container
    missing_image: str
    broken_image: str
    process: str
    mount: str

    def with_image(self, image: str, volumes: Sequence[str] = ()) -> Container:
        """Return a container of this tool with another image, or with more volumes."""
        return dataclasses.replace(
            self.container, image=image, volumes=(*self.container.volumes, *volumes)
        )

    def containers(self) -> list[str]:
        """Return the containers that podman knows; the other tools keep no list."""
        if self.name != "podman-hpc":
            return []
        return _output(self.program, "ps", "--all", "--format={{.ID}} {{.Status}}").splitlines()

    def processes(self) -> list[str]:
        """Return the tool's own processes, such as conmon."""
        commands = {path: _text(path) for path in Path("/proc").glob("[0-9]*/cmdline")}
        return [
            f"{path.parent.name} {command[:200]!r}"
            for path, command in commands.items()
            if self.process in command
        ]

    def mounts(self) -> list[str]:
        """Return the roots of containers, of all mount namespaces that are in use."""
        texts = map(_text, Path("/proc").glob("[0-9]*/mountinfo"))
        lines = {line for text in texts for line in text.splitlines()}
        return sorted(line for line in lines if self.mount in line)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _output(*argv: str | Path) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def tool_folder() -> Iterator[Path]:
    """A folder for images and stores, on a disk that all nodes see."""
    with tempfile.TemporaryDirectory(prefix="ips-images-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def tool(container_tool: str, rootfs: Path, tool_folder: Path) -> Iterator[Tool]:
    """The tool that a test runs with."""
    folder = tool_folder / container_tool
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("IPS_TEST_MARK", raising=False)
        patch.setenv("USER", pwd.getpwuid(os.getuid()).pw_name)  # ch-run insists on it
        make = {"charliecloud": _charliecloud, "apptainer": _apptainer, "podman-hpc": _podman_hpc}
        made = make[container_tool](rootfs, folder, patch)
        yield made
        if container_tool == "podman-hpc":
            _output(made.program, "rmi", "--all", "--force")


def _required(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.fail(f"--container-tools names a tool whose {program} is not on PATH", pytrace=False)
    return path


def _charliecloud(rootfs: Path, folder: Path, patch: pytest.MonkeyPatch) -> Tool:
    program = _required("ch-run")
    (folder / "broken").mkdir()
    container = Charliecloud(str(rootfs), ("/var/tmp:/var/tmp",))
    return Tool(
        name="charliecloud",
        program=program,
        container=container,
        missing_image="/nowhere/image",
        broken_image=str(folder / "broken"),
        process="ch-run",  # which becomes the program that it runs
        mount=f"{rootfs.name} / ",
    )


def _apptainer(rootfs: Path, folder: Path, patch: pytest.MonkeyPatch) -> Tool:
    program = _required("apptainer")
    image = folder / "code.sif"
    # Without compression, which takes half a minute
    _output(program, "build", "--mksquashfs-args=-noI -noD -noF -noX", image, rootfs)
    broken = folder / "broken.sif"
    broken.write_bytes(image.read_bytes()[:50_000])  # as after a copy that ran out of space
    # root cannot hand down all capabilities where it lacks one itself, as inside a container
    arguments = ["--no-privs"] if os.geteuid() == 0 else []
    container = Apptainer(str(image), arguments=arguments)
    return Tool(
        name="apptainer",
        program=program,
        container=container,
        missing_image="/nowhere/code.sif",
        broken_image=str(broken),
        process="Apptainer runtime parent",
        mount="apptainer/mnt/session",
    )


def _podman_hpc(rootfs: Path, folder: Path, patch: pytest.MonkeyPatch) -> Tool:
    for program in ("podman", "crun", "conmon"):
        _required(program)
    shim = folder / "bin" / "podman-hpc"
    shim.parent.mkdir()
    shim.write_text(PODMAN_HPC.format(store=folder / "store"))
    shim.chmod(0o755)
    patch.setenv("PATH", f"{shim.parent}:{os.environ['PATH']}")
    with subprocess.Popen(
        ["tar", "--directory", rootfs, "--create", "."], stdout=subprocess.PIPE
    ) as tar:
        subprocess.run(
            [shim, "import", "--quiet", "-", IMAGE],
            stdin=tar.stdout,
            capture_output=True,
            timeout=120,
            check=True,
        )
    empty = subprocess.run(["tar", "--create", "--files-from=/dev/null"], capture_output=True)
    subprocess.run(
        [shim, "import", "--quiet", "-", "localhost/empty:1"],
        input=empty.stdout,
        capture_output=True,
        timeout=120,
        check=True,
    )
    return Tool(
        name="podman-hpc",
        program=str(shim),
        container=PodmanHPC(IMAGE),
        missing_image="nosuch:1",
        broken_image="localhost/empty:1",
        process=f"{folder}/store",
        mount=f"{folder}/store/root/overlay/",
    )


@pytest.fixture
def where() -> Callable[[int], tuple[int, str, str]]:
    """``where(number)``: run inside; the number, the mark of the image and the node."""

    def look(number: int) -> tuple[int, str, str]:  # local, so that it travels by value
        import os
        from pathlib import Path

        mark = Path("/etc/ips-dask-rootfs")
        return number, mark.read_text() if mark.exists() else "host", os.environ["IPS_DASK_NODE"]

    return look


def test_tasks_run_inside_on_all_nodes(slurm, job_id, tool, rootfs, where, wait_until) -> None:
    image = (rootfs / "etc" / "ips-dask-rootfs").read_text()
    assert not Path(MARK).exists()
    with SlurmAllocationCluster(
        container=tool.container, scheduler_options=NO_DASHBOARD
    ) as cluster:
        cluster.wait_for_workers()
        with cluster.get_client() as client:
            results = client.gather(client.map(where, range(20)))
            on_workers = list(client.run(where, 0).values())
            on_scheduler = client.run_on_scheduler(where, 1)
        assert cluster.failure is None
    assert [number for number, _, _ in results] == list(range(20))
    assert {seen for _, seen, _ in (*results, *on_workers, on_scheduler)} == {image}
    assert sorted(node for _, _, node in on_workers) == ["n1", "n2", "n3", "n4"]
    _assert_nothing_left(slurm, tool, wait_until)


def test_killed_worker_comes_back_inside_and_its_binary_is_gone(
    slurm, two_nodes, tool, where, wait_until
) -> None:
    def start_binary() -> tuple[int, int]:
        import os
        import subprocess

        binary = subprocess.Popen(["sleep", "323"], start_new_session=True)
        return os.getpid(), binary.pid

    with SlurmAllocationCluster(
        container=tool.container, scheduler_options=NO_DASHBOARD
    ) as cluster:
        cluster.wait_for_workers()
        before = len(tool.containers())
        with cluster.get_client() as client:
            address, (worker, binary) = next(iter(client.run(start_binary).items()))
            name = cluster.scheduler_info["workers"][address]["name"]

            def back() -> list[str]:
                workers = cluster.scheduler_info["workers"].items()
                return [new for new, info in workers if info["name"] == name and new != address]

            os.kill(worker, signal.SIGKILL)
            wait_until(lambda: not Path(f"/proc/{binary}").exists(), 30, "the binary is gone")
            (new,) = wait_until(back, 30, "a worker of the same name is back")
            ((_, image, _),) = client.run(where, 0, workers=[new]).values()
        assert image != "host"
        assert cluster.failure is None
        assert [loss.exit_code for loss in cluster.losses] == [-signal.SIGKILL]
        assert len(tool.containers()) == before
    _assert_nothing_left(slurm, tool, wait_until)


def _assert_nothing_left(slurm, tool: Tool, wait_until) -> None:
    """No step, and no container, process or mount of the tool."""
    wait_until(lambda: slurm.steps() == [], 10, "no step is left")
    wait_until(lambda: tool.processes() == [], 10, "no process of the tool is left")
    assert (tool.containers(), tool.mounts()) == ([], [])


def test_close_leaves_nothing(slurm, two_nodes, tool, shared_tmp_path, capfd, wait_until):
    cluster = SlurmAllocationCluster(container=tool.container, scheduler_options=NO_DASHBOARD)
    cluster.wait_for_workers()
    mark = f"IPS_DASK_MARK={cluster.name}-"

    def marked() -> list[str]:
        return [str(path) for path in Path("/proc").glob("[0-9]*/environ") if mark in _text(path)]

    # What the assertions below look for is there while the cluster runs
    assert len(marked()) >= 3
    assert tool.mounts()
    assert len(tool.processes()) >= (0 if tool.name == "charliecloud" else 3)
    assert len(tool.containers()) == (3 if tool.name == "podman-hpc" else 0)
    cluster.close()
    wait_until(lambda: not marked(), 10, "no process is left")
    _assert_nothing_left(slurm, tool, wait_until)
    assert list(shared_tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_killed_driver_leaves_nothing(slurm, two_nodes, tool, shared_tmp_path, wait_until) -> None:
    script = shared_tmp_path / "driver.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, signal
        from ips_dask_cluster import Apptainer, Charliecloud, PodmanHPC, SlurmAllocationCluster

        cluster = SlurmAllocationCluster(
            container={tool.container!r}, scheduler_options={NO_DASHBOARD!r}
        )
        cluster.wait_for_workers()
        os.kill(os.getpid(), signal.SIGKILL)
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    _assert_nothing_left(slurm, tool, wait_until)


# What goes wrong, and the error


def start_fails(container: Container, **options: Any) -> StepError:
    """Return the error of a start that fails by itself, not at its deadline of 120 s."""
    begin = time.monotonic()
    with (
        pytest.raises(StepError) as caught,
        SlurmAllocationCluster(
            container=container, scheduler_options=NO_DASHBOARD, **options
        ) as cluster,
    ):
        cluster.wait_for_workers()
    assert time.monotonic() - begin < 60
    return caught.value


def test_missing_image_is_named(two_nodes, tool) -> None:
    error = start_fails(tool.with_image(tool.missing_image))
    assert error.args[0] == "scheduler"
    assert "the nodes cannot open the container's image: '" in error.args[3]
    assert tool.missing_image in error.args[3]
    assert error.args[3].endswith("; look at image=, and put it where every node sees it")


def test_broken_image_is_named(two_nodes, tool) -> None:
    error = start_fails(tool.with_image(tool.broken_image))
    assert error.args[0] == "scheduler"
    if tool.name == "podman-hpc":  # an image is checked when it is stored; this one is empty
        assert error.args[3].startswith("the container has no program python3; ")
    else:
        assert error.args[3].startswith("the container's image is damaged or of another kind: '")
        assert error.args[3].endswith("; look at image=, and build or copy the image again")


def test_missing_directory_of_a_volume_is_named(two_nodes, tool) -> None:
    error = start_fails(tool.with_image(tool.container.image, ["/nowhere/data:/data"]))
    assert error.args[3] == (
        "the nodes have no directory /nowhere/data to show in the container; look at volumes= and "
        "local_directory="
    )


@pytest.mark.parametrize("python", ["/opt/python9", "python9"])
def test_missing_python_of_the_image_is_named(two_nodes, tool, python) -> None:
    error = start_fails(tool.container, python=python)
    assert error.args[3] == (
        f"the container has no program {python}; pass python= with one that is in the image"
    )


def test_directory_of_an_image_is_one_too(two_nodes, tool, rootfs, where) -> None:
    """Apptainer takes such directories, podman with --rootfs."""
    image = dataclasses.replace(
        tool.container,
        image=str(rootfs),
        arguments=(*tool.container.arguments, *(["--rootfs"] * (tool.name == "podman-hpc"))),
    )
    with SlurmAllocationCluster(container=image, scheduler_options=NO_DASHBOARD) as cluster:
        cluster.wait_for_workers()
        with cluster.get_client() as client:
            _, seen, _ = client.submit(where, 0).result()
    assert seen != "host"


# An ordinary user

#: Runs as root in mount namespaces of its own: shows an ordinary user what may lie in folders that
#: only root can enter, and hides what crun refuses (see PODMAN_HPC).
AS_USER = """
unified=/sys/fs/cgroup/unified
! grep -qs . $unified/cgroup.controllers || umount $unified
for name in image python packages source; do
    mkdir "$0/$name"
    mount --bind "$1" "$0/$name"
    shift
done
exec "$@"
"""
DRIVER = """
import os
import sys

from ips_dask_cluster import Apptainer, Charliecloud, PodmanHPC, SlurmAllocationCluster


def where(number):
    return number, os.getuid(), open("/etc/ips-dask-rootfs").read()


if __name__ == "__main__":
    with SlurmAllocationCluster(
        container={container!r}, scheduler_options={{"dashboard": False}}
    ) as cluster:
        cluster.wait_for_workers()
        with cluster.get_client() as client:
            for line in sorted(client.gather(client.map(where, range(20)))):
                print(*line)
    print("as", os.getuid())
"""


def test_ordinary_user_runs_tasks_inside(tool, rootfs, shared_tmp_path, wait_until) -> None:
    """Apptainer and podman do this in user namespaces, otherwise than for root."""
    home = shared_tmp_path / "home"
    home.mkdir(mode=0o755)
    container = type(tool.container)(str(shared_tmp_path / "image"), ("/var/tmp:/var/tmp",))
    if isinstance(container, PodmanHPC):
        container = dataclasses.replace(container, arguments=["--rootfs"])
        shim = shared_tmp_path / "podman-hpc"
        shim.write_text(PODMAN_HPC.format(store=home / "store"))
        shim.chmod(0o755)
    driver = shared_tmp_path / "driver.py"
    driver.write_text(DRIVER.format(container=container))
    # The Python below the virtual environment, whose link to it may lead through such a folder
    python = shared_tmp_path / "python" / "bin" / f"python3.{sys.version_info[1]}"
    libraries = python.parents[1] / "lib"  # libpython, where the Python has it as a library
    packages = sysconfig.get_path("purelib")
    runtime = home / "runtime"  # for podman, which otherwise keeps files in /tmp
    runtime.mkdir(mode=0o700)
    variables = [f"HOME={home}", f"XDG_RUNTIME_DIR={runtime}", "USER=nobody", "TMPDIR=/tmp"]
    variables.append(f"LD_LIBRARY_PATH={libraries}")
    variables.append(f"PYTHONPATH={shared_tmp_path / 'source'}:{shared_tmp_path / 'packages'}")
    user = [_required("runuser"), "-u", "nobody", "--", "env", *variables]
    salloc = ["salloc", "--quiet", "-N2", f"--chdir={home}", python, "-W", "ignore", driver]
    slurm = [sys.executable, "-m", "ips_dask_cluster.testing", "--nodes=2", "--", *user, *salloc]
    for folder in (home, runtime):
        shutil.chown(folder, "nobody")
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-euc", AS_USER, shared_tmp_path),
            *(rootfs, sys.base_prefix, packages, CHECKOUT, *slurm),
        ],
        env={**os.environ, "PATH": f"{shared_tmp_path}:{os.environ['PATH']}"},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    nobody = pwd.getpwnam("nobody").pw_uid
    inside = 0 if tool.name == "podman-hpc" else nobody  # root of the container's user namespace
    image = (rootfs / "etc" / "ips-dask-rootfs").read_text().rstrip("\n")
    lines = [line for line in done.stdout.splitlines() if line]
    assert lines == [*(f"{number} {inside} {image}" for number in range(20)), f"as {nobody}"]
    wait_until(lambda: tool.processes() == [], 10, "no process of the tool is left")
    assert tool.mounts() == []
