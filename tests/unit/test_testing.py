"""The private Slurm of the tests, without Slurm: its configuration, and its keepers."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ips_dask_cluster import testing
from ips_dask_cluster.testing import (
    LocalSlurm,
    LocalSlurmError,
    local_slurm,
    missing_programs,
    slurm_conf,
)
from ips_dask_cluster.testing import daemon_keeper as keeper

SETTINGS = slurm_conf.Settings(
    directory=Path("/var/tmp/ips-slurm-1"),
    user="me",
    port=17000,
    nodes=(
        slurm_conf.Node("n1", cpus=2, memory=4000, gpus=2, port=17001),
        slurm_conf.Node("n2", cpus=4, memory=8000, gpus=0, port=17002),
    ),
    task_plugin="task/affinity",
)

SLURM_CONF = """\
ClusterName=ips-slurm-1
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=17000
CommunicationParameters=NoCtldInAddrAny
SlurmUser=me
SlurmdUser=me
AuthType=auth/munge
AuthInfo=socket=/var/tmp/ips-slurm-1/run/munge.socket
StateSaveLocation=/var/tmp/ips-slurm-1/state
SlurmdSpoolDir=/var/tmp/ips-slurm-1/spool/%n
SlurmctldPidFile=/var/tmp/ips-slurm-1/run/slurmctld.pid
SlurmdPidFile=/var/tmp/ips-slurm-1/run/%n.pid
SlurmctldLogFile=/var/tmp/ips-slurm-1/log/slurmctld.log
SlurmdLogFile=/var/tmp/ips-slurm-1/log/%n.log
SlurmctldSyslogDebug=quiet
SlurmdSyslogDebug=quiet
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SchedulerParameters=bf_interval=1
KillWait=5
SlurmdTimeout=15
GresTypes=gpu
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17001 CPUs=2 RealMemory=4000 \
Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17002 CPUs=4 RealMemory=8000 \
State=UNKNOWN
PartitionName=local Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def test_slurm_conf() -> None:
    assert slurm_conf.slurm_conf(SETTINGS) == SLURM_CONF


def test_slurm_conf_takes_other_options_and_cores_of_several_threads() -> None:
    options = (("SelectTypeParameters", "CR_Core_Memory"), ("PriorityType", "priority/basic"))
    node = slurm_conf.Node("n1", cpus=4, memory=4000, gpus=0, port=17001, threads_per_core=2)
    text = slurm_conf.slurm_conf(replace(SETTINGS, nodes=(node,), options=options))
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("SelectTypeP")] == [
        "SelectTypeParameters=CR_Core_Memory"
    ]
    assert "PriorityType=priority/basic" in lines
    assert "SelectType=select/cons_tres" in lines
    (described,) = [line for line in lines if line.startswith("NodeName=n1 ")]
    assert " CPUs=4 ThreadsPerCore=2 " in described


def test_gres_conf_has_only_nodes_with_gpus() -> None:
    gpus = "/var/tmp/ips-slurm-1/gpu/0,/var/tmp/ips-slurm-1/gpu/1"
    assert slurm_conf.gres_conf(SETTINGS) == f"NodeName=n1 Name=gpu File={gpus}\n"


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ("slurm-wlm 22.05.8\n", (22, 5)),  # Debian 12
        ("slurm-wlm 24.11.5\n", (24, 11)),  # Debian 13
        ("slurm-wlm 26.05.5\n", (26, 5)),  # Debian sid
        ("slurm 23.11.4\n", (23, 11)),  # built from the sources
        ("slurm 25.11.0-0rc1\n", (25, 11)),
    ],
)
def test_version_is_read_from_what_slurmd_prints(printed: str, version: tuple[int, int]) -> None:
    assert slurm_conf.parse_version(printed) == version


@pytest.mark.parametrize("printed", ["", "slurmd: error", "slurm 26"])
def test_text_without_a_version_is_refused(printed: str) -> None:
    with pytest.raises(ValueError, match=r"expected 'slurm YY.MM.N' from slurmd -V, got "):
        slurm_conf.parse_version(printed)


@pytest.mark.parametrize(
    ("version", "text"),
    [
        ((22, 5), ""),
        ((23, 2), ""),
        ((23, 11), ""),
        ((24, 5), "CgroupPlugin=disabled\n"),
        ((24, 11), "CgroupPlugin=disabled\n"),
        ((26, 5), "CgroupPlugin=disabled\n"),
    ],
)
def test_cgroups_are_disabled_where_slurmd_knows_how(version: tuple[int, int], text: str) -> None:
    assert slurm_conf.cgroup_conf(version) == text


@pytest.mark.parametrize(
    ("version", "files"),
    [
        ((23, 11), {"gres.conf", "slurm.conf"}),
        ((24, 5), {"cgroup.conf", "gres.conf", "slurm.conf"}),
    ],
)
def test_folder_has_a_cgroup_conf_only_with_text_in_it(
    tmp_path: Path, version: tuple[int, int], files: set[str]
) -> None:
    slurm_conf.write_folder(tmp_path, [slurm_conf.Node("n1", cpus=1, memory=1, gpus=0)], version)
    assert {path.name for path in tmp_path.glob("*.conf")} == files


def test_slurmd_argv() -> None:
    directory = Path("/d")
    plain = ["/sbin/slurmd", "-D", "-N", "n2"]
    assert slurm_conf.slurmd_argv("/sbin/slurmd", directory, "n2", False) == plain
    shared = [Path("/tmp/a b")]
    private = slurm_conf.slurmd_argv("/sbin/slurmd", directory, "n2", True, shared)
    mount = (
        "mkdir -p '/d/tmp/n2/a b' && mount --bind '/tmp/a b' '/d/tmp/n2/a b' && "
        'mount --rbind "$0" /tmp && exec "$@"'
    )
    unshare = ["unshare", "--mount", "--propagation=private"]
    assert private == [*unshare, "sh", "-c", mount, "/d/tmp/n2", *plain]


def test_munged_uses_nothing_of_the_machine() -> None:
    program, foreground, force, *options = slurm_conf.munged_argv("/m", Path("/d"))
    assert (program, foreground, force) == ("/m", "--foreground", "--force")
    assert all(option.partition("=")[2].startswith("/d/") for option in options)
    assert len(options) == 5


@pytest.mark.parametrize(("cpus", "plugin"), [([2, 1], "task/affinity"), ([2, 3], "task/none")])
def test_tasks_are_bound_only_where_the_machine_has_the_cpus(cpus: list[int], plugin: str) -> None:
    assert slurm_conf.task_plugin(cpus, 2) == plugin


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nodes": 0}, "nodes: at least 1 is needed, not 0"),
        ({"nodes": 2, "cpus": [2, 2, 4]}, "cpus: 3 values for 2 nodes"),
        ({"memory": 0}, "memory: at least 1 is needed, not 0"),
        ({"gpus": -1}, "gpus: at least 0 is needed, not -1"),
    ],
)
def test_wrong_numbers(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LocalSlurm(**arguments)


def test_making_the_object_starts_and_writes_nothing() -> None:
    slurm = LocalSlurm(nodes=3)
    assert slurm.node_names == ["n1", "n2", "n3"]
    assert not slurm.directory.exists()
    slurm.close()


def test_environment_keeps_nothing_of_an_outer_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURMD_NODENAME", "SALLOC_PARTITION", "SQUEUE_FORMAT"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    slurm = LocalSlurm()
    environment = slurm.environ
    assert [name for name in environment if name.startswith(("SL", "SA", "SQ"))] == ["SLURM_CONF"]
    assert environment["SLURM_CONF"] == str(slurm.config_file)
    assert environment["IPS_TEST_MARK"] == os.environ["IPS_TEST_MARK"]


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(local_slurm, "_DAEMON_PATH", (str(tmp_path),))
    (tmp_path / "srun").touch(0o755)
    missing = missing_programs()
    assert "munged" in missing
    assert "srun" not in missing
    with pytest.raises(LocalSlurmError, match=r"not found: munged, .* apt-get install slurmctld"):
        LocalSlurm().start()


def test_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(LocalSlurmError("why")))
    assert (type(error), str(error)) == (LocalSlurmError, "why")


def test_all_is_what_is_documented() -> None:
    assert testing.__all__ == ["LocalSlurm", "LocalSlurmError", "missing_programs"]


# The keeper: a program, tried with plain processes.

KEEPER = [sys.executable, "-IS", keeper.__file__]
OURS = f"--owner={os.getpid()}"
GONE = "--owner=-1"  # nobody's parent


@contextmanager
def running(argv: list[str], **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(argv, env={**os.environ, **variables}) as process:
        try:
            yield process
        finally:
            process.kill()


class Nap:
    """A sleep of a duration that nothing else has, to find its processes by."""

    def __init__(self) -> None:
        self.command = f"sleep {10**8 + os.getpid()}"

    def pids(self) -> list[int]:
        wanted = self.command.replace(" ", "\0").encode() + b"\0"
        found = keeper._proc_files("cmdline")
        return [pid for pid, command in found if command == wanted]


@pytest.fixture
def nap() -> Nap:
    return Nap()


def test_keeper_ends_what_hides(nap: Nap, wait_until: Any) -> None:
    """In its own session, without its environment, its parent gone: as slurmstepd and jobs do."""
    hidden = f"(env -i setsid sh -c '{nap.command} & {nap.command}' &)"
    with running([*KEEPER, OURS, "sh", "-c", f"{hidden}; {nap.command}"]) as keeper:
        wait_until(lambda: len(nap.pids()) == 3, 10, "three sleepers")
        keeper.terminate()
        assert keeper.wait(10) == 0
    assert nap.pids() == []


@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), ("kill -9 $$", 137), ("exit 0", 0)])
def test_keeper_ends_as_its_daemon_does(script: str, code: int) -> None:
    argv = [*KEEPER, OURS, "sh", "-c", script]
    assert subprocess.run(argv, timeout=10).returncode == code


def test_keeper_whose_owner_is_gone_leaves(nap: Nap) -> None:
    argv = [*KEEPER, GONE, *nap.command.split()]
    assert subprocess.run(argv, timeout=10).returncode == 0
    assert nap.pids() == []


def test_sweeper_removes_clients_and_folder(nap: Nap, wait_until: Any, tmp_path: Path) -> None:
    config = tmp_path / "slurm" / "slurm.conf"
    config.parent.mkdir()
    argv = nap.command.split()
    with running(argv, SLURM_CONF=str(config)) as client, running(argv, SLURM_CONF=f"{config}2"):
        wait_until(lambda: len(nap.pids()) == 2, 10, "two sleepers")
        sweeper = subprocess.run([*KEEPER, GONE, f"--sweep={config}"], timeout=10)
        assert sweeper.returncode == 0
        assert client.wait(10) == -9
        assert len(nap.pids()) == 1
    assert not config.parent.exists()


def test_keeper_needs_no_package_around_it(tmp_path: Path) -> None:
    """It runs from its file alone, also where the package cannot be imported."""
    copy = tmp_path / "keeper.py"
    copy.write_bytes(Path(keeper.__file__).read_bytes())
    argv = [sys.executable, "-IS", str(copy), OURS, "true"]
    assert subprocess.run(argv, cwd="/", env={}, timeout=10).returncode == 0
