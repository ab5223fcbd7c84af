"""Start, scale and close a Dask cluster on the nodes of an allocation that one holds.

``SlurmAllocationCluster`` implements ``SpecCluster``. ``configuration`` checks the keywords,
``settings`` turns them into the settings of the steps, and ``steps`` runs the processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import math
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from distributed import WorkerPlugin
from distributed.core import Status
from distributed.deploy.cluster import Cluster

from ips_dask_cluster.configuration import BASE_CLASS, Configured, checked, duration
from ips_dask_cluster.containers import Container
from ips_dask_cluster.dask import draining
from ips_dask_cluster.dask.scaling import ScaledByNode
from ips_dask_cluster.dask.spec import SrunNode, SrunScheduler
from ips_dask_cluster.dask.worker_plugins import ClusterPlugins
from ips_dask_cluster.end_watch import watch_end
from ips_dask_cluster.errors import ClusterError, ClusterStartError, StepError
from ips_dask_cluster.reports import TOPIC, Reports
from ips_dask_cluster.settings import StepSettings, make_run_directory, step_settings
from ips_dask_cluster.signals import exit_in_order_on
from ips_dask_cluster.slurm import commands, lookup
from ips_dask_cluster.slurm.allocation import Allocation, portions_of_gpus, selected
from ips_dask_cluster.steps.failures import Loss, LossWatch
from ips_dask_cluster.steps.launcher import Steps
from ips_dask_cluster.steps.node_locks import Claims
from ips_dask_cluster.steps.step import Step
from ips_dask_cluster.tls_errors import isolate_tls_errors
from ips_dask_cluster.views import Visible

__all__ = ["SlurmAllocationCluster"]

logger = logging.getLogger("ips_dask_cluster")


class SlurmAllocationCluster(Visible, ScaledByNode):
    """A Dask cluster on the nodes of a Slurm allocation that one already holds.

    It starts a scheduler and one worker per node as job steps (``srun``) inside the current
    allocation and submits no job. The names of parameters, configuration and methods are those of
    dask-jobqueue's ``SLURMCluster``. Without arguments it uses the whole allocation; outside of an
    allocation it runs the same scripts as processes on this machine.

    Parameters
    ----------
    n_workers : int, optional
        Number of workers to start; whole nodes are filled. Default: as many as ``nodes`` take.
    nodes : int, optional
        Number of nodes to use. Default: all that no other cluster of the allocation has, or one on
        a machine without Slurm.
    nodelist : str or sequence of str, optional
        Nodes that the cluster may use, such as ``"n[1-3]"``. Default: every node of the allocation.
    job_id : str or int, optional
        Id of a running job of yours whose nodes to use, for example from a login node. Default: the
        job that this process runs in.
    cores : int, optional
        Threads of all workers of a node together. Default: the CPUs that the allocation holds
        there.
    memory : str or int, optional
        Memory of all workers of a node together, in bytes or as a text such as ``"64 GiB"``.
        Default: the memory that the allocation holds there.
    processes, workers_per_node : int, optional
        Number of workers on a node; both names mean the same. Default: 1.
    worker_per_gpu : bool, optional
        Whether to start one worker for each GPU of a node, which sees only that GPU. Default:
        False.
    gpus_per_worker : int, optional
        Number of GPUs for each worker, which sees only these; a node then has as many workers as
        its GPUs allow. Default: all workers of a node see all of its GPUs.
    slots : bool, optional
        Whether each worker has as many of the Dask resource ``slot`` as threads, and of ``gpu`` as
        GPUs. A task that uses several threads then requests them: ``client.submit(...,
        resources={"slot": 4})``; all tasks should do so. Default: False.
    container : Container, optional
        Container for the scheduler and the workers, such as ``Shifter(image="docker:me/code:1")``.
        Default: none.
    launcher : {"srun", "local"}, optional
        How to start steps. Default: ``"srun"`` inside a Slurm job, else ``"local"``, with a
        warning.
    allocation : Allocation, optional
        The nodes to use. Default: the allocation that Slurm reports, or this machine.
    env : mapping of str to str, optional
        Environment variables for workers and so for tasks.
    scheduler_env : mapping of str to str, optional
        Environment variables for the scheduler.
    security : bool or distributed.Security, optional
        True makes temporary TLS certificates for this cluster. With False, everybody on the network
        who finds the port can run code as you. Default: True.
    shared_temp_directory : str or Path, optional
        A directory that every node sees. The cluster's run directory is made in it, and removed at
        the end unless something failed. Default: the current directory.
    log_directory : str or Path, optional
        Directory for the logs of scheduler and workers, which every node must see. Default: the run
        directory.
    interface : str, optional
        Network interface of scheduler and workers, such as ``"hsn0"``. Default: that of each node's
        default route.
    worker_interface : str, optional
        Network interface of the workers, if it differs from the scheduler's. Default:
        ``interface``.
    python : str, optional
        Python of the nodes. Default: the Python of this process, or ``"python3"`` in a container.
    worker_command : str, optional
        Module whose ``main`` is the command line of a worker. Default:
        ``"distributed.cli.dask_worker"``.
    worker_extra_args : sequence of str, optional
        Further arguments for the command line of every worker.
    scheduler_options : mapping of str to object, optional
        Options for the command line of the scheduler, such as ``{"port": 8786}``.
    version_check : bool, optional
        Whether nodes whose Python, dask, distributed, msgpack or cloudpickle differ from the
        driver's are refused. Default: True.
    job_script_prologue : sequence of str, optional
        Shell lines that run first on every node, such as ``module load ...``.
    local_directory : str, optional
        Node-local directory for the data that workers spill. Default: a new directory in the node's
        temporary directory, removed at the end.
    protocol : str, optional
        Protocol of the connections. Default: ``"tls://"``, or ``"tcp://"`` with ``security=False``.
    nanny : bool, optional
        Whether workers run under a Dask nanny. Default: False, since the node scripts restart
        workers.
    death_timeout : float or str, optional
        Seconds after which a worker that finds no scheduler ends. Default: 300.
    restarts : int, optional
        How often a worker that died is restarted on its node. Default: 3.
    srun_extra_args : sequence of str, optional
        Further options for srun; they come last and so take precedence.
    srun_args_skip : sequence of str, optional
        Options to leave out of the srun line: every word that begins with one of these is dropped.
    template_directory : str or Path, optional
        A directory with a site's own ``scheduler.sh``, ``worker.sh`` and ``srun.txt``. Default:
        those of the package.
    start_timeout : float or str, optional
        Seconds, or a text such as ``"2 min"``, in which scheduler and workers must connect.
        Default: 120.
    close_timeout : float or str, optional
        Seconds in which the processes of the cluster may end by themselves. Default: 10.
    teardown_timeout : float or str, optional
        Seconds that the teardown of ``worker_plugins`` may take on a worker. Default: 60.
    walltime_margin : float or str, optional
        Seconds, or a text such as ``"5 min"``, before the allocation's end at which the cluster
        logs a warning and calls ``on_walltime``. Default: 2 minutes.
    close_on_signals : sequence of str, optional
        Signals that close the cluster and end the program, unless the program handles them itself;
        see :mod:`ips_dask_cluster.signals`. Default: ``["SIGTERM"]``.
    on_loss : callable, optional
        Function that is called with a ``Loss``, in the cluster's own thread, when a worker or a
        node is lost.
    on_failure : callable, optional
        Function that is called with a ``StepError``, in the cluster's own thread, when the
        scheduler or the last node is lost, so that the cluster cannot continue.
    on_walltime : callable, optional
        Function that is called with the seconds that are left, in the cluster's own thread, at the
        margin; again if the job's limit is raised and the new end comes near.
    worker_plugins : sequence of WorkerPlugin, optional
        Dask worker plugins. Each worker sets them up, also one that starts late or restarts, and
        tears them down when it is drained or the cluster closes. :mod:`ips_dask_cluster.plugins`
        has two.
    name : str, optional
        Name of the cluster, at most 64 bytes, which begins the names of its workers, steps and
        logs. Default: ``ips-dask``, the job id and a random suffix.
    config_name : str, optional
        Profile, or section of Dask's configuration below ``jobqueue``, with values for parameters
        that are not passed. Default: ``slurm-allocation``.
    asynchronous : bool, optional
        Whether the methods are used with ``await``, inside a running event loop. Default: False.
    loop : tornado.ioloop.IOLoop, optional
        Event loop to use. Default: the current loop if asynchronous, else one in a thread.
    silence_logs : str, int or bool, optional
        Level below which distributed logs nothing in this process; False changes no level. Default:
        ``"error"``.

    Raises
    ------
    NotEnoughNodesError
        ``n_workers`` or ``nodes`` needs more nodes than are free in the allocation.
    TypeError
        A keyword is unknown, or is an option of another program, such as ``salloc``; or an element
        of ``worker_plugins`` is not an instance of ``WorkerPlugin`` or cannot be pickled.
    ValueError
        A setting has a wrong value, in a keyword or in the configuration.
    ClusterError
        The request does not fit this allocation or this machine.
    SlurmCommandError
        Slurm's programs are missing or fail.
    StepError
        A step could not start; the message has Slurm's own message and a remedy.
    ClusterStartError
        The scheduler did not start in time.

    Examples
    --------
    >>> from ips_dask_cluster import SlurmAllocationCluster
    >>> with SlurmAllocationCluster() as cluster:  # doctest: +SKIP
    ...     client = cluster.get_client()
    ...     client.wait_for_workers(4)
    ...     client.gather(client.map(lambda x: x + 1, range(100)))
    """

    job_cls = SrunNode

    def __init__(
        self,
        n_workers: int | None = None,
        *,
        nodes: int | None = None,
        nodelist: str | Sequence[str] | None = None,
        job_id: str | int | None = None,
        workers_per_node: int | None = None,
        container: Container | None = None,
        allocation: Allocation | None = None,
        env: Mapping[str, str] | None = None,
        scheduler_env: Mapping[str, str] | None = None,
        protocol: str | None = None,
        name: str | None = None,
        config_name: str | None = None,
        on_loss: Callable[[Loss], None] | None = None,
        on_failure: Callable[[StepError], None] | None = None,
        on_walltime: Callable[[float], None] | None = None,
        worker_plugins: Sequence[WorkerPlugin] = (),
        asynchronous: bool = False,
        loop: Any = None,
        silence_logs: Any = "error",
        **settings: Any,
    ) -> None:
        if workers_per_node is not None:
            settings["processes"] = workers_per_node
        parameters = inspect.signature(SlurmAllocationCluster).parameters
        self._configured = configured = Configured(config_name, settings, parameters)
        nodes, n_workers = checked("nodes", nodes), checked("n_workers", n_workers)
        self._container = checked("container", container)
        self._environment = checked("env", env) or {}
        self._scheduler_environment = checked("scheduler_env", scheduler_env) or {}
        name = checked("name", name)
        callbacks = {
            "loss": checked("on_loss", on_loss),
            "failure": checked("on_failure", on_failure),
            "walltime": checked("on_walltime", on_walltime),
        }
        self._reports = Reports(callbacks, self._send_event)
        self._plugins = ClusterPlugins(
            worker_plugins, configured("teardown-timeout"), configured("nanny")
        )
        self._watching: list[asyncio.Future[None]] = []
        self._closing: asyncio.Future[None] | None = None
        self._given_up: set[str] = set()
        self._start_errors: list[StepError] = []
        self._early_losses: list[Loss] = []
        self._seen: set[str] = set()
        self._gpus_per_worker = int(configured("gpus-per-worker") or configured("worker-per-gpu"))
        # Without Slurm, this machine stands for that many "nodes"; with gpus_per_worker it is one
        # node, since all of its GPUs belong to one node
        there = nodes
        if nodes is None and n_workers is not None and not self._gpus_per_worker:
            there = math.ceil(n_workers / configured("processes"))
        found = checked("allocation", allocation) or lookup.find(
            configured("launcher"), job_id, there, configured("cores")
        )
        self.allocation = found if nodelist is None else selected(found, nodelist)
        where = self.allocation.job_id or "local"
        name = name or f"{configured('name')}-{where}-{uuid.uuid4().hex[:6]}"
        self._take_nodes(name, nodes, n_workers)
        held = self.allocation.nodes
        self.status = Status.created
        try:
            isolate_tls_errors()
            # Before the start, so that a signal leaves no keys in the run directory
            exit_in_order_on(configured.words("close-on-signals"), self)
            super().__init__(
                n_workers=0,  # the first round starts beside the scheduler, see _start_steps
                loop=loop,
                security=configured("security") or None,  # dask-jobqueue takes None, not False
                silence_logs=silence_logs,
                name=name,
                asynchronous=asynchronous,
                scheduler_options=dict(configured("scheduler-options")),
                scheduler_cls=SrunScheduler,
                interface=configured("interface"),
                protocol=protocol,
                config_name=BASE_CLASS,
                job_name=name,
                cores=configured("cores") or min(node.cpus for node in held),
                memory=configured("memory") or min(node.memory for node in held),
                processes=self.workers_per_node,
            )
        except BaseException:
            self._abandon(asynchronous)
            raise

    def _abandon(self, asynchronous: bool) -> None:
        """Clean up after a constructor that failed or was interrupted."""
        if not asynchronous and hasattr(self, "_loop_runner"):
            if hasattr(self, "steps") and self.status != Status.closed:  # Ctrl-C in a notebook
                with contextlib.suppress(Exception):
                    seconds = 3 * self._configured("close-timeout")
                    self.sync(self._close, callback_timeout=seconds)
            self._loop_runner.stop()
        self._claims.close()
        self._remove_run_directory()
        self.status = Status.closed

    # -- before the start ------------------------------------------------------------------

    def _take_nodes(self, name: str, nodes: int | None, n_workers: int | None) -> None:
        """Claim the nodes of the first round and make the run directory."""
        configured = self._configured
        self.workers_per_node = (
            portions_of_gpus(self.allocation, self._gpus_per_worker)
            if self._gpus_per_worker
            else configured("processes")
        )
        if n_workers is not None:
            filled = math.ceil(n_workers / self.workers_per_node)
            if nodes not in (None, filled):
                raise ValueError(f"n_workers={n_workers} fill {filled} nodes, not nodes={nodes}")
            nodes = filled
        self._claims = Claims(self.allocation.job_id, name)
        try:
            self._first_round = len(self._claims.take_nodes(self.allocation, nodes))
            self.run_directory = make_run_directory(configured("shared-temp-directory"), name)
        except BaseException:
            self._claims.close()
            raise

    def _get_worker_security(self, security: Any) -> None:
        """Do nothing: ``tls`` writes certificates; dask-jobqueue would write them to the cwd."""
        return None

    def _settings(self) -> StepSettings:
        return step_settings(
            self._configured,
            name=self._name,
            run_directory=self.run_directory,
            processes=self.workers_per_node,
            gpus_per_worker=self._gpus_per_worker,
            teardown_seconds=self._plugins.seconds,
            container=self._container,
            environment=self._environment,
            scheduler_environment=self._scheduler_environment,
            scheduler_options=dict(self.scheduler_spec["options"]),
            interface=self._job_kwargs["interface"],
            protocol=self._job_kwargs["protocol"],
        )

    # -- starting --------------------------------------------------------------------------

    async def _start(self) -> None:
        if self.status == Status.created:
            try:
                await self._start_steps()
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
        # Only now: a start that fails gives its reason once, in the error
        while self._early_losses:
            self._reports.loss(self._early_losses.pop(0))
        self._watching.append(asyncio.ensure_future(self._plugins.watch(self.scheduler_comm)))
        # Only now: the end may be near already, and events are sent only while the cluster runs
        self._watching.append(asyncio.ensure_future(self._watch_end()))

    async def _start_steps(self) -> None:
        try:
            settings = self._settings()
        except OSError as error:
            raise ClusterError(
                f"the run directory {self.run_directory} cannot be written: {error.strerror}; make "
                "room, or choose another shared_temp_directory"
            ) from None
        self.steps = Steps(self.allocation, settings, self._claims, self._step_ended)
        self.scheduler_spec["options"]["steps"] = self.steps
        self.scheduler_spec["options"]["before_workers"] = self._register_plugins
        self.new_spec["options"]["steps"] = self.steps
        for _ in range(self._first_round):
            self.worker_spec.update(self.new_worker_spec())
        self._loss_watch = LossWatch(self.steps.all, self._is_missing, self._lost)
        # Both at once: the worker nodes import their modules while the scheduler starts
        await self.steps.start_scheduler()
        if self.worker_spec:
            await self.steps.start_workers(list(self.worker_spec))
        self._watching.append(asyncio.ensure_future(self._loss_watch.run()))
        self._loss_watch.look()

    async def _watch_end(self) -> None:
        def moved(allocation: Allocation) -> None:
            logger.info("%s has another end now: %s", allocation, allocation.end_time or "none")
            self.allocation = replace(self.allocation, end_time=allocation.end_time)

        margin = self._configured("walltime-margin")
        look, near = commands.job_end_quietly, self._reports.walltime
        await watch_end(self.allocation, margin, look, moved, near)

    async def _register_plugins(self, scheduler: str) -> None:
        await self._plugins.register(scheduler, self.security.get_connection_args("client"))

    async def _before_leaving(self, workers: list[str]) -> None:
        await self._plugins.tear_down(self.scheduler_comm, workers)

    async def _wait_for_workers(self, n_workers: int | None = None, timeout: Any = None) -> None:
        loop = asyncio.get_running_loop()
        seconds = duration(self.steps.settings.start_timeout if timeout is None else timeout)
        deadline = loop.time() + seconds
        while True:
            plan = self.plan
            arrived = self._connected() & plan
            wanted = len(plan) if n_workers is None else n_workers
            possible = len(plan) if n_workers is not None else len(plan) - len(self._start_errors)
            if self.failure is not None:
                raise self.failure
            if self._start_errors and possible < wanted:
                error, self._start_errors = self._start_errors[0], []
                raise error
            if len(arrived) >= wanted:
                workers = {a: info["name"] for a, info in self.scheduler_info["workers"].items()}
                left = max(1.0, deadline - loop.time())
                await self._plugins.wait_set_up(self.scheduler_comm, workers, left)
                return
            if loop.time() > deadline:
                break
            await asyncio.sleep(0.05)
        missing = tuple(
            node.name
            for worker, node in self.steps.placed.items()
            if not arrived.issuperset(self.steps.members(worker))
        )
        tails = "\n".join(filter(None, (step.tail() for step in self.steps.all)))
        cause = self.steps.symptom() if missing else ""
        raise ClusterStartError(len(arrived), wanted, seconds, missing, tails, cause)

    def wait_for_workers(self, n_workers: int | None = None, timeout: Any = None) -> Any:
        """Wait until workers are connected and have set up ``worker_plugins``.

        Parameters
        ----------
        n_workers : int, optional
            Number of workers. Default: all that the cluster has been scaled to.
        timeout : float or str, optional
            Seconds, or a text such as ``"2 min"``. Default: ``start_timeout``.

        Raises
        ------
        ClusterStartError
            The workers did not connect in time; the message names the nodes that are missing.
        StepError
            The workers will not connect, because a step or its script on a node has ended.
        WorkerPluginError
            One of ``worker_plugins`` could not be set up on a worker, or not in time.
        """
        return self.sync(self._wait_for_workers, n_workers, timeout=timeout)

    # -- what is lost ----------------------------------------------------------------------

    def _is_missing(self) -> bool:
        return not self.plan <= self._connected()

    def _update_worker_status(self, op: str, msg: Any) -> None:
        # SpecCluster would close the whole node 15 s after its worker was lost, while worker.sh may
        # be restarting the worker. The end of its step reports a node that gives up.
        Cluster._update_worker_status(self, op, msg)
        self._seen |= self._connected()
        if op == "remove":
            self._loss_watch.look()

    def _step_ended(self, step: Step) -> None:
        self._loss_watch.read(step, ended=True)
        error = step.error()
        if step.role == "scheduler":
            if isinstance(self.scheduler, SrunScheduler):
                # The scheduler is gone: closing must not wait for its answers
                self.scheduler.status = Status.failed
                self.shutdown_scheduler = False
            self._reports.fail(error, aloud=self.status == Status.running)
        elif workers := self.steps.workers_of(step):
            nodes = ",".join(self.steps.placed[worker].name for worker in workers)
            self._lost(Loss(nodes, reason=error.cause), step)

    def _lost(self, loss: Loss, step: Step) -> None:
        """Report a loss, and remove from the cluster what will not restart."""
        gone = [w for w in self.steps.workers_of(step) if self._is_on(w, loss.node.split(","))]
        if not gone or self.status in (Status.closing, Status.closed):
            return
        if self.status == Status.running:
            self._reports.loss(loss)
        else:
            self._early_losses.append(loss)
        if loss.worker:
            self._given_up |= set() if loss.restarted else {loss.worker}
            return
        error = step.error(loss.node, loss.reason)
        members = {name for worker in gone for name in self.steps.members(worker)}
        if not members & self._seen:
            self._start_errors.append(error)
        if set(self.worker_spec) <= set(gone):
            self._reports.fail(error, aloud=self.status == Status.running)
        self.steps.leave_out(gone)
        for worker in gone:
            self.worker_spec.pop(worker, None)
        self._correct_state()

    def _send_event(self, event: dict[str, Any]) -> None:
        async def send() -> None:
            with contextlib.suppress(Exception):  # the scheduler itself may be lost
                await self.scheduler_comm.log_event(topic=TOPIC, msg=event)

        if self.status == Status.running:
            self._watching.append(asyncio.ensure_future(send()))

    @property
    def plan(self) -> set[str]:
        """Names of the workers that the cluster should have."""
        return super().plan - self._given_up

    # -- the end -----------------------------------------------------------------------------

    async def _close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close_once())
        # Ctrl-C ends this wait but not the closing, for which the program waits again at its end
        await asyncio.shield(self._closing)

    async def _close_once(self) -> None:
        if self.status == Status.closed:
            return
        steps = getattr(self, "steps", None)
        if steps is not None:
            steps.expect_end()
        for task in self._watching:
            task.cancel()
        connected = self.plan <= self._connected()
        try:
            seconds = self._configured("close-timeout")
            if self.status == Status.running and self.shutdown_scheduler:
                workers = list(self.scheduler_info["workers"])
                await self._plugins.tear_down(self.scheduler_comm, workers)
                await asyncio.wait_for(draining.dismiss(self.scheduler_comm, workers), seconds)
            await asyncio.wait_for(super()._close(), seconds)
        except Exception:
            # Closing never raises; below, the steps end the processes that did not answer
            connected = False  # the request to end may not have arrived
            logger.debug("the scheduler did not close in order", exc_info=True)
            with contextlib.suppress(Exception):
                await asyncio.wait_for(Cluster._close(self), seconds)
        finally:
            self.status = Status.closing  # not closed yet: callers stop waiting at that
            if steps is not None:
                await steps.close(connected)
            self._claims.close()
            self._remove_run_directory()
            self.status = Status.closed

    def _remove_run_directory(self) -> None:
        if not self._reports.went_wrong and not self._plugins.trouble:
            shutil.rmtree(self.run_directory, ignore_errors=True)
        for key in self.run_directory.glob("*.pem"):  # logs are worth keeping, keys are not
            key.unlink(missing_ok=True)
