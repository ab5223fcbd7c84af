"""Place the workers of a cluster on nodes, and run one job step for each round of workers."""

from __future__ import annotations

import asyncio
import glob
import logging
import os
import shlex
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby

from ips_dask_cluster import containers, orphans, scripts, tls_errors, versions
from ips_dask_cluster.errors import ClusterError, NotEnoughNodesError
from ips_dask_cluster.logs import end_of_file
from ips_dask_cluster.settings import StepSettings
from ips_dask_cluster.slurm.allocation import Allocation, Node
from ips_dask_cluster.slurm.diagnosis import diagnose, recognise
from ips_dask_cluster.slurm.srun import srun_argv
from ips_dask_cluster.slurm.variables import SEEN_BY_TASKS
from ips_dask_cluster.steps.node_locks import Claims
from ips_dask_cluster.steps.step import LOG_BYTES, Step

__all__ = ["Steps"]

logger = logging.getLogger("ips_dask_cluster")

#: Nodes of one step. Its script, one word of the command line, names each; a word has at most
#: 128 kB (execve(2)).
_MOST_NODES = 1000


class Steps:
    """The steps of a cluster, and the node of each of its workers.

    Without a job id in the allocation, steps are local processes. ``on_end`` is called with each
    step that ended unexpectedly. Everything runs in the event loop of the cluster.
    """

    def __init__(
        self,
        allocation: Allocation,
        settings: StepSettings,
        claims: Claims,
        on_end: Callable[[Step], None],
    ) -> None:
        self.allocation = allocation
        self.settings = settings
        self.placed: dict[str, Node] = {}
        self.lost: set[str] = set()
        self.all: list[Step] = []
        self.scheduler: Step | None = None
        self._claims = claims
        self._on_end = on_end
        self._step_of: dict[str, Step] = {}
        self._leaving: set[str] = set()
        self._released = asyncio.Event()
        self._waiting: list[str] = []
        self._round: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Future[None]] = set()
        self._address: str | None = None
        self._count = 0
        self._closing = False

    # -- placing ---------------------------------------------------------------------------

    def free_nodes(self) -> list[Node]:
        """Return the nodes that could take a worker now, those that this cluster holds first."""
        taken = {node.name for node in self.placed.values()} | self.lost
        free = [
            node
            for node in self.allocation.nodes
            if node.name not in taken and self._claims.is_free(node.name)
        ]
        return sorted(free, key=lambda node: not self._claims.holds(node.name))

    def most_nodes(self) -> int:
        """Return how many nodes the cluster can have now: those in use and those that are free."""
        return len(self.placed) + len(self.free_nodes())

    def place(self, workers: Sequence[str]) -> dict[str, Node]:
        """Assign a free node to each worker and return the node of each.

        Raises ``NotEnoughNodesError`` and places nothing if there are fewer free nodes than
        workers.
        """
        if any(not self._claims.holds(node.name) for node in self.free_nodes()[: len(workers)]):
            self._claims.look_elsewhere()
        free = (node for node in self.free_nodes() if self._claims.take(node.name))
        placed = dict(zip(workers, free, strict=False))
        if len(placed) < len(workers):
            for node in placed.values():
                self._claims.give_back(node.name)
            raise self.not_enough(len(workers), len(placed))
        self.placed.update(placed)
        return placed

    def not_enough(self, wanted: int, free: int) -> NotEnoughNodesError:
        """Return the error for a request of more nodes than are free."""
        held, lost = len(self.allocation.nodes), ",".join(sorted(self.lost))
        return NotEnoughNodesError(wanted, free, held, str(self.allocation), lost)

    def members(self, worker: str) -> list[str]:
        """Return the names of the worker processes of one entry of the cluster's spec."""
        count = self.settings.processes
        return [f"{worker}-{part}" for part in range(count)] if count > 1 else [worker]

    def node_names(self) -> dict[str, str]:
        """Return the name of the node of each worker process."""
        placed = self.placed.items()
        return {name: node.name for worker, node in placed for name in self.members(worker)}

    # -- what runs -------------------------------------------------------------------------

    def worker_script(self, placed: dict[str, Node]) -> str:
        """Return the script of a worker step; all of its nodes have the same size."""
        settings = self.settings
        node = next(iter(placed.values()))
        memory = node.memory if settings.memory is None else settings.memory
        threads = max(1, (settings.cores or node.cpus) // settings.processes)
        arguments = [
            *("--nthreads", threads),
            *(("--resources", _resources(settings, threads, node.gpus)) if settings.slots else ()),
            *("--memory-limit", memory // settings.processes or "auto"),
            *settings.worker_arguments,
        ]
        values = self._common_values(settings.local_directory) | {
            "environment": _exports(settings.environment),
            "seen_by_tasks": " | ".join(SEEN_BY_TASKS),
            "workers": scripts.words(f"{node.name}={worker}" for worker, node in placed.items()),
            "processes": str(settings.processes),
            "gpus_per_worker": str(settings.gpus_per_worker),
            "reaper": orphans.reaper_source(settings.container),
            "worker_command": shlex.quote(settings.worker_command),
            "arguments": scripts.words(arguments),
            "local_directory": shlex.quote(settings.local_directory or ""),
            "restarts": str(settings.restarts),
            "start_timeout": str(int(settings.start_timeout)),
        }
        return scripts.render("worker.sh", values, settings.template_directory)

    def scheduler_script(self) -> str:
        """Return the script of the scheduler step."""
        values = self._common_values() | {
            "environment": _exports(self.settings.scheduler_environment),
            "name": shlex.quote(f"{self.settings.name}-scheduler"),
            "arguments": scripts.words(self.settings.scheduler_arguments),
        }
        return scripts.render("scheduler.sh", values, self.settings.template_directory)

    def _common_values(self, local_directory: str | None = None) -> dict[str, str]:
        settings = self.settings
        return {
            "witness": shlex.quote(str(settings.witness)),
            "run_directory": shlex.quote(str(settings.run_directory)),
            "log_directory": shlex.quote(str(settings.log_directory)),
            "log_prefix": shlex.quote(f"{settings.name}-"),
            "prologue": "\n".join(settings.prologue),
            "container": self._container_prefix(local_directory),
            "scratch_inside": containers.scratch_inside(
                None if local_directory else settings.container
            ),
            "check": versions.check_source(
                versions.driver_versions() if settings.version_check else {},
                [str(settings.run_directory)] if settings.container else [],
            )
            + tls_errors.isolating_source(),
            "python": shlex.quote(settings.python),
            "grace": str(settings.grace),
        }

    def _container_prefix(self, local_directory: str | None) -> str:
        settings = self.settings
        if settings.container is None:
            return ""
        here = os.getcwd()
        # The parent of the run directory, because it is the same mount point in every run
        visible = [here, str(settings.run_directory.parent), str(settings.log_directory)]
        visible.append(local_directory or containers.SCRATCH)
        return containers.shell_prefix(settings.container, visible, here)

    def command(self, role: str, nodes: Sequence[Node], script: str, number: int) -> list[str]:
        """Return the command line of a step: an srun, or a local shell without Slurm."""
        job_name = f"{self.settings.name}-{role}-{number}"
        command = ["bash", "-c", script, job_name]
        if self.allocation.job_id is None:
            return [*command, nodes[0].name]
        return srun_argv(
            [node.name for node in nodes],
            command,
            job_id=self.allocation.job_id,
            job_name=job_name,
            cpus=1 if role == "scheduler" else nodes[0].cpus,
            gpus=0 if role == "scheduler" else nodes[0].gpus,
            gpus_in_total=self._is_rich(nodes[0]),
            extra_args=self.settings.srun_extra_args,
            args_skip=self.settings.srun_args_skip,
            directory=self.settings.template_directory,
        )

    def _is_rich(self, node: Node) -> bool:
        """Return whether a node holds more GPUs than others, as after ``salloc -N2 --gpus=3``."""
        return node.gpus > min(each.gpus for each in self.allocation.nodes)

    def text(self) -> str:
        """Return the command lines and scripts of both roles as one shell script for people."""
        nodes = list(self.allocation.nodes)
        placed = self.placed or {f"{self.settings.name}-{i}": n for i, n in enumerate(nodes)}
        group = self.groups(placed)[0]
        parts = []
        for role, script, on in (
            ("scheduler", self.scheduler_script(), [self.scheduler_node()]),
            ("worker", self.worker_script(group), list(group.values())),
        ):
            argv = self.command(role, on, script, 0)
            command = " ".join('"$script"' if w == script else shlex.quote(w) for w in argv)
            end = f"END_OF_{role.upper()}_SCRIPT"
            parts.append(f"# {role} step\nread -r -d '' script <<'{end}'\n{script}{end}\n{command}")
        return "\n\n".join(parts) + "\n"

    # -- starting --------------------------------------------------------------------------

    def scheduler_node(self) -> Node:
        """Return the scheduler's node: the driver's own if the cluster holds it, else the first."""
        ours = [node for node in self.allocation.nodes if self._claims.holds(node.name)]
        here = [node for node in ours if node.name == os.environ.get("SLURMD_NODENAME")]
        return (here or ours or list(self.allocation.nodes))[0]

    async def start_scheduler(self) -> None:
        """Start the scheduler step."""
        node = self.scheduler_node()
        self.scheduler = await self._start("scheduler", [node], self.scheduler_script())

    async def start_workers(self, workers: Sequence[str]) -> None:
        """Start workers: one step for all nodes of one size; without Slurm, a process for each."""
        placed = self.place(workers)
        try:
            for group in self.groups(placed):
                step = await self._start("worker", list(group.values()), self.worker_script(group))
                self._step_of.update(dict.fromkeys(group, step))
                if self._address is not None:
                    await step.send(self._address)
        except ClusterError:
            for worker in placed:
                if worker not in self._step_of:  # workers of an earlier group keep their nodes
                    await self.release(worker)
            raise

    def groups(self, placed: dict[str, Node]) -> list[dict[str, Node]]:
        """Return the workers that share a step: those on nodes of one size; one each without Slurm.

        A group has at most as many nodes as a command line can name. A node that holds more GPUs
        than others is a group by itself, see :func:`ips_dask_cluster.slurm.gres.gres_options`.
        """
        if self.allocation.job_id is None:
            return [{worker: node} for worker, node in placed.items()]

        def size(item: tuple[str, Node]) -> tuple[int, int, int, str]:
            node = item[1]
            return node.cpus, node.memory, node.gpus, node.name if self._is_rich(node) else ""

        sizes = [list(group) for _, group in groupby(sorted(placed.items(), key=size), key=size)]
        return [
            dict(group[first : first + _MOST_NODES])
            for group in sizes
            for first in range(0, len(group), _MOST_NODES)
        ]

    async def _start(self, role: str, nodes: list[Node], script: str) -> Step:
        number, self._count = self._count, self._count + 1
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
        self._own(self._watch(step))
        return step

    def _own(self, awaitable: Awaitable[None]) -> None:
        task = asyncio.ensure_future(awaitable)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self, step: Step) -> None:
        assert step.process is not None
        code = await step.process.wait()
        if not self._closing and (code != 0 or self.workers_of(step) or step.role == "scheduler"):
            self._on_end(step)

    def workers_of(self, step: Step) -> list[str]:
        """Return the workers of a step that were neither asked to leave nor lost."""
        of_step = (worker for worker, of in self._step_of.items() if of is step)
        there = (worker for worker in of_step if worker not in self._leaving)
        return [worker for worker in there if self.placed[worker].name not in self.lost]

    async def announce(self, address: str) -> None:
        """Send the scheduler's address to every worker step, also to those that start later."""
        self._address = address
        for step in self.all:
            if step.role == "worker":
                await step.send(address)

    async def join(self, worker: str) -> Step:
        """Start a worker in one step with all others of the same round, and return that step.

        ``SpecCluster`` starts all workers of a round at once, so all calls have been made before
        the task of the round runs.
        """
        if worker not in self._step_of:
            self._waiting.append(worker)
            if self._round is None:
                self._round = asyncio.ensure_future(self._start_round())
            try:
                await asyncio.shield(self._round)
            except ClusterError:
                if worker not in self._step_of:  # workers of an earlier group have started
                    raise
        step = self._step_of[worker]
        if step.exit_code is not None:
            raise step.error()
        return step

    async def _start_round(self) -> None:
        workers, self._waiting, self._round = sorted(self._waiting), [], None
        while workers:
            self._released.clear()  # first, since a node may become free while steps start
            free = len(self.free_nodes())
            if free < len(workers) and self._leaving:  # draining nodes become free later
                now, workers = workers[:free], workers[free:]
            else:
                now, workers = workers, []
            if now:
                await self.start_workers(now)
            if workers and not self._closing:
                await self._released.wait()
            if self._closing:
                raise ClusterError("the cluster is closing")

    def symptom(self) -> str:
        """Return the diagnosis of the first known symptom in the cluster's logs, or nothing."""
        logs = sorted(self.settings.log_directory.glob(f"{glob.escape(self.settings.name)}*.log"))
        text = "\n".join(end_of_file(path, LOG_BYTES) for path in logs)
        return diagnose(None, text) if recognise(None, text) else ""

    # -- ending ----------------------------------------------------------------------------

    def leave_out(self, workers: Sequence[str]) -> None:
        """Mark the nodes of these workers as lost, so that the cluster uses them no more."""
        self.lost |= {self.placed[worker].name for worker in workers}

    def expect_leave(self, worker: str) -> None:
        """Regard the end of this worker as expected from now on."""
        self._leaving.add(worker)

    def release_after(self, worker: str, drained: Awaitable[None]) -> None:
        """Free a worker's node in the background, as soon as the worker is drained."""

        async def release() -> None:
            try:
                await drained
            except Exception as error:  # no caller awaits this task
                if not self._closing:
                    logger.warning(
                        "worker %s could not finish in order: %s", worker, error or repr(error)
                    )
            await self.release(worker)

        self._own(release())

    async def release(self, worker: str) -> None:
        """Free a worker's node and end what remains of the worker there."""
        step = self._step_of.pop(worker, None)
        if step is not None and step.exit_code is None and not self._closing:
            await step.send(f"stop {worker}")
        node = self.placed.pop(worker, None)
        if node is not None and not self._closing:
            self._claims.give_back(node.name)
        self._leaving.discard(worker)
        self._released.set()

    def expect_end(self) -> None:
        """Regard the end of every step as expected from now on."""
        self._closing = True
        self._released.set()  # ends the wait of a round for a free node

    async def close(self, connected: bool = True) -> None:
        """End all steps: wait for them, then close their input, send signals and cancel the steps.

        ``connected`` tells whether the scheduler knew all workers, so that it has closed them.
        """
        self.expect_end()
        patience = self.settings.close_timeout / 2
        # Only a scheduler that closes in order closes the workers; else close their input at once
        in_order = self.scheduler is not None and self.scheduler.exit_code in (None, 0)
        in_order = in_order and self._address is not None and connected
        await asyncio.gather(*(step.end(patience, in_order) for step in self.all))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _resources(settings: StepSettings, threads: int, gpus: int) -> str:
    """Return a worker's Dask resources; without ``gpu`` where several workers share all GPUs."""
    gpus = settings.gpus_per_worker or (gpus if settings.processes == 1 else 0)
    return f"slot={threads} gpu={gpus}" if gpus else f"slot={threads}"


def _exports(environment: dict[str, str]) -> str:
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment.items())
