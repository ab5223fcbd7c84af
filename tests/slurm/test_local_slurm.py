"""The private Slurm itself: what its nodes are, who may use it, and that it leaves nothing."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ips_dask_cluster import testing
from ips_dask_cluster.testing import LocalSlurm, LocalSlurmError, slurm_conf
from ips_dask_cluster.testing import daemon_keeper as keeper

ROOT = Path(testing.__file__).parent.parent
IS_ROOT = os.geteuid() == 0
#: Every Linux has this user, and every Slurm takes it; 26.05 refuses to run as ``nobody``.
ORDINARY_USER = "daemon"
needs_root = pytest.mark.skipif(not IS_ROOT, reason="needs root")


def processes(text: str) -> list[str]:
    """The commands with that text in them, one a process."""
    found = keeper._proc_files("cmdline")
    commands = [command.replace(b"\0", b" ").decode() for _, command in found]
    return [command for command in commands if text in command]


def sleepers(sleep: str) -> list[str]:
    """The processes that are this `sleep`, not those that have it in a script."""
    return [command for command in processes(sleep) if command.startswith(sleep)]


def nap() -> str:
    """A sleep that no other process has, to find it by whatever it did to its environment."""
    return f"sleep {10**8 + int.from_bytes(os.urandom(3), 'big')}"


def orphans(sleep: str) -> list[str]:
    """A task that leaves behind what hides: no environment, own session, deaf to SIGTERM."""
    return ["sh", "-c", f"trap '' TERM; env -i setsid {sleep} & {sleep}"]


# Nodes.


@pytest.mark.versions
def test_four_nodes(slurm: LocalSlurm) -> None:
    done = slurm.run(["srun", "-N4", "--ntasks-per-node=1", "printenv", "SLURMD_NODENAME"])
    assert sorted(done.stdout.split()) == slurm.node_names == ["n1", "n2", "n3", "n4"]


@needs_root
def test_each_node_has_its_own_tmp(slurm: LocalSlurm) -> None:
    write = 'echo $SLURMD_NODENAME > /tmp/whose && stat -c %a /tmp && test ! -e "$0"'
    with_host = Path("/tmp", f"of-the-host-{os.getpid()}")
    with_host.touch()
    try:
        written = slurm.run(["srun", "-N4", "sh", "-c", write, str(with_host)])
    finally:
        with_host.unlink()
    assert written.returncode == 0, written.stderr
    assert written.stdout.split() == ["1777"] * 4
    read = slurm.run(["srun", "-N4", "-l", "rm", "-v", "/tmp/whose"])
    assert len(read.stdout.splitlines()) == 4
    assert not Path("/tmp/whose").exists()
    assert str(slurm.directory) not in Path("/proc/self/mountinfo").read_text()


def test_shared_folder_is_on_every_node(slurm: LocalSlurm, shared_tmp_path: Path) -> None:
    script = f"touch {shared_tmp_path}/$SLURMD_NODENAME"
    slurm.run(["srun", "-N4", "sh", "-c", script])
    assert sorted(path.name for path in shared_tmp_path.iterdir()) == slurm.node_names


def test_salloc_runs_on_this_host_and_holds_all_nodes(slurm: LocalSlurm) -> None:
    done = slurm.salloc(["printenv", "SLURM_JOB_NODELIST", "SLURM_JOB_CPUS_PER_NODE"])
    assert done.stdout.split() == ["n[1-4]", "2(x4)"]
    script = 'test -z "$SLURMD_NODENAME" && srun printenv SLURMD_NODENAME'
    two = slurm.salloc(["sh", "-c", script], nodes=2)
    assert sorted(two.stdout.split()) == ["n1", "n2"]


@pytest.mark.versions
def test_unequal_nodes_with_gpus() -> None:
    with LocalSlurm(nodes=4, cpus=[2, 2, 2, 4], memory=[1000, 1000, 1000, 2000], gpus=2) as slurm:
        done = slurm.salloc(["printenv", "SLURM_JOB_CPUS_PER_NODE"])
        assert done.stdout.split() == ["2(x3),4"]
        show = ["scontrol", "--oneliner", "show", "node", "n4"]
        assert "RealMemory=2000 " in slurm.run(show).stdout
        script = "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"
        tasks = ["srun", "-N4", "--ntasks-per-node=2", "--gpus-per-task=1", "sh", "-c", script]
        expected = [f"n{node} {gpu}" for node in range(1, 5) for gpu in (0, 1)]
        assert sorted(slurm.run(tasks).stdout.splitlines()) == expected


@pytest.mark.versions
def test_a_node_goes_and_comes_back(slurm: LocalSlurm, wait_until: Any) -> None:
    sleep = nap()
    with subprocess.Popen(["srun", "-N1", "-w", "n3", *orphans(sleep)], env=slurm.environ) as srun:
        wait_until(lambda: len(sleepers(sleep)) == 2, 20, "the task on n3")
        with pytest.raises(LocalSlurmError, match="node n3 is unknown or runs; running: munged"):
            slurm.start_node("n3")
        slurm.stop_node("n3")
        assert sleepers(sleep) == []
        with pytest.raises(LocalSlurmError, match="node n3 does not run; those that do: munged"):
            slurm.stop_node("n3")
        slurm.start_node("n3")
        srun.kill()
    slurm.run(["scancel", *slurm.jobs()])

    def answer() -> str:
        argv = ["srun", "-N1", "-w", "n3", "--immediate=2", "printenv", "SLURMD_NODENAME"]
        return slurm.run(argv).stdout

    assert wait_until(answer, 40, "n3 again") == "n3\n"


def test_a_node_that_crashes_is_known(wait_until: Any) -> None:
    with LocalSlurm(nodes=1) as slurm:
        assert slurm.crashed_nodes() == []
        os.kill(int((slurm.directory / "run" / "n1.pid").read_text()), signal.SIGSEGV)
        assert wait_until(slurm.crashed_nodes, 10, "it has crashed") == ["n1"]
        slurm.stop_node("n1")
        slurm.start_node("n1")
        assert slurm.crashed_nodes() == []


# Commands.


def test_a_command_that_takes_too_long_ends_with_all_it_started(slurm: LocalSlurm) -> None:
    sleep = nap()
    script = f"echo first line; srun -N1 {sleep}"
    with pytest.raises(LocalSlurmError, match="not done after 2 s") as caught:
        slurm.salloc(["sh", "-c", script], nodes=1, timeout=2)
    assert "first line" in str(caught.value)
    assert "Granted job allocation" in str(caught.value)
    assert [line for line in processes(sleep) if "srun" in line] == []


def test_input_and_folder(slurm: LocalSlurm, tmp_path: Path) -> None:
    done = slurm.run(["sh", "-c", "cat; pwd; exit 3"], input="hello\n", cwd=tmp_path)
    assert (done.stdout, done.returncode) == (f"hello\n{tmp_path}\n", 3)


@pytest.mark.versions
def test_steps_and_jobs(slurm: LocalSlurm, wait_until: Any) -> None:
    assert slurm.steps() == []
    argv = ["salloc", "-N2", "srun", *nap().split()]
    with subprocess.Popen(argv, env=slurm.environ) as salloc:
        (step,) = wait_until(slurm.steps, 20, "a step")
        (job,) = slurm.jobs()
        assert step == f"{job}.0"
        slurm.run(["scancel", job])
        salloc.wait(30)


# Users.


def as_ordinary_user(argv: list[str]) -> list[str]:
    return [str(shutil.which("runuser")), "-u", ORDINARY_USER, "--", *argv] if IS_ROOT else argv


@pytest.mark.versions
@needs_root
def test_jobs_of_another_user(slurm: LocalSlurm) -> None:
    script = "srun --chdir=/ id -un"
    done = slurm.run(as_ordinary_user(["salloc", "-N2", "-D", "/", "sh", "-c", script]), cwd="/")
    assert done.stdout.split() == [ORDINARY_USER] * 2, done.stderr
    key = as_ordinary_user(["cat", str(slurm.directory / "munge" / "key")])
    assert "Permission denied" in slurm.run(key).stderr


@pytest.fixture
def python_of_anyone() -> str:
    """A Python that an ordinary user may run; the one of a virtual environment may be hidden."""
    for python in (sys.executable, "/usr/bin/python3"):
        probe = as_ordinary_user([python, "-c", "import sys; assert sys.version_info >= (3, 11)"])
        if subprocess.run(probe, cwd="/", capture_output=True, timeout=10).returncode == 0:
            return python
    pytest.skip("no Python >= 3.11 that an ordinary user may run")


@pytest.mark.versions
def test_an_ordinary_user_can_start_it(shared_tmp_path: Path, python_of_anyone: str) -> None:
    package = shared_tmp_path / "ips_dask_cluster"
    package.mkdir(mode=0o755)
    (package / "__init__.py").touch()
    shutil.copytree(Path(testing.__file__).parent, package / "testing")
    command = ["srun", "-N2", "printenv", "SLURMD_NODENAME", "SLURM_JOB_USER"]
    argv = [python_of_anyone, "-B", "-m", "ips_dask_cluster.testing", "--nodes=2", "--", *command]
    # Such a user's PATH has no slurmd.
    environment = {**os.environ, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        as_ordinary_user(argv),
        env=environment,
        cwd=shared_tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    user = ORDINARY_USER if IS_ROOT else pwd.getpwuid(os.geteuid()).pw_name
    assert sorted(done.stdout.split()) == sorted(["n1", "n2", user, user]), done.stderr
    assert done.returncode == 0


# The command line.


def command_line(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ips_dask_cluster.testing", *arguments]


def test_command_line_gives_the_exit_code_of_the_command() -> None:
    script = 'srun -N1 -n2 printenv SLURM_NTASKS; echo "$SLURM_CONF"; exit 7'
    argv = command_line("--nodes=1", "--cpus=2", "--", "sh", "-c", script)
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    first, second, config = done.stdout.split()
    assert (first, second, done.returncode) == ("2", "2", 7)
    assert not Path(config).parent.exists()


def test_command_line_says_what_is_wrong() -> None:
    argv = command_line("--nodes=2", "--cpus=1,2,3", "--", "true")
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr.endswith("cpus: 3 values for 2 nodes\n")
    assert done.returncode == 125


def test_signals_reach_the_command_and_the_command_decides(wait_until: Any) -> None:
    script = "trap 'exit 5' TERM; trap '' INT; echo ready; while :; do sleep 0.1; done"
    argv = command_line("--nodes=1", "--", "sh", "-c", script)
    with subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 5


# Start and end.


@pytest.fixture
def owner() -> Iterator[tuple[subprocess.Popen[str], Path, str]]:
    """A process that holds a Slurm with a job in it; its folder; what the job runs."""
    sleep = nap()
    program = (
        "import subprocess, sys\n"
        "from ips_dask_cluster.testing import LocalSlurm\n"
        "slurm = LocalSlurm(nodes=2).start()\n"
        "subprocess.Popen(['salloc', '-N2', 'srun', *sys.argv[1:]], env=slurm.environ)\n"
        "print(slurm.directory, flush=True)\n"
        "sys.stdin.read()\n"
        "slurm.close()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, *orphans(sleep)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip()), sleep
        process.kill()


def test_close_ends_what_the_jobs_left(owner: Any, wait_until: Any) -> None:
    process, directory, sleep = owner
    wait_until(lambda: len(sleepers(sleep)) == 4, 20, "two tasks of two processes")
    process.stdin.close()
    assert process.wait(10) == 0
    assert processes(sleep) == []
    assert processes(str(directory)) == []
    assert not directory.exists()


def test_all_ends_when_the_owner_is_killed(owner: Any, wait_until: Any) -> None:
    process, directory, sleep = owner
    wait_until(lambda: len(sleepers(sleep)) == 4, 20, "two tasks of two processes")
    process.kill()
    wait_until(lambda: not directory.exists(), 10, f"{directory} is gone")
    wait_until(lambda: not processes(sleep), 5, "no process of the job")
    wait_until(lambda: not processes(str(directory)), 5, "no process of its own")


def test_two_at_once(slurm: LocalSlurm) -> None:
    with LocalSlurm(nodes=1) as other:
        for local, count in ((slurm, 4), (other, 1)):
            done = local.run(["srun", f"-N{count}", "printenv", "SLURM_CONF"])
            assert done.stdout.split() == [str(local.config_file)] * count
    assert slurm.run(["srun", "-N4", "true"]).returncode == 0


def test_a_taken_port_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    free_ports = slurm_conf._free_ports
    with socket.create_server(("", 0)) as taken:
        answers = [[free_ports(1)[0], taken.getsockname()[1]], free_ports(2)]
        monkeypatch.setattr(slurm_conf, "_free_ports", lambda count: answers.pop(0))
        with LocalSlurm(nodes=1) as slurm:
            assert slurm.run(["srun", "hostname"]).returncode == 0
    assert answers == []


def test_a_start_that_fails_says_why_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    conf = slurm_conf.slurm_conf
    monkeypatch.setattr(slurm_conf, "slurm_conf", lambda settings: conf(settings) + "Nonsense=1\n")
    slurm = LocalSlurm(nodes=1)
    why = r"(slurmctld|n1) ended with exit code 1.*(\n.*)*unrecognized key: Nonsense"
    with pytest.raises(LocalSlurmError, match=why):
        slurm.start()
    assert not slurm.directory.exists()


def test_logs_of_every_daemon(slurm: LocalSlurm) -> None:
    logs = slurm.logs()
    assert list(logs) == ["munged", "slurmctld", "n1", "n2", "n3", "n4"]
    assert all(logs.values())
    assert "slurmd started on" in (slurm.directory / "log" / "n1.log").read_text()
