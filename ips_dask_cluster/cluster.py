"""``SlurmAllocationCluster``: a Dask cluster on the nodes of the allocation one holds.

It keeps ``SpecCluster``'s promises: start, scale, close. What the keywords mean is in ``settings``,
what runs in ``steps``, how that is written down in ``launch``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import shlex
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
from dask.utils import parse_timedelta
from distributed import WorkerPlugin
from distributed.core import Status
from distributed.deploy.cluster import Cluster
from distributed.utils import Log, Logs
from tornado.ioloop import PeriodicCallback

from ips_dask_cluster import allocation as allocations
from ips_dask_cluster.allocation import Allocation
from ips_dask_cluster.containers import Container
from ips_dask_cluster.errors import ClusterError, ClusterStartError, NotEnoughNodesError, StepError
from ips_dask_cluster.jobqueue import JobQueueCluster
from ips_dask_cluster.nodes import SrunNode, SrunScheduler
from ips_dask_cluster.plugin_life import ClusterPlugins
from ips_dask_cluster.settings import Configured, StepSettings, step_settings
from ips_dask_cluster.steps import Steps

__all__ = ["SlurmAllocationCluster"]

logger = logging.getLogger("ips_dask_cluster")


class SlurmAllocationCluster(JobQueueCluster):  # type: ignore[misc]  # dask-jobqueue is untyped
    """A Dask cluster on the nodes of the Slurm allocation one already holds.

    It starts a scheduler and one worker per node as job steps (``srun``) inside the current
    allocation and submits no job. It is a sibling of dask-jobqueue's ``SLURMCluster``: the names
    of parameters, configuration and methods are the same. With no argument it takes the whole
    allocation; outside of one it starts the same scripts as processes on this machine.

    Parameters
    ----------
    n_workers : int, optional
        Workers to start; whole nodes are filled. Default: as many as ``nodes`` take.
    nodes : int, optional
        Nodes to use. Default: all of the allocation; one on a machine without Slurm.
    cores : int, optional
        Threads of all workers of a node. Default: the CPUs that the allocation holds of it.
    memory : str or int, optional
        Memory of all workers of a node, such as ``"64 GiB"``. Default: what the allocation holds.
    processes : int, optional
        Workers on a node. Default: 1.
    worker_per_gpu : bool, optional
        One worker for each GPU of a node, which sees only that one. Default: False.
    container : Container, optional
        What scheduler and workers run in, such as ``Shifter(image="docker:me/code:1")``.
    launcher : {"srun", "local"}, optional
        How steps are started. Default: ``srun`` inside a Slurm job, else ``local``.
    allocation : Allocation, optional
        The nodes to use. Default: asked of Slurm, or this machine.
    env, scheduler_env : mapping of str to str, optional
        Environment variables for workers and so for tasks, and for the scheduler.
    security : bool or distributed.Security, optional
        True (the default) makes temporary TLS certificates; False lets everybody on the network
        who finds the port run code as you.
    shared_temp_directory : str or Path, optional
        A directory that every node sees; the cluster's run directory is made in it, and removed
        at the end unless something went wrong. Default: the current directory.
    log_directory : str or Path, optional
        Where scheduler and workers write their logs, seen by every node. Default: the run
        directory.
    python, worker_extra_args, job_script_prologue, local_directory, interface, protocol, \
    death_timeout, nanny, scheduler_options, silence_logs, name, asynchronous, loop, config_name
        As for ``dask_jobqueue.SLURMCluster``.
    restarts : int, optional
        How often a worker that died is started again on its node. Default: 3.
    srun_extra_args : sequence of str, optional
        Further options for srun; they come last and so win.
    srun_args_skip : sequence of str, optional
        Options of the srun line to leave out, by how they begin.
    template_directory : str or Path, optional
        A site's own copies of ``scheduler.sh``, ``worker.sh`` and ``srun.txt``.
    worker_plugins : sequence of WorkerPlugin, optional
        Dask worker plugins that live as long as the cluster: each worker, also a late or a
        restarted one, sets them up, and tears them down when it is drained or the cluster closes.
        :mod:`ips_dask_cluster.plugins` has two ready-made ones.
    start_timeout, close_timeout, teardown_timeout : float, optional
        Seconds until the scheduler and the workers must be there (120), seconds that they get to
        end by themselves (10), and seconds that ``worker_plugins`` get before that (60).
    on_failure : callable, optional
        Called with a ``StepError``, in the cluster's own thread, when a step ends that should
        not have.

    Raises
    ------
    NotEnoughNodesError
        ``n_workers`` is more than the allocation has nodes.
    SlurmCommandError
        Slurm's programs are missing or refuse to answer.
    StepError
        A step could not start; the message has Slurm's words and a remedy.
    ClusterStartError
        The scheduler did not come up in time.

    Examples
    --------
    >>> from ips_dask_cluster import SlurmAllocationCluster
    >>> with SlurmAllocationCluster() as cluster:  # doctest: +SKIP
    ...     client = cluster.get_client()
    ...     client.wait_for_workers(4)
    ...     client.gather(client.map(lambda x: x + 1, range(100)))
    """

    job_cls = SrunNode
    status: Any  # distributed's Status; its base classes set it

    def __init__(
        self,
        n_workers: int | None = None,
        *,
        nodes: int | None = None,
        cores: int | None = None,
        memory: str | int | None = None,
        processes: int | None = None,
        worker_per_gpu: bool | None = None,
        container: Container | None = None,
        launcher: str | None = None,
        allocation: Allocation | None = None,
        env: Mapping[str, str] | None = None,
        scheduler_env: Mapping[str, str] | None = None,
        security: Any = None,
        scheduler_options: Mapping[str, Any] | None = None,
        interface: str | None = None,
        protocol: str | None = None,
        nanny: bool | None = None,
        name: str | None = None,
        config_name: str = "slurm-allocation",
        on_failure: Callable[[StepError], None] | None = None,
        worker_plugins: Sequence[WorkerPlugin] = (),
        asynchronous: bool = False,
        loop: Any = None,
        silence_logs: Any = "error",
        **settings: Any,
    ) -> None:
        settings |= {"cores": cores, "memory": memory, "nanny": nanny, "security": security}
        settings |= {"processes": processes, "worker_per_gpu": worker_per_gpu}
        self._configured = configured = Configured(config_name, settings)
        seconds = float(configured("teardown-timeout"))
        self._plugins = ClusterPlugins(worker_plugins, seconds)
        self._failure: StepError | None = None
        self._failure_callback = on_failure
        self.allocation = allocation or _find_allocation(
            launcher, nodes or n_workers, configured("cores")
        )
        self._processes = self._workers_per_node()
        if nodes is None and n_workers is not None:
            nodes = math.ceil(n_workers / self._processes)
        self._first_round = len(self.allocation.nodes) if nodes is None else nodes
        self._check_fits(self._first_round)
        job_id = self.allocation.job_id or "local"
        name = name or f"{configured('name')}-{job_id}-{uuid.uuid4().hex[:6]}"
        self.run_directory = self._make_run_directory(name)
        self._container = container
        self._environment = dict(env or {})
        self._scheduler_environment = dict(scheduler_env or {})
        held = self.allocation.nodes
        try:
            super().__init__(
                n_workers=0,  # the first round is started beside the scheduler, see _start
                loop=loop,
                security=configured("security") or None,  # dask-jobqueue knows no False
                silence_logs=silence_logs,
                name=name,
                asynchronous=asynchronous,
                scheduler_options=None if scheduler_options is None else dict(scheduler_options),
                scheduler_cls=SrunScheduler,
                interface=interface,
                protocol=protocol,
                config_name=config_name,
                cores=configured("cores") or min(node.cpus for node in held),
                memory=configured("memory") or min(node.memory for node in held),
                processes=self._processes,
            )
        except BaseException:
            self._abandon(asynchronous)
            raise

    def _abandon(self, asynchronous: bool) -> None:
        """End what a constructor that failed, or was interrupted, has started."""
        if not asynchronous and hasattr(self, "_loop_runner"):
            if hasattr(self, "steps") and self.status != Status.closed:  # Ctrl-C in a notebook
                with contextlib.suppress(Exception):
                    seconds = 3 * float(self._configured("close-timeout"))
                    self.sync(self._close, callback_timeout=seconds)
            self._loop_runner.stop()
        self._remove_run_directory(keep=self._failure is not None)
        self.status = Status.closed

    def _workers_per_node(self) -> int:
        if not self._configured("worker-per-gpu"):
            return int(self._configured("processes"))
        gpus = {node.gpus for node in self.allocation.nodes}
        if len(gpus) > 1 or gpus == {0}:
            held = ", ".join(f"{node.name}: {node.gpus}" for node in self.allocation.nodes[:8])
            raise ClusterError(
                f"worker_per_gpu: {self.allocation} must hold the same number of GPUs, at least "
                f"one, on each node, but it has {held}; see salloc --gpus-per-node"
            )
        return int(gpus.pop())

    # -- before the start ------------------------------------------------------------------

    def _make_run_directory(self, name: str) -> Path:
        parent = self._configured("shared-temp-directory") or os.getcwd()
        directory = Path(os.path.expandvars(parent)).expanduser().absolute() / f".{name}"
        try:
            directory.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise ClusterError(
                f"the run directory {directory} cannot be made: {error.strerror}; choose another "
                "shared_temp_directory, or another name"
            ) from None
        return directory

    def _get_worker_security(self, security: Any) -> None:
        """Leave certificates to ``credentials``: dask-jobqueue would write them to the cwd."""
        return None

    def _settings(self) -> StepSettings:
        settings = step_settings(
            self._configured,
            name=self._name,
            run_directory=self.run_directory,
            processes=self._processes,
            container=self._container,
            environment=self._environment,
            scheduler_environment=self._scheduler_environment,
            scheduler_options=dict(self.scheduler_spec["options"]),
            interface=self._job_kwargs["interface"],
            protocol=self._job_kwargs["protocol"],
        )
        # Workers also leave because the driver died: plugins get their time then, too
        grace = settings.grace + self._plugins.seconds
        return replace(settings, grace=math.ceil(grace))

    # -- starting --------------------------------------------------------------------------

    async def _start(self) -> None:
        if self.status == Status.created:
            self.steps = Steps(self.allocation, self._settings(), self._step_failed)
            self.scheduler_spec["options"]["steps"] = self.steps
            self.scheduler_spec["options"]["before_workers"] = self._register_plugins
            self.new_spec["options"]["steps"] = self.steps
            for _ in range(self._first_round):
                self.worker_spec.update(self.new_worker_spec())
            # Side by side: worker nodes import while the scheduler starts
            try:
                await self.steps.start_scheduler()
                if self.worker_spec:
                    await self.steps.start_workers(list(self.worker_spec))
            except BaseException:
                self.worker_spec.clear()
                await self._close()
                raise
        try:
            await super()._start()
        except RuntimeError as error:
            if error.__cause__ is None:
                raise
            raise error.__cause__ from None
        if self._plugins.plugins:
            watch = PeriodicCallback(lambda: self._plugins.report(self.scheduler_comm), 2000)
            self.periodic_callbacks["worker-plugins"] = watch
            watch.start()

    async def _register_plugins(self, scheduler: str) -> None:
        await self._plugins.register(scheduler, self.security.get_connection_args("client"))

    def _step_failed(self, error: StepError) -> None:
        first = self._failure is None
        self._failure = self._failure or error
        if error.args[0] == "scheduler" and isinstance(self.scheduler, SrunScheduler):
            # Nobody is left to ask: closing must not wait for answers
            self.scheduler.status = Status.failed
            self.shutdown_scheduler = False
        if self.status == Status.running and first:
            logger.error("%s", error)
            if self._failure_callback is not None:
                self._failure_callback(error)

    @property
    def failure(self) -> StepError | None:
        """Why the first step ended that should not have; None while all is well."""
        return self._failure

    async def _wait_for_workers(self, n_workers: int = 0, timeout: Any = None) -> None:
        loop = asyncio.get_running_loop()
        seconds = parse_timedelta(timeout or self.steps.settings.start_timeout, default="s")
        deadline = loop.time() + seconds
        while True:
            arrived = {info["name"] for info in self.scheduler_info["workers"].values()}
            if len(arrived) >= n_workers:
                workers = {a: info["name"] for a, info in self.scheduler_info["workers"].items()}
                left = max(1.0, deadline - loop.time())
                await self._plugins.wait_set_up(self.scheduler_comm, workers, left)
                return
            for step in self.steps.all:
                if step.exit_code not in (None, 0) or step.given_up():
                    raise step.error()
            if loop.time() > deadline:
                break
            await asyncio.sleep(0.05)
        missing = tuple(
            node.name
            for worker, node in self.steps.placed.items()
            if not arrived.issuperset(self.steps.members(worker))
        )
        tails = "\n".join(filter(None, (step.tail() for step in self.steps.all)))
        raise ClusterStartError(len(arrived), n_workers, seconds, missing, tails)

    def wait_for_workers(self, n_workers: int | None = None, timeout: Any = None) -> Any:
        """Wait until workers are connected.

        Parameters
        ----------
        n_workers : int, optional
            How many. Default: all that the cluster has been scaled to.
        timeout : float or str, optional
            Seconds, or a text such as ``"2 min"``. Default: ``start_timeout``.

        Raises
        ------
        ClusterStartError
            They did not come in time; the message names the nodes that are missing.
        StepError
            The moment a step, or its script on one node, ends.
        WorkerPluginError
            One of ``worker_plugins`` could not be set up on a worker, or not in time.
        """
        wanted = len(self.plan) if n_workers is None else n_workers
        return self.sync(self._wait_for_workers, wanted, timeout=timeout)

    # -- scaling ---------------------------------------------------------------------------

    def _check_fits(self, nodes: int) -> None:
        held = len(self.allocation.nodes)
        if nodes > held:
            raise NotEnoughNodesError(nodes, held, held, str(self.allocation))

    def scale(
        self, n: int | None = None, jobs: int = 0, memory: Any = None, cores: int | None = None
    ) -> Any:
        """Bring the cluster to a number of nodes of the allocation; does not wait for them.

        Parameters
        ----------
        n, jobs : int
            Number of workers, and number of nodes.
        memory : str
            Total memory, such as ``"1 TB"``.
        cores : int
            Total number of threads.

        Raises
        ------
        NotEnoughNodesError
            The allocation has fewer nodes.
        ValueError
            A number is no whole number of 0 or more.
        """
        for number in (n or 0, jobs):
            if not isinstance(number, int) or number < 0:
                raise ValueError(f"scale: a whole number of 0 or more is needed, not {number!r}")
        self._check_fits(max(math.ceil((n or 0) / self._processes), jobs))
        return super().scale(n, jobs=jobs, memory=memory, cores=cores)

    def _update_worker_status(self, op: str, msg: Any) -> None:
        # SpecCluster would close the whole node 15 s after its worker was lost, while worker.sh
        # may just be starting it again; a node that gives up is noticed by its step.
        Cluster._update_worker_status(self, op, msg)

    async def drain(self, names: Sequence[str], deadline: float | None = None) -> None:
        """Let workers finish the tasks they are executing, take no more, and leave.

        ``Client.retire_workers`` does not wait for running tasks: Dask would run them a second
        time elsewhere.

        Parameters
        ----------
        names : sequence of str
            Names of workers.
        deadline : float, optional
            Seconds to wait for running tasks. Default: as long as they take.
        """

        async def finish_executing(deadline: float | None, dask_worker: Any = None) -> None:
            # Pickled by value, since it is local: workers may lack this package
            import asyncio
            import time

            from distributed.core import Status

            end = None if deadline is None else time.monotonic() + deadline
            dask_worker.status = Status.closing_gracefully
            while dask_worker.state.executing and (end is None or time.monotonic() < end):
                await asyncio.sleep(0.02)

        workers = [
            address
            for address, info in self.scheduler_info["workers"].items()
            if info["name"] in names
        ]
        if not workers:
            return
        await self._run_on(workers, finish_executing, deadline=deadline)
        await self._plugins.tear_down(self.scheduler_comm, workers)
        await self.scheduler_comm.retire_workers(names=list(names), close_workers=True, remove=True)

    async def _dismiss_workers(self) -> None:
        """Close all workers in order, plugins torn down, but without waiting for their tasks.

        The scheduler's own order to close waits up to 30 s for a callable that runs.
        """

        async def leave(dask_worker: Any = None) -> None:
            import asyncio

            idle = not dask_worker.state.executing
            coroutine = dask_worker.close(executor_wait=idle, reason="the cluster closes")
            dask_worker.leaving = asyncio.ensure_future(coroutine)  # not before this has answered

        await self._run_on(list(self.scheduler_info["workers"]), leave)

    async def _run_on(self, workers: list[str], function: Any, **keywords: Any) -> None:
        await self.scheduler_comm.broadcast(
            msg={
                "op": "run",
                "function": cloudpickle.dumps(function),
                "kwargs": cloudpickle.dumps(keywords),
                "wait": True,
            },
            workers=workers,
            on_error="ignore",
        )

    def __repr__(self) -> str:
        workers = self.scheduler_info.get("workers", {}).values()
        threads = sum(info["nthreads"] for info in workers)
        used, held = len(self.worker_spec), len(self.allocation.nodes)
        return (
            f"{type(self).__name__}({self.name!r}, {self.scheduler_address!r}, "
            f"on {self.allocation}, nodes={used}/{held}, workers={len(workers)}, threads={threads})"
        )

    # -- what one may look at ----------------------------------------------------------------

    def job_script(self) -> str:
        """Return what runs: the commands and scripts of the scheduler and the worker step."""
        nodes = list(self.allocation.nodes)
        placed = self.steps.placed or {self._new_worker_name(i): n for i, n in enumerate(nodes)}
        group = self.steps.groups(placed)[0]
        parts = []
        for role, script, on in (
            ("scheduler", self.steps.scheduler_script(), nodes[:1]),
            ("worker", self.steps.worker_script(group), list(group.values())),
        ):
            argv = self.steps.command(role, on, script, 0)
            command = " ".join('"$script"' if w == script else shlex.quote(w) for w in argv)
            end = f"END_OF_{role.upper()}_SCRIPT"
            parts.append(f"# {role} step\nread -r -d '' script <<'{end}'\n{script}{end}\n{command}")
        return "\n\n".join(parts) + "\n"

    async def _get_logs(
        self, cluster: bool = True, scheduler: bool = True, workers: Any = True
    ) -> Logs:
        if self.status == Status.running and self._failure is None:
            logs = await super()._get_logs(False, scheduler, workers)
        else:
            logs = Logs()
        if cluster:
            tails = [f"{step.role}: {step.tail()}" for step in self.steps.all]
            logs["Cluster"] = Log("\n".join(tails))
        return logs

    # -- the end -----------------------------------------------------------------------------

    async def _close(self) -> None:
        if self.status == Status.closed:
            return
        steps = getattr(self, "steps", None)
        if steps is not None:
            steps.expect_end()
        try:
            seconds = float(self._configured("close-timeout"))
            if self.status == Status.running and self.shutdown_scheduler:
                workers = list(self.scheduler_info["workers"])
                await self._plugins.tear_down(self.scheduler_comm, workers)
                await asyncio.wait_for(self._dismiss_workers(), seconds)
            await asyncio.wait_for(super()._close(), seconds)
        except Exception:
            # Closing never raises; whatever did not answer is ended with its step below
            logger.debug("the scheduler did not close in order", exc_info=True)
            with contextlib.suppress(Exception):
                await asyncio.wait_for(Cluster._close(self), seconds)
            self.status = Status.closed
        finally:
            if steps is not None:
                await steps.close()
            self._remove_run_directory(keep=self._failure is not None or self._plugins.trouble)

    def _remove_run_directory(self, keep: bool) -> None:
        if not keep:
            shutil.rmtree(self.run_directory, ignore_errors=True)
        for key in self.run_directory.glob("*.pem"):  # logs are worth keeping, keys are not
            key.unlink(missing_ok=True)


def _find_allocation(launcher: str | None, nodes: int | None, cores: int | None) -> Allocation:
    if launcher not in (None, "srun", "local"):
        raise ValueError(f'launcher={launcher!r}: expected "srun" or "local"')
    if launcher == "srun" or (launcher is None and "SLURM_JOB_ID" in os.environ):
        found = allocations.read()
        for line in allocations.unheld(found):
            logger.warning("%s", line)
        return found
    found = allocations.local(nodes or 1)
    if launcher is None:
        logger.warning(
            "no Slurm allocation (SLURM_JOB_ID is not set): %d worker(s) with %d thread(s) each "
            "on this machine",
            len(found.nodes),
            cores or found.nodes[0].cpus,
        )
    return found
