"""Write the folder of a `LocalSlurm`: configuration files, munge key and spool folders.

The functions for file contents and for the daemons' arguments are pure. Nothing here starts a
process.
"""

from __future__ import annotations

import errno
import os
import pwd
import random
import re
import secrets
import shutil
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

__all__ = [
    "Node",
    "Settings",
    "cgroup_conf",
    "gres_conf",
    "munge_socket",
    "munged_argv",
    "parse_version",
    "slurm_conf",
    "slurmd_argv",
    "task_plugin",
    "write_folder",
]

#: Folders and their modes. Jobs of other users need to pass through all except those of the
#: daemons.
_FOLDERS = {
    "gpu": 0o755,
    "log": 0o755,
    "munge": 0o700,
    "run": 0o755,
    "spool": 0o755,
    "state": 0o700,
    "tmp": 0o755,
}

#: First version with CgroupPlugin=disabled (CHANGELOG/slurm-24.05.md of Slurm's sources).
_CGROUPS_CAN_BE_DISABLED = (24, 5)


@dataclass(frozen=True)
class Node:
    """Describe a node; ``port`` is that of its slurmd on this machine."""

    name: str
    cpus: int
    memory: int  #: In MB.
    gpus: int
    port: int = 0
    threads_per_core: int = 1  #: CPUs of each core.


@dataclass(frozen=True)
class Settings:
    """Hold what differs between one `LocalSlurm` and another."""

    directory: Path
    user: str
    port: int
    nodes: tuple[Node, ...]
    task_plugin: str
    options: tuple[tuple[str, str], ...] = ()


def slurm_conf(settings: Settings) -> str:
    """Return the text of slurm.conf."""
    directory = settings.directory
    gpus = any(node.gpus for node in settings.nodes)
    lines = [
        f"ClusterName={directory.name}",
        "SlurmctldHost=localhost(127.0.0.1)",
        f"SlurmctldPort={settings.port}",
        # Without NoInAddrAny: with it, srun would listen only on the address of the host name, but
        # slurmd answers to the address that called it, 127.0.0.1.
        "CommunicationParameters=NoCtldInAddrAny",
        f"SlurmUser={settings.user}",
        f"SlurmdUser={settings.user}",
        "AuthType=auth/munge",
        f"AuthInfo=socket={munge_socket(directory)}",
        f"StateSaveLocation={directory}/state",
        f"SlurmdSpoolDir={directory}/spool/%n",
        f"SlurmctldPidFile={directory}/run/slurmctld.pid",
        f"SlurmdPidFile={directory}/run/%n.pid",
        f"SlurmctldLogFile={directory}/log/slurmctld.log",
        f"SlurmdLogFile={directory}/log/%n.log",
        "SlurmctldSyslogDebug=quiet",
        "SlurmdSyslogDebug=quiet",
        "MailProg=/bin/true",
        "ProctrackType=proctrack/linuxproc",
        f"TaskPlugin={settings.task_plugin}",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core",
        # Nodes may have more CPUs and memory than this machine.
        "SlurmdParameters=config_overrides",
        "MpiDefault=none",
        "SwitchType=switch/none",
        "ReturnToService=2",
        # Heterogeneous jobs wait for the backfill scheduler, which runs every 30 s by default.
        "SchedulerParameters=bf_interval=1",
        "KillWait=5",
        "SlurmdTimeout=15",
        *(["GresTypes=gpu"] if gpus else []),
        *(_node_line(node) for node in settings.nodes),
        "PartitionName=local Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
    ]
    options = dict(settings.options)
    kept = [line for line in lines if line.partition("=")[0] not in options]
    return "\n".join([*kept, *(f"{name}={value}" for name, value in options.items())]) + "\n"


def _node_line(node: Node) -> str:
    gres = f" Gres=gpu:{node.gpus}" if node.gpus else ""
    threads = f" ThreadsPerCore={node.threads_per_core}" if node.threads_per_core > 1 else ""
    return (
        f"NodeName={node.name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={node.port}"
        f" CPUs={node.cpus}{threads} RealMemory={node.memory}{gres} State=UNKNOWN"
    )


def gres_conf(settings: Settings) -> str:
    """Return the text of gres.conf; empty if no node has a GPU."""
    lines = []
    for node in settings.nodes:
        files = ",".join(str(_gpu(settings.directory, index)) for index in range(node.gpus))
        if files:
            lines.append(f"NodeName={node.name} Name=gpu File={files}\n")
    return "".join(lines)


def parse_version(text: str) -> tuple[int, int]:
    """Return year and month from the output of ``slurmd -V``; raise ValueError if it has none."""
    # The text is "slurm 24.11.5", or "slurm-wlm 24.11.5" from Debian's packages.
    found = re.fullmatch(r"slurm\S* (\d+)\.(\d+)\b.*", text.strip())
    if not found:
        raise ValueError(f"expected 'slurm YY.MM.N' from slurmd -V, got {text!r}")
    return int(found[1]), int(found[2])


def cgroup_conf(version: tuple[int, int]) -> str:
    """Return the text of cgroup.conf for a version of Slurm; empty if the file must not exist.

    From 24.05 on, slurmd loads a cgroup plugin for any slurm.conf, and that plugin needs systemd or
    root. Up to 23.11, slurmd exits when it reads the line that turns the plugin off, and without
    the line it uses the kind of cgroups that it finds on the machine.
    """
    return "CgroupPlugin=disabled\n" if version >= _CGROUPS_CAN_BE_DISABLED else ""


def _gpu(directory: Path, index: int) -> Path:
    return directory / "gpu" / str(index)


def munge_socket(directory: Path) -> Path:
    """Return the path of the private munged's socket."""
    return directory / "run" / "munge.socket"


def munged_argv(program: str, directory: Path) -> list[str]:
    """Return the command line of a munged that shares nothing with the machine's own."""
    return [
        program,
        "--foreground",
        "--force",
        f"--key-file={directory}/munge/key",
        f"--seed-file={directory}/munge/seed",
        f"--log-file={directory}/munge/log",
        f"--pid-file={directory}/munge/pid",
        f"--socket={munge_socket(directory)}",
    ]


def slurmd_argv(
    program: str, directory: Path, name: str, private_tmp: bool, shared: Sequence[Path] = ()
) -> list[str]:
    """Return the command line of a node's slurmd, with a private /tmp if wanted.

    The private /tmp is a mount in a separate namespace, which the kernel removes with the last
    process in it. The shared folders are mounted into it at their usual path.
    """
    argv = [program, "-D", "-N", name]
    if not private_tmp:
        return argv
    tmp = directory / "tmp" / name
    mounts = [(path, tmp / path.relative_to("/tmp")) for path in shared]
    commands = [
        f"mkdir -p {quote(str(to))} && mount --bind {quote(str(path))} {quote(str(to))}"
        for path, to in mounts
    ]
    script = " && ".join([*commands, 'mount --rbind "$0" /tmp', 'exec "$@"'])
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", script, str(tmp), *argv]


def task_plugin(cpus: Iterable[int], machine_cpus: int) -> str:
    """Return the TaskPlugin that works on this machine for nodes with these numbers of CPUs.

    If a node has more CPUs than the machine, task/affinity cannot place tasks and steps fail.
    """
    return "task/affinity" if max(cpus) <= machine_cpus else "task/none"


def write_folder(
    directory: Path,
    nodes: Sequence[Node],
    version: tuple[int, int],
    *,
    options: Mapping[str, str] | None = None,
) -> None:
    """Empty the folder and fill it for new daemons, on newly chosen ports.

    ``directory`` must exist. ``version`` is year and month of the Slurm release that reads the
    folder. ``options`` are lines of slurm.conf, NAME to VALUE, that take precedence over the
    built-in ones.
    """
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    controller_port, *ports = _free_ports(1 + len(nodes))
    settings = Settings(
        directory=directory,
        user=pwd.getpwuid(os.geteuid()).pw_name,
        port=controller_port,
        nodes=tuple(replace(node, port=port) for node, port in zip(nodes, ports, strict=True)),
        task_plugin=task_plugin((node.cpus for node in nodes), len(os.sched_getaffinity(0))),
        options=tuple((options or {}).items()),
    )
    directory.chmod(0o755)
    for name, mode in _FOLDERS.items():
        _make_folder(directory / name, mode)
    for node in nodes:
        _make_folder(directory / "spool" / node.name, 0o755)
        _make_folder(directory / "tmp" / node.name, 0o1777)
    for index in range(max(node.gpus for node in nodes)):
        # Slurm needs character devices and never opens them. Links to one need no mknod, and so no
        # root.
        _gpu(directory, index).symlink_to(os.devnull)
    _write(directory / "munge" / "key", secrets.token_bytes(128), 0o400)
    if text := cgroup_conf(version):
        _write(directory / "cgroup.conf", text.encode(), 0o644)
    _write(directory / "gres.conf", gres_conf(settings).encode(), 0o644)
    _write(directory / "slurm.conf", slurm_conf(settings).encode(), 0o644)


def _make_folder(path: Path, mode: int) -> None:
    path.mkdir()
    path.chmod(mode)  # mkdir obeys the umask.


def _write(path: Path, content: bytes, mode: int) -> None:
    path.touch(0o600)
    path.write_bytes(content)
    path.chmod(mode)


def _free_ports(count: int) -> list[int]:
    """Return ports that were free; a daemon that finds its port taken is restarted."""
    # Below the range that the kernel assigns to connections, so that only another listener can take
    # a port.
    try:
        end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        end = 32768
    ports: list[int] = []
    with ExitStack() as stack:
        for port in random.sample(range(10000, max(end, 20000)), k=1000):
            probe = stack.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("", port))
                ports.append(port)
            if len(ports) == count:
                return ports
    raise OSError(errno.EADDRINUSE, f"{count} free ports are needed, {len(ports)} of 1000 are")
