"""`LocalSlurm`: munged, slurmctld and one slurmd a node, started privately on this machine.

Everything they write is in one temporary folder, their ports are free ones, and nothing is left
behind. The machine's own Slurm and munge are never touched. What the daemons read is made in
``slurm_conf``; who watches over them is ``keeper``.

Not responsible for: several hosts. All nodes share this machine's network, and its file systems
except /tmp (see `LocalSlurm`, `private_tmp`).
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
#: Where daemons live; the PATH of an ordinary user often lacks these.
_DAEMON_PATH = ("/usr/sbin", "/sbin", "/usr/local/sbin")
_INSTALL = "on Debian or Ubuntu: apt-get install slurmctld slurmd slurm-client munge"
#: Variables that make Slurm commands do something else than they were told.
_SLURM_VARIABLES = ("SLURM", "SALLOC_", "SBATCH_", "SRUN_", "SQUEUE_", "SINFO_", "SCANCEL_")
_PORT_TAKEN = "Address already in use"
_PORT_ATTEMPTS = 4
_LOG_LINES = 20
#: Seconds between two looks at something that is not there yet.
_POLL = 0.05
#: Seconds that cancelled jobs get to end by themselves.
_CANCEL_GRACE = 1.0
#: Seconds for a question to Slurm, and to one of which it is not known whether it is up: its
#: port may be that of some other program, which never answers.
_QUERY_TIMEOUT = 10.0
_FIRST_QUERY_TIMEOUT = 3.0
#: Seconds for a keeper to end; longer than its own deadline.
_KEEPER_DEADLINE = 8.0


class LocalSlurmError(RuntimeError):
    """A `LocalSlurm` cannot start, a command in it ran out of time, or something was left over."""


def missing_programs() -> list[str]:
    """Names of the programs `LocalSlurm` needs and this machine lacks.

    Returns
    -------
    list of str
        Empty when all of munged, slurmctld, slurmd, srun, salloc, squeue, scontrol and scancel
        are on the PATH or in one of the usual folders of daemons.
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
    """Ask slurmd for its version, which decides about cgroup.conf."""
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

    The nodes are named n1, n2, ...; ``SLURMD_NODENAME`` differs per node, the host name does not.
    Several may run at a time. If the process that started it dies, also by SIGKILL, everything
    ends within seconds: daemons, jobs, commands that use its configuration, and the folder.

    Tested with Slurm 22.05, 24.11 and 26.05, as root and as an ordinary user; 26.05 refuses the
    user ``nobody``. Slurm 23.02 and 23.11 cannot turn cgroups off: slurmd takes the kind that it
    finds on the machine, and `start` fails with the end of slurmd's log where it may not use that.

    Parameters
    ----------
    nodes : int, default 4
        How many.
    cpus : int or sequence of int, default 2
        CPUs of each node; a sequence has one item a node. May exceed what the machine has; then
        Slurm binds no task to a CPU.
    memory : int or sequence of int, default 4000
        Memory that each node claims to have, in MB; not enforced.
    gpus : int or sequence of int, default 0
        GPUs that each node claims to have. Slurm hands them out (``CUDA_VISIBLE_DEVICES``), but
        there is no device.
    private_tmp : bool, default False
        Give each node its own /tmp, so that a file there is seen neither on other nodes nor by
        the process that started all this, as on a real machine. Needs root. The files lie in
        ``directory / "tmp" / NODE``.
    shared : sequence of str or Path
        Folders that all nodes see although they lie below a private /tmp, such as ``sys.prefix``
        when the virtual environment is there.
    threads_per_core : int, default 1
        How many of a node's CPUs are hardware threads of one core.
    options : mapping of str to str, optional
        Lines of slurm.conf that take precedence over those of `LocalSlurm`, such as
        ``{"SelectTypeParameters": "CR_Core_Memory"}`` to have memory allocated, too.
    start_timeout : float, default 30
        Seconds within which all nodes must be idle.

    Attributes
    ----------
    directory : pathlib.Path
        The folder of everything: configuration, logs, spool folders. On every node the same, and
        readable by other users, except the key. Exists from `start` to `close`.
    config_file : pathlib.Path
        The slurm.conf.
    node_names : list of str
        ``["n1", ...]``.

    Raises
    ------
    ValueError
        For a number of nodes, CPUs, GPUs or MB that makes no sense.

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
        # Not below the temporary folder of the user: nodes may have their own /tmp, other users
        # must reach it, and the paths of sockets in it must stay below 108 bytes.
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

        ``os.environ`` as it is now, without what Slurm set in it (an outer job, or options such
        as SALLOC_PARTITION), plus ``SLURM_CONF``.
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
            If a program is missing, a daemon ends, or it takes longer than `start_timeout`; with
            the last lines of the daemons' logs. Nothing is left behind then.
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
        """Cancel all jobs, end all daemons and whatever they started, and remove the folder.

        Jobs get a second to end by themselves. May be called again, and does nothing in a
        process forked from the one that called `start`.

        Raises
        ------
        LocalSlurmError
            If a process or the folder could not be removed.
        """
        if self._sweeper is None or self._owner != os.getpid():
            return
        try:
            with contextlib.suppress(LocalSlurmError):
                self._cancel(self.jobs)
        finally:
            self._end_all()

    def stop_node(self, name: str) -> None:
        """Kill a node: its slurmd, slurmstepds and tasks, at once, like a power failure.

        Slurm notices after its SlurmdTimeout, 15 s, or when it next talks to the node.

        Parameters
        ----------
        name : str
            One of `node_names` whose node runs.

        Raises
        ------
        LocalSlurmError
            If it does not run.
        """
        if name not in self._keepers:
            raise LocalSlurmError(
                f"node {name} does not run; those that do: {', '.join(self._keepers)}"
            )
        self._stop_daemons([name])

    def start_node(self, name: str) -> None:
        """Start a node again after `stop_node`; does not wait until Slurm has it back.

        Parameters
        ----------
        name : str
            One of `node_names` whose node does not run.

        Raises
        ------
        LocalSlurmError
            If there is no such node, or it runs.
        """
        if name not in self.node_names or name in self._keepers:
            raise LocalSlurmError(
                f"node {name} is unknown or runs; running: {', '.join(self._keepers)}"
            )
        self._start_node(name)

    def crashed_nodes(self) -> list[str]:
        """Nodes whose slurmd has ended by itself.

        Slurm's daemons have been seen to crash under load. Such a node stays down until
        `stop_node` and `start_node`.

        Returns
        -------
        list of str
            Their names.
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
            The command.
        timeout : float, default 60
            Seconds. After that the command's session of processes is killed and the jobs it made
            are cancelled.
        **kwargs
            `input` (str), or anything `subprocess.Popen` takes, such as `cwd` and `env`.

        Returns
        -------
        subprocess.CompletedProcess
            With text in `stdout` and `stderr`; a non-zero exit code is not an error.

        Raises
        ------
        LocalSlurmError
            If it ran out of time, with the output so far.
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
            The command.
        nodes : int, optional
            How many nodes to allocate; all of them by default.
        options : sequence of str, default ("--exclusive",)
            Further options of salloc. Without ``--exclusive`` one holds one CPU a node.
        timeout, **kwargs
            As for `run`; `timeout` includes waiting for the allocation.

        Returns
        -------
        subprocess.CompletedProcess
            As for `run`. salloc adds its own lines to `stderr`.

        Raises
        ------
        LocalSlurmError
            As for `run`.
        """
        count = len(self.node_names) if nodes is None else nodes
        return self.run(["salloc", f"-N{count}", *options, *argv], timeout, **kwargs)

    def jobs(self) -> list[str]:
        """Ids of all jobs that wait, run or are completing.

        Raises
        ------
        LocalSlurmError
            If Slurm does not answer within 10 s; as for `steps`.
        """
        return self._query("squeue", "--noheader", "--format=%i")

    def steps(self) -> list[str]:
        """Ids of all running steps, as ``squeue --steps`` prints them.

        That is ``JOB.NUMBER``, and ``JOB.batch`` for the script of an sbatch job. This Slurm has
        no ``extern`` steps.
        """
        return self._query("squeue", "--steps", "--noheader", "--format=%i")

    def logs(self) -> dict[str, str]:
        """The last lines of every daemon's log by its name: munged, slurmctld, n1, ..."""
        return {name: self._log_tail(name) for name in ("munged", "slurmctld", *self.node_names)}

    # How.

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
                # Ctrl-C at the terminal is for the owner, who then closes.
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
        """End these daemons and their descendants, all at the same time."""
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
        """Wait until `trouble` answers nothing; see that no daemon ends meanwhile."""
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
        # Slurm's own log has times; what it says before it has read its configuration, and all
        # of munged, is in the captured output.
        for path in (self.directory / "log" / f"{name}{suffix}" for suffix in (".log", ".out")):
            with contextlib.suppress(FileNotFoundError):
                text = path.read_text(errors="replace")
                if text:
                    return "\n".join(text.splitlines()[-_LOG_LINES:])
        return ""

    def _query(self, *argv: str, timeout: float = _QUERY_TIMEOUT) -> list[str]:
        """Lines that a Slurm command prints."""
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
        """Cancel jobs and wait until they are gone, or have had their grace."""
        deadline = time.monotonic() + _CANCEL_GRACE
        jobs = find_jobs()
        if jobs:
            self._query("scancel", *jobs)
        while jobs and time.monotonic() < deadline:
            time.sleep(_POLL)
            jobs = find_jobs()

    def _abandon(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        """Kill a command's session, cancel the jobs it made, return its output so far."""
        process.kill()
        # Not the process group: salloc gives its command a group of its own.
        keeper.kill_session(process.pid)
        with contextlib.suppress(LocalSlurmError):
            # Slurm keeps the session that a job was requested from.
            self._cancel(lambda: self._jobs_of_session(process.pid))
        try:
            output, errors = process.communicate(timeout=1)
        except subprocess.TimeoutExpired as late:  # a process of another session holds the pipe
            return _text(late.output), _text(late.stderr)
        return _text(output), _text(errors)

    def _jobs_of_session(self, session: int) -> list[str]:
        lines = self._query("squeue", "--noheader", "--Format=JobID:20,AllocSID:20")
        return [job for job, sid in map(str.split, lines) if sid == str(session)]


def _text(output: str | bytes | None) -> str:
    # What TimeoutExpired carries is bytes, also of a process opened in text mode.
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


# The command line.
