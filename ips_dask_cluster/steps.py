"""All steps of a cluster: which worker is on which node, and one step for a whole round of them."""

from __future__ import annotations

import asyncio
import glob
import shlex
from collections.abc import Callable, Sequence
from itertools import groupby

from ips_dask_cluster import launch
from ips_dask_cluster.allocation import Allocation, Node
from ips_dask_cluster.diagnosis import diagnose, recognise
from ips_dask_cluster.errors import NotEnoughNodesError, StepError
from ips_dask_cluster.settings import StepSettings
from ips_dask_cluster.step import Step, log_tail

__all__ = ["Steps"]


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
        self._count = 0
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

    def members(self, worker: str) -> list[str]:
        """Return the names that the workers of an entry of the cluster's spec have."""
        count = self.settings.processes
        return [f"{worker}-{part}" for part in range(count)] if count > 1 else [worker]

    # -- what runs -------------------------------------------------------------------------

    def worker_script(self, placed: dict[str, Node]) -> str:
        """Return the script of a worker step on nodes of one size."""
        settings = self.settings
        node = next(iter(placed.values()))
        memory = node.memory if settings.memory is None else settings.memory
        arguments = [
            *("--nthreads", max(1, (settings.cores or node.cpus) // settings.processes)),
            *("--memory-limit", memory // settings.processes or "auto"),
            *settings.worker_arguments,
        ]
        values = self._common_values() | {
            "environment": _exports(settings.environment),
            "workers": launch.words(f"{node.name}={worker}" for worker, node in placed.items()),
            "processes": str(settings.processes),
            "worker_per_gpu": "yes" if settings.worker_per_gpu else "no",
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
            "environment": _exports(self.settings.scheduler_environment),
            "name": shlex.quote(f"{self.settings.name}-scheduler"),
            "arguments": launch.words(self.settings.scheduler_arguments),
        }
        return launch.render("scheduler.sh", values, self.settings.template_directory)

    def _common_values(self) -> dict[str, str]:
        settings = self.settings
        prefix = settings.container.prefix() if settings.container else []
        return {
            "witness": shlex.quote(str(settings.witness)),
            "run_directory": shlex.quote(str(settings.run_directory)),
            "log_directory": shlex.quote(str(settings.log_directory)),
            "prologue": "\n".join(settings.prologue),
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
        for group in self.groups(placed):
            step = await self._start("worker", list(group.values()), self.worker_script(group))
            self._step_of.update(dict.fromkeys(group, step))
            if self._address is not None:
                await step.send(self._address)

    def groups(self, placed: dict[str, Node]) -> list[dict[str, Node]]:
        """Return the workers that share a step: on nodes of one size, or one each without Slurm."""
        if self.allocation.job_id is None:
            return [{worker: node} for worker, node in placed.items()]

        def size(item: tuple[str, Node]) -> tuple[int, int]:
            return item[1].cpus, item[1].memory

        return [dict(group) for _, group in groupby(sorted(placed.items(), key=size), key=size)]

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

    def symptom(self) -> str:
        """Return a sentence on the first known symptom in any of the logs, or nothing."""
        logs = sorted(self.settings.log_directory.glob(f"{glob.escape(self.settings.name)}*.log"))
        text = "\n".join(log_tail(path) for path in logs)
        return diagnose(None, text) if recognise(None, text) else ""

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
        # Only a scheduler that is told to end tells the workers to; without one, close their input
        in_order = self.scheduler is not None and self.scheduler.exit_code in (None, 0)
        in_order = in_order and self._address is not None
        await asyncio.gather(*(step.end(patience, in_order) for step in self.all))
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)


def _exports(environment: dict[str, str]) -> str:
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment.items())
