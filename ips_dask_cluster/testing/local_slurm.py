"""Start munged, slurmctld and one slurmd per node privately on this machine, and end them.

The daemons write only below one temporary folder and use free ports; `LocalSlurm` never touches the
machine's own Slurm and munge. ``slurm_conf`` writes what the daemons read, and ``daemon_keeper``
ends them.

There is only one host: all nodes share this machine's network, and its file systems except /tmp
(see ``private_tmp`` of `LocalSlurm`).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ips_dask_cluster.testing import daemon_keeper as keeper
from ips_dask_cluster.testing import slurm_conf

__all__ = ["LocalSlurm", "LocalSlurmError", "missing_programs"]

_PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "salloc", "squeue", "scontrol", "scancel")
#: Usual folders of daemons, which the PATH of an ordinary user often lacks.
_DAEMON_PATH = ("/usr/sbin", "/sbin", "/usr/local/sbin")
_INSTALL = "on Debian or Ubuntu: apt-get install slurmctld slurmd slurm-client munge"
#: Prefixes of variables that change what Slurm commands do.
_SLURM_VARIABLES = ("SLURM", "SALLOC_", "SBATCH_", "SRUN_", "SQUEUE_", "SINFO_", "SCANCEL_")
_PORT_TAKEN = "Address already in use"
_PORT_ATTEMPTS = 4
_LOG_LINES = 20
#: Seconds between two checks of a condition.
_POLL = 0.05
#: Seconds for cancelled jobs to end by themselves.
_CANCEL_GRACE = 1.0
#: Seconds for an answer of a running Slurm, and of one that may not be up yet: its port may belong
#: to another program, which never answers.
_QUERY_TIMEOUT = 10.0
_FIRST_QUERY_TIMEOUT = 3.0
#: Seconds for a keeper to end; longer than the keeper's own deadline.
_KEEPER_DEADLINE = 8.0


class LocalSlurmError(RuntimeError):
    """A `LocalSlurm` could not start or end cleanly, or a command in it ran out of time."""


def missing_programs() -> list[str]:
    """Return the names of programs that `LocalSlurm` needs and this machine lacks.

    Programs are searched on PATH and in the usual folders of daemons.
    """
    return [name for name in _PROGRAMS if _find(name) is None]


def _find(name: str) -> str | None:
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(name, path=os.pathsep.join((path, *_DAEMON_PATH)))


def _program(name: str) -> str:
    path = _find(name)
    if path is None:
        raise LocalSlurmError(f"{name} not found; {_INSTALL}")
    return path


def _slurm_version() -> tuple[int, int]:
    """Return the version of slurmd, which decides about cgroup.conf."""
    argv = [_program("slurmd"), "-V"]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=_QUERY_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise LocalSlurmError(f"{' '.join(argv)}: no answer in {_QUERY_TIMEOUT:g} s") from None
    try:
        return slurm_conf.parse_version(done.stdout)
    except ValueError as error:
        raise LocalSlurmError(f"{' '.join(argv)}: {error} {done.stderr.strip()}") from None


def _per_node(name: str, value: int | Sequence[int], nodes: int, least: int) -> list[int]:
    values = [value] * nodes if isinstance(value, int) else list(value)
    if len(values) != nodes:
        raise ValueError(f"{name}: {len(values)} values for {nodes} nodes")
    if min(values) < least:
        raise ValueError(f"{name}: at least {least} is needed, not {min(values)}")
    return values


class LocalSlurm:
    """A private Slurm of several nodes on this machine.

    The nodes are named n1, n2, ...; each has its own ``SLURMD_NODENAME``, but all have the host
    name of this machine. Several instances may run at the same time. If the process that started an
    instance dies, even by SIGKILL, everything ends within seconds: daemons, jobs, commands that use
    its configuration, and the folder.

    Tested with Slurm 22.05, 24.11 and 26.05, as root and as an ordinary user; 26.05 refuses the
    user ``nobody``. Slurm 23.02 and 23.11 cannot turn cgroups off: slurmd uses the kind that it
    finds on the machine. Where slurmd lacks the permission for that, `start` raises with the end of
    slurmd's log.

    Parameters
    ----------
    nodes : int, default 4
        Number of nodes.
    cpus : int or sequence of int, default 2
        CPUs of each node; a sequence has one item per node. A node may have more CPUs than the
        machine; then Slurm binds no task to a CPU.
    memory : int or sequence of int, default 4000
        Memory that each node reports, in MB; it is not enforced.
    gpus : int or sequence of int, default 0
        GPUs that each node reports. Slurm hands them out (``CUDA_VISIBLE_DEVICES``), but no device
        exists.
    private_tmp : bool, default False
        Give each node its own /tmp, as on real machines: neither other nodes nor this process see
        its files there. Needs root. The files are in ``directory / "tmp" / NODE``.
    shared : sequence of str or Path, default ()
        Folders below /tmp that all nodes see in spite of ``private_tmp``, such as ``sys.prefix`` if
        the virtual environment is there.
    threads_per_core : int, default 1
        Number of a node's CPUs that are hardware threads of one core.
    options : mapping of str to str, optional
        Lines of slurm.conf, NAME to VALUE, that take precedence over those of `LocalSlurm`. For
        example, ``{"SelectTypeParameters": "CR_Core_Memory"}`` makes Slurm allocate memory, too.
    start_timeout : float, default 30
        Seconds within which all nodes must become idle.

    Attributes
    ----------
    directory : pathlib.Path
        Folder of configuration, logs and spool folders. All nodes see it under the same path, and
        other users can read it, except for the key. It exists from `start` to `close`.
    config_file : pathlib.Path
        Path of the slurm.conf.
    node_names : list of str
        Names of the nodes, ``["n1", ...]``.

    Raises
    ------
    ValueError
        A number of nodes, CPUs, GPUs or MB is too small, or a sequence does not have one item per
        node.

    Examples
    --------
    >>> with LocalSlurm(nodes=2) as slurm:
    ...     print(slurm.run(["srun", "-N2", "printenv", "SLURMD_NODENAME"]).stdout)
    """

    def __init__(
        self,
        nodes: int = 4,
        cpus: int | Sequence[int] = 2,
        memory: int | Sequence[int] = 4000,
        gpus: int | Sequence[int] = 0,
        private_tmp: bool = False,
        *,
        shared: Sequence[str | Path] = (),
        threads_per_core: int = 1,
        options: Mapping[str, str] | None = None,
        start_timeout: float = 30.0,
    ) -> None:
        if nodes < 1:
            raise ValueError(f"nodes: at least 1 is needed, not {nodes}")
        self.node_names = [f"n{number}" for number in range(1, nodes + 1)]
        self._nodes = tuple(
            slurm_conf.Node(*node, threads_per_core=threads_per_core)
            for node in zip(
                self.node_names,
                _per_node("cpus", cpus, nodes, 1),
                _per_node("memory", memory, nodes, 1),
                _per_node("gpus", gpus, nodes, 0),
                strict=True,
            )
        )
        self._options = dict(options or {})
        self._private_tmp = private_tmp
        folders = {Path(path).resolve() for path in shared}
        self._shared = sorted(path for path in folders if path.is_relative_to("/tmp"))
        self._start_timeout = start_timeout
        # Outside of the user's temporary folder: nodes may have a private /tmp, other users must
        # reach the folder, and the paths of sockets in it must stay below 108 bytes.
        self.directory = Path("/var/tmp", f"ips-slurm-{secrets.token_hex(4)}")
        self.config_file = self.directory / "slurm.conf"
        self._owner = 0
        self._version = (0, 0)
        self._environ_of_daemons: dict[str, str] = {}
        self._keepers: dict[str, subprocess.Popen[bytes]] = {}
        self._sweeper: subprocess.Popen[bytes] | None = None

    @property
    def environ(self) -> dict[str, str]:
        """Environment for commands that use this Slurm.

        A copy of the current ``os.environ`` without Slurm's variables (of an outer job, or options
        such as ``SALLOC_PARTITION``), plus ``SLURM_CONF``.
        """
        environment = {k: v for k, v in os.environ.items() if not k.startswith(_SLURM_VARIABLES)}
        return {**environment, "SLURM_CONF": str(self.config_file)}

    def __enter__(self) -> LocalSlurm:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Start and end.

    def start(self) -> LocalSlurm:
        """Start all daemons and wait until every node is idle.

        Returns
        -------
        LocalSlurm
            This object.

        Raises
        ------
        LocalSlurmError
            This Slurm already runs, a program is missing, a daemon ends, or the start takes longer
            than ``start_timeout``. The message has the last lines of the daemons' logs. Nothing is
            left behind then.
        """
        if self._sweeper is not None:
            raise LocalSlurmError(f"this Slurm is already running, in {self.directory}")
        self._check_machine()
        self._version = _slurm_version()
        deadline = time.monotonic() + self._start_timeout
        self._owner = os.getpid()
        self._environ_of_daemons = {**self.environ, keeper.KEEPER_VARIABLE: "1"}
        self.directory.mkdir()
        try:
            self._sweeper = self._spawn_keeper(Path(os.devnull), f"--sweep={self.config_file}")
            for attempt in range(1, _PORT_ATTEMPTS + 1):
                try:
                    self._start_daemons(deadline)
                    break
                except LocalSlurmError as error:
                    if attempt == _PORT_ATTEMPTS or _PORT_TAKEN not in str(error):
                        raise
                    self._stop_daemons(list(self._keepers))
        except BaseException:
            self._end_all()
            raise
        return self

    def close(self) -> None:
        """Cancel all jobs, end all daemons and their descendants, and remove the folder.

        Jobs get one second to end by themselves. A second call does nothing, and neither does a
        call in a process forked from the one that called `start`.

        Raises
        ------
        LocalSlurmError
            A process or the folder could not be removed.
        """
        if self._sweeper is None or self._owner != os.getpid():
            return
        try:
            with contextlib.suppress(LocalSlurmError):
                self._cancel(self.jobs)
        finally:
            self._end_all()

    def stop_node(self, name: str) -> None:
        """Kill a node's slurmd, slurmstepds and tasks at once, as a power failure does.

        Slurm notices after its SlurmdTimeout of 15 s, or when it next contacts the node.

        Parameters
        ----------
        name : str
            One of `node_names`.

        Raises
        ------
        LocalSlurmError
            The node does not run.
        """
        if name not in self._keepers:
            raise LocalSlurmError(
                f"node {name} does not run; those that do: {', '.join(self._keepers)}"
            )
        self._stop_daemons([name])

    def start_node(self, name: str) -> None:
        """Start a node again after `stop_node`, without waiting until Slurm can use it.

        Parameters
        ----------
        name : str
            One of `node_names`.

        Raises
        ------
        LocalSlurmError
            There is no such node, or it runs.
        """
        if name not in self.node_names or name in self._keepers:
            raise LocalSlurmError(
                f"node {name} is unknown or runs; running: {', '.join(self._keepers)}"
            )
        self._start_node(name)

    def crashed_nodes(self) -> list[str]:
        """Return the nodes whose slurmd has ended by itself.

        Slurm's daemons have been seen to crash under load. Such a node stays down until `stop_node`
        and `start_node` are called.

        Returns
        -------
        list of str
            Names of these nodes.
        """
        keepers = ((name, self._keepers.get(name)) for name in self.node_names)
        return [name for name, keeper in keepers if keeper and keeper.poll() is not None]

    # Commands.

    def run(
        self, argv: Sequence[str], timeout: float = 60.0, **kwargs: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in `environ` and capture its output.

        Parameters
        ----------
        argv : sequence of str
            The command and its arguments.
        timeout : float, default 60
            Seconds after which all processes of the command's session are killed and the jobs that
            it requested are cancelled.
        **kwargs
            ``input`` (str) for the command's standard input, or any argument of `subprocess.Popen`,
            such as ``cwd`` and ``env``.

        Returns
        -------
        subprocess.CompletedProcess
            The exit code, and text in ``stdout`` and ``stderr``; a non-zero exit code does not
            raise.

        Raises
        ------
        LocalSlurmError
            The command ran longer than ``timeout``; the message has the output so far.
        """
        text = kwargs.pop("input", None)
        settings: dict[str, Any] = {
            "env": self.environ,
            "stdin": subprocess.DEVNULL if text is None else subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "errors": "replace",
            "start_new_session": True,
        }
        process = subprocess.Popen(argv, **{**settings, **kwargs})
        try:
            output, errors = process.communicate(text, timeout)
        except subprocess.TimeoutExpired:
            output, errors = self._abandon(process)
            raise LocalSlurmError(
                f"{' '.join(argv)}: not done after {timeout:g} s, so it was killed."
                f"\n--- its output\n{output}\n--- its errors\n{errors}"
            ) from None
        except BaseException:
            self._abandon(process)
            raise
        return subprocess.CompletedProcess(argv, process.returncode, output, errors)

    def salloc(
        self,
        argv: Sequence[str],
        nodes: int | None = None,
        options: Sequence[str] = ("--exclusive",),
        timeout: float = 120.0,
        **kwargs: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on this host inside an allocation, by salloc.

        Parameters
        ----------
        argv : sequence of str
            The command and its arguments.
        nodes : int, optional
            Number of nodes to allocate. Default: all nodes.
        options : sequence of str, default ("--exclusive",)
            Further options of salloc. Without ``--exclusive`` the allocation holds one CPU per
            node.
        timeout : float, default 120
            Seconds for the command, including the wait for the allocation; as for `run`.
        **kwargs
            As for `run`.

        Returns
        -------
        subprocess.CompletedProcess
            As for `run`; ``stderr`` also contains salloc's own messages.

        Raises
        ------
        LocalSlurmError
            As for `run`.
        """
        count = len(self.node_names) if nodes is None else nodes
        return self.run(["salloc", f"-N{count}", *options, *argv], timeout, **kwargs)

    def jobs(self) -> list[str]:
        """Return the ids of all jobs that are pending, running or completing.

        Returns
        -------
        list of str
            The ids, as ``squeue`` prints them.

        Raises
        ------
        LocalSlurmError
            Slurm reports an error, or does not answer within 10 s.
        """
        return self._query("squeue", "--noheader", "--format=%i")

    def steps(self) -> list[str]:
        """Return the ids of all running steps.

        Returns
        -------
        list of str
            The ids, as ``squeue --steps`` prints them: ``JOB.NUMBER``, and ``JOB.batch`` for the
            script of an sbatch job. This Slurm has no ``extern`` steps.

        Raises
        ------
        LocalSlurmError
            Slurm reports an error, or does not answer within 10 s.
        """
        return self._query("squeue", "--steps", "--noheader", "--format=%i")

    def logs(self) -> dict[str, str]:
        """Return the last lines of every daemon's log.

        Returns
        -------
        dict of str to str
            At most 20 lines by name of the daemon: munged, slurmctld, n1, ...
        """
        return {name: self._log_tail(name) for name in ("munged", "slurmctld", *self.node_names)}

    # Internals.

    def _check_machine(self) -> None:
        missing = missing_programs()
        if missing:
            raise LocalSlurmError(f"programs not found: {', '.join(missing)}; {_INSTALL}")
        try:
            pwd.getpwuid(os.geteuid())
        except KeyError:
            raise LocalSlurmError(f"user id {os.geteuid()} has no name; Slurm wants one") from None
        if self._private_tmp:
            probe = subprocess.run(
                ["unshare", "--mount", "true"], capture_output=True, text=True, timeout=10
            )
            if probe.returncode != 0:
                raise LocalSlurmError(
                    "private_tmp needs a mount namespace, which this user may not make"
                    f" ({probe.stderr.strip()}); run as root or with private_tmp=False"
                )

    def _start_daemons(self, deadline: float) -> None:
        slurm_conf.write_folder(self.directory, self._nodes, self._version, options=self._options)
        munged = slurm_conf.munged_argv(_program("munged"), self.directory)
        self._start_daemon("munged", munged)
        self._await(deadline, self._munged_trouble)
        self._start_daemon("slurmctld", [_program("slurmctld"), "-D"])
        for name in self.node_names:
            self._start_node(name)
        self._await(deadline, self._nodes_trouble)

    def _start_node(self, name: str) -> None:
        argv = slurm_conf.slurmd_argv(
            _program("slurmd"), self.directory, name, self._private_tmp, self._shared
        )
        self._start_daemon(name, argv)

    def _start_daemon(self, name: str, argv: Sequence[str]) -> None:
        output = self.directory / "log" / f"{name}.out"
        self._keepers[name] = self._spawn_keeper(output, *argv)

    def _spawn_keeper(self, output: Path, *arguments: str) -> subprocess.Popen[bytes]:
        with output.open("ab") as file:
            return subprocess.Popen(
                [
                    sys.executable,
                    "-IS",
                    keeper.__file__,
                    f"--owner={self._owner}",
                    *arguments,
                ],
                env=self._environ_of_daemons,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=self.directory,
                # Ctrl-C at the terminal reaches only the owner, which then closes.
                start_new_session=True,
                umask=0o022,
            )

    def _end_all(self) -> None:
        self._stop_daemons(list(self._keepers))
        if self._sweeper is not None:
            self._sweeper.kill()
            self._sweeper.wait()
            self._sweeper = None
        if not keeper.remove(str(self.config_file)):
            raise LocalSlurmError(
                f"could not end every process of this Slurm, or not remove {self.directory};"
                f" look for processes with SLURM_CONF={self.config_file}"
            )

    def _stop_daemons(self, names: Iterable[str]) -> None:
        """End daemons and their descendants, all at the same time."""
        keepers = [self._keepers.pop(name) for name in names]
        for process in keepers:
            process.terminate()
        for process in keepers:
            try:
                process.wait(_KEEPER_DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _await(self, deadline: float, trouble: Callable[[], str]) -> None:
        """Wait until ``trouble`` returns nothing; raise if a daemon ends or the deadline passes."""
        while True:
            codes = {name: keeper.poll() for name, keeper in self._keepers.items()}
            ended = {name: code for name, code in codes.items() if code is not None}
            if ended:
                texts = (f"{name} ended with exit code {code}" for name, code in ended.items())
                raise LocalSlurmError(self._report(", ".join(texts), ended))
            what = trouble()
            if not what:
                return
            if time.monotonic() > deadline:
                late = f"{what} after {self._start_timeout:g} s; if this machine is slow or busy,"
                raise LocalSlurmError(self._report(f"{late} raise start_timeout", self._keepers))
            time.sleep(_POLL)

    def _munged_trouble(self) -> str:
        path = slurm_conf.munge_socket(self.directory)
        return "" if path.exists() else f"munged has not made its socket, {path}"

    def _nodes_trouble(self) -> str:
        try:
            sinfo = ("sinfo", "--noheader", "--Node", "--format=%N %T")
            lines = self._query(*sinfo, timeout=_FIRST_QUERY_TIMEOUT)
        except LocalSlurmError as error:
            return str(error)
        states = dict(line.split() for line in lines)
        waiting = [f"{name} is {states.get(name, 'unknown')}" for name in self.node_names]
        return ", ".join(text for text in waiting if not text.endswith(" idle"))

    def _report(self, what: str, names: Iterable[str]) -> str:
        logs = "".join(f"\n--- log of {name}\n{self._log_tail(name)}" for name in names)
        return f"the private Slurm did not come up: {what}. Last lines of the logs:{logs}"

    def _log_tail(self, name: str) -> str:
        # Slurm's own log has times. The captured output has all of munged's messages, and those of
        # Slurm before it has read its configuration.
        for path in (self.directory / "log" / f"{name}{suffix}" for suffix in (".log", ".out")):
            with contextlib.suppress(FileNotFoundError):
                text = path.read_text(errors="replace")
                if text:
                    return "\n".join(text.splitlines()[-_LOG_LINES:])
        return ""

    def _query(self, *argv: str, timeout: float = _QUERY_TIMEOUT) -> list[str]:
        """Return the lines that a Slurm command prints."""
        try:
            done = subprocess.run(
                argv, env=self.environ, timeout=timeout, capture_output=True, text=True
            )
        except subprocess.TimeoutExpired:
            raise LocalSlurmError(f"{' '.join(argv)}: no answer in {timeout:g} s") from None
        if done.returncode != 0:
            raise LocalSlurmError(f"{' '.join(argv)}: {done.stderr.strip()}")
        return done.stdout.splitlines()

    def _cancel(self, find_jobs: Callable[[], list[str]]) -> None:
        """Cancel jobs and wait until they are gone or their grace is over."""
        deadline = time.monotonic() + _CANCEL_GRACE
        jobs = find_jobs()
        if jobs:
            self._query("scancel", *jobs)
        while jobs and time.monotonic() < deadline:
            time.sleep(_POLL)
            jobs = find_jobs()

    def _abandon(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        """Kill a command's session, cancel its jobs, and return its output so far."""
        process.kill()
        # The session and not the process group, because salloc puts its command into a separate
        # group.
        keeper.kill_session(process.pid)
        with contextlib.suppress(LocalSlurmError):
            # Slurm records the session that requested a job.
            self._cancel(lambda: self._jobs_of_session(process.pid))
        try:
            output, errors = process.communicate(timeout=1)
        except subprocess.TimeoutExpired as late:  # A process of another session holds the pipe.
            return _text(late.output), _text(late.stderr)
        return _text(output), _text(errors)

    def _jobs_of_session(self, session: int) -> list[str]:
        lines = self._query("squeue", "--noheader", "--Format=JobID:20,AllocSID:20")
        return [job for job, sid in map(str.split, lines) if sid == str(session)]


def _text(output: str | bytes | None) -> str:
    # TimeoutExpired carries bytes, even for a process opened in text mode.
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
