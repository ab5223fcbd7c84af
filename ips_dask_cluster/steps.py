"""The processes of a cluster: the steps that run the node scripts, and their Dask faces.

A :class:`Step` is one process we started: an ``srun`` over some nodes or, without Slurm, the same
script on this machine. :class:`Steps` places workers on nodes and starts one step for a whole
round of them. :class:`SrunScheduler` and :class:`SrunNode` are what distributed's ``SpecCluster``
starts and closes. Command lines and script text are made in ``launch``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from distributed.core import Status
from distributed.deploy.spec import ProcessInterface

from ips_dask_cluster import launch
from ips_dask_cluster.allocation import Allocation, Node
from ips_dask_cluster.containers import Container
from ips_dask_cluster.diagnosis import diagnose
from ips_dask_cluster.errors import ClusterError, ClusterStartError, NotEnoughNodesError, StepError
from ips_dask_cluster.jobqueue import Job

__all__ = ["SrunNode", "SrunScheduler", "Step", "StepSettings", "Steps"]

_TAIL_BYTES = 4096
_TAIL_LINES = 12
_SLURM_COMMAND_SECONDS = 10


@dataclass(frozen=True)
class StepSettings:
    """What the steps of one cluster have in common.

    Parameters
    ----------
    name : str
        The cluster's name; part of every worker's and step's name.
    run_directory : pathlib.Path
        Seen by all nodes: witness file, certificates, logs.
    log_directory : pathlib.Path
        One log file per node and role.
    python : str
        The Python of the nodes.
    worker_command : str
        Module whose ``main`` is the worker's command line.
    worker_arguments : tuple of str
        For every worker's command line.
    scheduler_arguments : tuple of str
        For the scheduler's command line.
    cores : int or None
        Threads of a worker; None: every CPU held of its node.
    memory : int or None
        Memory limit of a worker in bytes; None: the memory held of its node.
    container : Container or None
        What scheduler and workers run in.
    environment : dict of str to str
        Set for scheduler, workers and so for tasks.
    prologue : tuple of str
        Shell lines of the user, run first on every node.
    local_directory : str or None
        Node-local directory for Dask's spilling; None: a temporary one, removed at the end.
    restarts : int
        How often a worker that died is started again on its node.
    start_timeout : float
        Seconds until the scheduler must have announced itself.
    close_timeout : float
        Seconds that steps get to end by themselves.
    grace : int
        Seconds between a node's order to leave and the end of its processes.
    srun_extra_args, srun_args_skip : tuple of str
        As for ``launch.srun_argv``.
    template_directory : pathlib.Path or None
        A site's own templates.
    inherit_stdout : bool
        True: what tasks print goes to this process's standard output; False: to the steps' logs.
    """

    name: str
    run_directory: Path
    log_directory: Path
    python: str
    worker_command: str = "distributed.cli.dask_worker"
    worker_arguments: tuple[str, ...] = ()
    scheduler_arguments: tuple[str, ...] = ()
    cores: int | None = None
    memory: int | None = None
    container: Container | None = None
    environment: dict[str, str] = field(default_factory=dict)
    prologue: tuple[str, ...] = ()
    local_directory: str | None = None
    restarts: int = 3
    start_timeout: float = 120
    close_timeout: float = 10
    grace: int = 3
    srun_extra_args: tuple[str, ...] = ()
    srun_args_skip: tuple[str, ...] = ()
    template_directory: Path | None = None
    inherit_stdout: bool = False

    @property
    def witness(self) -> Path:
        """The file by which a node sees that the run directory is the driver's."""
        return self.run_directory / f"{self.name}.witness"


class Step:
    """One process we started, and owner of everything about it.

    Parameters
    ----------
    role : {"scheduler", "worker"}
        For messages.
    argv : sequence of str
        The command line.
    nodes : sequence of str
        Where it runs.
    log : pathlib.Path
        File for its standard error, on this machine.
    job_name : str
        Its name in ``squeue --steps``; empty for a local process.
    """

    def __init__(
        self, role: str, argv: Sequence[str], nodes: Sequence[str], log: Path, job_name: str = ""
    ) -> None:
        self.role = role
        self.argv = list(argv)
        self.nodes = tuple(nodes)
        self.log = log
        self.job_name = job_name
        self.process: asyncio.subprocess.Process | None = None

    @property
    def exit_code(self) -> int | None:
        """Exit code of the process, None while it runs or before it starts."""
        return self.process.returncode if self.process else None

    async def start(self, stdout: int | None) -> None:
        """Start the process.

        Parameters
        ----------
        stdout : int or None
            A file descriptor, ``asyncio.subprocess.PIPE``, or None to share ours.
        """
        with open(self.log, "ab") as log:
            try:
                self.process = await asyncio.create_subprocess_exec(
                    *self.argv,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=log if stdout == asyncio.subprocess.STDOUT else stdout,
                    stderr=log,
                    env=launch.without_step_variables(os.environ),
                    # Ctrl-C in a terminal or a notebook is for the driver, not for srun
                    start_new_session=True,
                )
            except FileNotFoundError:
                raise ClusterError(
                    f"{self.argv[0]} is not on PATH: load the site's slurm module, or pass "
                    'launcher="local" to stay on this machine'
                ) from None

    async def send(self, line: str) -> None:
        """Send a line to the scripts of all nodes of the step."""
        assert self.process is not None and self.process.stdin is not None
        with contextlib.suppress(ConnectionError, RuntimeError):  # it has ended: its watcher tells
            self.process.stdin.write(line.encode() + b"\n")
            await self.process.stdin.drain()

    def tail(self) -> str:
        """Return the last lines of its log."""
        with contextlib.suppress(OSError), open(self.log, "rb") as file:
            file.seek(max(0, os.path.getsize(self.log) - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
            return "\n".join(lines[-_TAIL_LINES:])
        return ""

    def error(self) -> StepError:
        """Return why the step ended, as an error to raise."""
        tail = self.tail()
        cause = diagnose(self.exit_code, tail)
        return StepError(
            self.role, ",".join(self.nodes), self.exit_code, cause, tail, str(self.log)
        )

    def given_up(self) -> bool:
        """Tell whether the script has failed on some node while the step goes on elsewhere."""
        return bool(re.search(r"^srun: error: \S+: tasks? \S+: ", self.tail(), re.MULTILINE))

    async def end(self, patience: float) -> None:
        """See to it that the process is gone; never raises.

        Parameters
        ----------
        patience : float
            Seconds to end by itself before its input is closed, and again before it is signalled.
        """
        if self.process is None:
            return
        if not await self._ended(patience):
            assert self.process.stdin is not None
            self.process.stdin.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if await self._ended(patience):
                break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
        else:
            await self._cancel()
            await self._ended(patience)
        if self.process.stdin is not None:
            self.process.stdin.close()

    async def _ended(self, seconds: float) -> bool:
        assert self.process is not None
        try:
            await asyncio.wait_for(self.process.wait(), seconds)
        except (asyncio.TimeoutError, TimeoutError):
            return False
        return True

    async def _cancel(self) -> None:
        """Cancel what Slurm still has of the step; srun does not tell its id, squeue does."""
        if not self.job_name:
            return
        listing = await _output("squeue", "--steps", "--noheader", "--format=%i %j")
        for line in listing.splitlines():
            step_id, _, job_name = line.partition(" ")
            if job_name == self.job_name:
                await _output("scancel", step_id)


async def _output(*argv: str) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return ""
    try:
        out, _ = await asyncio.wait_for(process.communicate(), _SLURM_COMMAND_SECONDS)
    except (asyncio.TimeoutError, TimeoutError):
        process.kill()
        return ""
    return out.decode(errors="replace")


class Steps:
    """Which worker runs where, and the steps that run them.

    Parameters
    ----------
    allocation : Allocation
        The nodes; without a job id, steps are local processes.
    settings : StepSettings
        What the steps have in common.
    on_failure : callable
        Called once with a :class:`StepError` for each step that ends when it should not.
    """

    def __init__(
        self,
        allocation: Allocation,
        settings: StepSettings,
        on_failure: Callable[[StepError], None],
    ) -> None:
        self.allocation = allocation
        self.settings = settings
        self.placed: dict[str, Node] = {}
        self.all: list[Step] = []
        self.scheduler: Step | None = None
        self._on_failure = on_failure
        self._step_of: dict[str, Step] = {}
        self._leaving: set[str] = set()
        self._waiting: list[str] = []
        self._round: asyncio.Future[None] | None = None
        self._watchers: set[asyncio.Task[None]] = set()
        self._address: str | None = None
        self._closing = False

    # -- placing ---------------------------------------------------------------------------

    def place(self, workers: Sequence[str]) -> dict[str, Node]:
        """Give each worker a free node and return where each is.

        Raises
        ------
        NotEnoughNodesError
            There are fewer free nodes than workers; nothing is placed then.
        """
        taken = {node.name for node in self.placed.values()}
        free = [node for node in self.allocation.nodes if node.name not in taken]
        if len(workers) > len(free):
            held = len(self.allocation.nodes)
            raise NotEnoughNodesError(len(workers), len(free), held, str(self.allocation))
        placed = dict(zip(workers, free, strict=False))
        self.placed.update(placed)
        return placed

    # -- what runs -------------------------------------------------------------------------

    def worker_script(self, placed: dict[str, Node]) -> str:
        """Return the script of a worker step on nodes of one size."""
        settings = self.settings
        node = next(iter(placed.values()))
        memory = node.memory if settings.memory is None else settings.memory
        arguments = [
            *("--nthreads", settings.cores or node.cpus),
            *("--memory-limit", memory or "auto"),
            *settings.worker_arguments,
        ]
        values = self._common_values() | {
            "workers": launch.words(f"{node.name}={worker}" for worker, node in placed.items()),
            "worker_command": shlex.quote(settings.worker_command),
            "arguments": launch.words(arguments),
            "local_directory": shlex.quote(settings.local_directory or ""),
            "restarts": str(settings.restarts),
            "start_timeout": str(int(settings.start_timeout)),
        }
        return launch.render("worker.sh", values, settings.template_directory)

    def scheduler_script(self) -> str:
        """Return the script of the scheduler step."""
        values = self._common_values() | {
            "name": shlex.quote(f"{self.settings.name}-scheduler"),
            "arguments": launch.words(self.settings.scheduler_arguments),
        }
        return launch.render("scheduler.sh", values, self.settings.template_directory)

    def _common_values(self) -> dict[str, str]:
        settings = self.settings
        exports = (
            f"export {name}={shlex.quote(value)}" for name, value in settings.environment.items()
        )
        prefix = settings.container.prefix() if settings.container else []
        return {
            "witness": shlex.quote(str(settings.witness)),
            "run_directory": shlex.quote(str(settings.run_directory)),
            "log_directory": shlex.quote(str(settings.log_directory)),
            "prologue": "\n".join(settings.prologue),
            "environment": "\n".join(exports),
            "container": launch.words(prefix),
            "python": shlex.quote(settings.python),
            "grace": str(settings.grace),
        }

    def command(self, role: str, nodes: Sequence[Node], script: str, number: int) -> list[str]:
        """Return the command line of a step: an srun, or a local shell without Slurm."""
        job_name = f"{self.settings.name}-{role}-{number}"
        command = ["bash", "-c", script, job_name]
        if self.allocation.job_id is None:
            return [*command, nodes[0].name]
        return launch.srun_argv(
            [node.name for node in nodes],
            command,
            job_id=self.allocation.job_id,
            job_name=job_name,
            cpus=1 if role == "scheduler" else self.settings.cores or nodes[0].cpus,
            extra_args=self.settings.srun_extra_args,
            args_skip=self.settings.srun_args_skip,
            directory=self.settings.template_directory,
        )

    # -- starting --------------------------------------------------------------------------

    async def start_scheduler(self) -> None:
        """Start the scheduler step on the first node."""
        node = self.allocation.nodes[0]
        self.scheduler = await self._start("scheduler", [node], self.scheduler_script())

    async def start_workers(self, workers: Sequence[str]) -> None:
        """Start the workers: one step for all nodes of one size, or a local process for each."""
        placed = self.place(workers)
        for group in self._groups(placed):
            step = await self._start("worker", list(group.values()), self.worker_script(group))
            self._step_of.update(dict.fromkeys(group, step))
            if self._address is not None:
                await step.send(self._address)

    def _groups(self, placed: dict[str, Node]) -> list[dict[str, Node]]:
        if self.allocation.job_id is None:
            return [{worker: node} for worker, node in placed.items()]

        def size(item: tuple[str, Node]) -> tuple[int, int]:
            return item[1].cpus, item[1].memory

        return [dict(group) for _, group in groupby(sorted(placed.items(), key=size), key=size)]

    async def _start(self, role: str, nodes: list[Node], script: str) -> Step:
        number = len(self.all)
        argv = self.command(role, nodes, script, number)
        names = [node.name for node in nodes]
        log = self.settings.log_directory / f"{self.settings.name}-{role}-{number}.step.log"
        step = Step(role, argv, names, log, argv[-1] if self.allocation.job_id else "")
        if role == "scheduler":
            stdout: int | None = asyncio.subprocess.PIPE
        else:
            stdout = None if self.settings.inherit_stdout else asyncio.subprocess.STDOUT
        await step.start(stdout)
        self.all.append(step)
        watcher = asyncio.ensure_future(self._watch(step))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return step

    async def _watch(self, step: Step) -> None:
        assert step.process is not None
        code = await step.process.wait()
        workers = {worker for worker, of in self._step_of.items() if of is step} - self._leaving
        if self._closing or (code == 0 and not workers and step.role == "worker"):
            return
        self._on_failure(step.error())

    async def announce(self, address: str) -> None:
        """Tell every worker step, started or yet to start, where the scheduler is."""
        self._address = address
        for step in self.all:
            if step.role == "worker":
                await step.send(address)

    async def join(self, worker: str) -> Step:
        """Start a worker in one step with all others that ask in the same round.

        ``SpecCluster`` starts all workers of a round at once, so that every call is in before the
        round's task runs.
        """
        if worker not in self._step_of:
            self._waiting.append(worker)
            if self._round is None:
                self._round = asyncio.ensure_future(self._start_round())
            await asyncio.shield(self._round)
        step = self._step_of[worker]
        if step.exit_code is not None:
            raise step.error()
        return step

    async def _start_round(self) -> None:
        workers, self._waiting, self._round = self._waiting, [], None
        await self.start_workers(sorted(workers))

    # -- ending ----------------------------------------------------------------------------

    def expect_leave(self, worker: str) -> None:
        """From now on, the end of this worker is in order."""
        self._leaving.add(worker)

    async def release(self, worker: str) -> None:
        """Make a worker's node free again, ending what is left of the worker there."""
        step = self._step_of.pop(worker, None)
        if step is not None and step.exit_code is None and not self._closing:
            await step.send(f"stop {worker}")
        self.placed.pop(worker, None)
        self._leaving.discard(worker)

    def expect_end(self) -> None:
        """From now on, a step that ends is in order."""
        self._closing = True

    async def close(self) -> None:
        """End all steps: by themselves, then by closing their input, by signal, by scancel."""
        self.expect_end()
        patience = self.settings.close_timeout / 2
        await asyncio.gather(*(step.end(patience) for step in self.all))
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)


async def _announced(scheduler: Step) -> str:
    """Return the address that scheduler.sh prints; anything else on its output is chatter."""
    assert scheduler.process is not None and scheduler.process.stdout is not None
    async for line in scheduler.process.stdout:
        mark, _, address = line.decode(errors="replace").strip().partition(" ")
        if mark == "ips-dask-scheduler":
            return address
    await scheduler.process.wait()
    raise scheduler.error()


async def _discard_output(scheduler: Step) -> None:
    """Keep the scheduler's output pipe empty, so that it never blocks on a print."""
    assert scheduler.process is not None and scheduler.process.stdout is not None
    while await scheduler.process.stdout.read(2**16):
        pass


class SrunScheduler(ProcessInterface):  # type: ignore[misc]  # distributed is untyped
    """The scheduler as ``SpecCluster`` sees it: a step that announces its address.

    Parameters
    ----------
    steps : Steps
        Its ``scheduler`` step is started already. Other options are the scheduler's own; the
        cluster has put them into its command line.
    """

    def __init__(self, steps: Steps, **_options: Any) -> None:
        super().__init__()
        self.steps = steps
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Wait for the address of the step that the cluster has started, and pass it on.

        Raises
        ------
        StepError
            The step ended first.
        ClusterStartError
            No address came within ``start_timeout``.
        """
        step = self.steps.scheduler
        assert step is not None
        seconds = self.steps.settings.start_timeout
        try:
            self.address = await asyncio.wait_for(_announced(step), seconds)
        except (asyncio.TimeoutError, TimeoutError):
            raise ClusterStartError(0, 1, seconds, step.nodes, step.tail()) from None
        self._reader = asyncio.ensure_future(_discard_output(step))
        await self.steps.announce(self.address)
        await super().start()

    async def close(self) -> None:
        """Forget the process; :meth:`Steps.close` ends it."""
        if self._reader is not None:
            self._reader.cancel()
        await super().close()


class SrunNode(Job):  # type: ignore[misc]  # dask-jobqueue is untyped
    """One node of the cluster as ``SpecCluster`` sees it; a round of them shares one srun.

    Parameters
    ----------
    scheduler, name
        As for dask-jobqueue's ``Job``; the address reaches the node by its step's input instead.
    steps : Steps
        Starts it.
    **job_options
        Of dask-jobqueue's ``Job``.
    """

    config_name = "slurm-allocation"
    submit_command = "srun"
    cancel_command = "scancel"

    def __init__(
        self,
        scheduler: Any = None,
        name: str | None = None,
        steps: Steps | None = None,
        **job_options: Any,
    ) -> None:
        super().__init__(scheduler=scheduler, name=name, **job_options)
        self.job_header = ""
        self.steps = steps

    async def start(self) -> None:
        """Start the node's worker, together with the others of this round.

        Raises
        ------
        StepError
            The step has ended already.
        NotEnoughNodesError
            The allocation has no free node left.
        """
        assert self.steps is not None
        await self.steps.join(self.name)
        await ProcessInterface.start(self)

    async def close(self) -> None:
        """Drain the node and give it back; siblings in the same step go on."""
        if self.status in (Status.closing, Status.closed):
            return
        self.status = Status.closing
        if self.steps is not None:
            self.steps.expect_leave(self.name)
        cluster = getattr(self, "_cluster", lambda: None)()
        if cluster is not None and cluster.status == Status.running:
            await cluster.drain([self.name])
        if self.steps is not None:
            await self.steps.release(self.name)
        await ProcessInterface.close(self)
