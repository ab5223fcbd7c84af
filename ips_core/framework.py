"""The framework: runs a simulation, routes what components ask, notices their deaths.

One thread and one loop that waits on all pipes; requests that must wait are parked and answered
later. It never imports distributed and never blocks on a component.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from ips_core import staging
from ips_core.calls import Call, CallTable
from ips_core.config import PlatformConfig, SimulationConfig, read_platform, read_simulation
from ips_core.dask_cluster import read_allocation
from ips_core.errors import ComponentError, ConfigError, describe
from ips_core.events import call_target, framework_event, simulation_fields, span_id, trace
from ips_core.interruption import interruptions
from ips_core.messages import (
    Broadcast,
    ComponentID,
    Emit,
    Failure,
    Invoke,
    Reply,
    Request,
    Returned,
    Start,
    Terminate,
    pack,
)
from ips_core.processes import ComponentHandle
from ips_core.resource_service import Keepers, ResourceService, idle_seconds
from ips_core.resources import Resources, detect, uses_job
from ips_core.simulation_log import SimulationLog
from ips_core.version import ips_core_version

__all__ = ["Framework"]

_LEAVE_STAGES: tuple[tuple[signal.Signals | None, float], ...] = (
    (None, 15.0),
    (signal.SIGTERM, 1.0),
    (signal.SIGKILL, 5.0),
)
_KEEPER = "ips_core.pools.on_dask.keeper:ClusterKeeper"


class _Interrupted(BaseException):
    """SIGINT or SIGTERM arrived."""


@dataclass
class _Simulation:
    """What the framework knows of the simulation it runs."""

    config: SimulationConfig
    run_id: str
    log: SimulationLog
    ports: dict[str, ComponentID] = field(default_factory=dict)
    failure: str = ""


class Framework:
    """Runs a simulation.

    Parameters
    ----------
    config_file_list : sequence of str
        The simulation file; one in this release.
    log_file_name : str or None
        A file for the framework's own messages. Default: standard output.
    platform_file_name : str or None
        The platform file. Default: read from the Slurm job, else from this machine.
    debug, verbose_debug : bool
        Accepted for IPS-framework's sake; LOG_LEVEL of the simulation file says what is logged.
    cmd_nodes, cmd_ppn : int
        Nodes, and cores of each, to use; 0: what there is.
    resume : bool
        True: tasks of pools that the run before has finished are not run again.

    Raises
    ------
    ConfigError
        A file is missing or wrong; the message names file, section and key.

    Examples
    --------
    >>> from ips_core import Framework
    >>> Framework(["dask_sim.config"]).run()  # doctest: +SKIP
    True
    """

    def __init__(
        self,
        config_file_list: Sequence[str],
        log_file_name: str | None = None,
        platform_file_name: str | None = None,
        debug: bool = False,
        verbose_debug: bool = False,
        cmd_nodes: int = 0,
        cmd_ppn: int = 0,
        resume: bool = False,
    ) -> None:
        if len(config_file_list) != 1:
            raise ConfigError("", ["one simulation file a run is what this release takes"])
        self.started = time.time()
        self.platform: PlatformConfig = read_platform(platform_file_name)
        self.config = read_simulation(config_file_list[0], self.platform)
        in_job = uses_job(self.platform, os.environ)
        allocation, ends_at = read_allocation() if in_job else (None, None)
        found = detect(self.platform, allocation, cmd_nodes, cmd_ppn)
        self.resources: Resources = replace(found, ends_at=ends_at)
        self._output = log_file_name
        self._resume = resume
        self._launch_directory = os.getcwd()
        self._handles: dict[ComponentID, ComponentHandle] = {}
        self._calls = CallTable()
        control = Keepers(
            self._start_keeper, self._invoke_keeper, self._dismiss_keeper, self._broadcast
        )
        idle = idle_seconds(self.config.file, self.config.values)
        self._lending = ResourceService(self.resources, idle, self._calls, control)
        self._interrupted = ""
        self._wakeup: socket.socket | None = None

    def run(self) -> bool:
        """Run the simulation to its end.

        Returns
        -------
        bool
            True if it went well. Else :attr:`failure` is the reason, and the log file has the
            traceback.
        """
        self._say(f"Starting IPS {ips_core_version()}")
        staging.make_tree(self.config, [self.config.file, self.platform.file])
        self._begin()
        with interruptions(self.interrupt) as self._wakeup:
            try:
                self._construct_components()
                self._run_phases()
            except ComponentError as error:
                self.simulation.failure = str(error)
            except _Interrupted:
                self.simulation.failure = f"interrupted by {self._interrupted}"
            except BaseException as error:
                self.simulation.failure = describe(error)
                raise
            finally:
                self._finish()
        return not self.simulation.failure

    def interrupt(self, reason: str) -> None:
        """End the simulation in order; safe to call from a signal handler."""
        self._interrupted = self._interrupted or reason

    @property
    def failure(self) -> str:
        """Why the simulation failed, in a sentence; empty if it did not."""
        return self.simulation.failure

    def _say(self, text: str) -> None:
        if self._output is None:
            print(text, flush=True)
        else:
            with open(self._output, "a", encoding="utf-8") as file:
                file.write(text + "\n")

    # -- the beginning -----------------------------------------------------------------------

    def _begin(self) -> None:
        config, now = self.config, datetime.fromtimestamp(self.started)
        values = config.values
        user = values.get("USER") or config.environment.get("USER") or "user"
        host = values.get("HOST") or self.platform.values.get("HOST") or os.uname().nodename
        stamp = now.isoformat(timespec="milliseconds")
        run_id = f"{config.name}_{host}_{user}_{stamp}"
        log = SimulationLog(Path(config.root) / "simulation_log", run_id, config.name)
        self.simulation = _Simulation(config, run_id, log)
        self._log(
            "IPS_START",
            "Starting IPS Simulation",
            at=self.started,
            state="Running",
            host=host,
            simname=config.name,
            user=user,
            startat=stamp,
            ips_version=ips_core_version(),
            parent_portal_runid=None,
            **simulation_fields(values),
        )
        resources = self.resources
        comment = f"Nodes = {resources.nodes}   PPN = {resources.cores_per_node}"
        self._log("IPS_RESOURCE_ALLOC", comment)

    def _log(self, eventtype: str, comment: str, at: float | None = None, **fields: Any) -> None:
        moment = time.time() if at is None else at
        event = framework_event(eventtype, comment, at=moment, started=self.started, **fields)
        self.simulation.log.write(event)

    def _construct_components(self) -> None:
        """Start all components side by side and wait until each has constructed itself."""
        config = self.config
        ids = {
            section: ComponentID(config.name, component.name, number)
            for number, (section, component) in enumerate(config.components.items(), start=1)
        }
        self.simulation.ports = {port: ids[section] for port, section in config.ports.items()}
        started = []
        for section, component in config.components.items():
            number = ids[section].number
            directory = staging.work_directory(config, component, number)
            try:
                directory.mkdir(parents=True, exist_ok=True)
                staging.stage_inputs(component, directory)
            except OSError as error:
                raise ComponentError(component.full_id(number), "staging", str(error)) from None
            started.append(self._start(section, ids[section], directory))
        for call in started:
            self._wait_for(call)

    def _start(self, section: str, component_id: ComponentID, directory: Path) -> Call:
        """Start a component's process; return the call of its constructor."""
        config = self.config
        call = self._calls.open(component_id, "constructor")
        component = config.components.get(section)
        name = component.full_id(component_id.number) if component else component_id.class_name
        start = Start(
            call_id=call.call_id,
            component_id=component_id,
            name=name,
            section=section,
            simulation=config,
            platform=self.platform.values,
            resources=self.resources,
            ports=self.simulation.ports,
            launch_directory=self._launch_directory,
            work_directory=str(directory),
            run_id=self.simulation.run_id,
            start_time=self.started,
            resume=self._resume,
            interactive="ipykernel" in sys.modules,
        )
        self._handles[component_id] = ComponentHandle(start)
        return call

    # -- the simulation ----------------------------------------------------------------------

    def _run_phases(self) -> None:
        for port in ("INIT", "DRIVER"):
            if port in self.simulation.ports:
                for method in ("init", "step", "finalize"):
                    self._call_and_wait(self.simulation.ports[port], method)

    def _call_and_wait(self, component_id: ComponentID, method: str) -> None:
        begin = time.time()
        target, operation = call_target(component_id, method, (0,), {})
        comment = f"Target = {target}:{operation}"
        self._log("IPS_CALL_BEGIN", comment, at=begin)
        call = self._invoke(component_id, method, pack(((0,), {})), operation)
        failure: ComponentError | None = None
        try:
            self._wait_for(call)
        except ComponentError as error:
            failure = error
        end = time.time()
        span = span_id(target, operation, call.call_id)
        ended = trace(
            target, operation, span=span, begin=begin, end=end, parent=span_id(self._root())
        )
        self._log("IPS_CALL_END", comment, at=end, ok=failure is None, trace=ended)
        if failure is not None:
            raise failure

    def _root(self) -> str:
        return f"{self.config.name}@FRAMEWORK@Framework@0"

    def _invoke(self, target: ComponentID, method: str, payload: bytes, operation: str) -> Call:
        """Call a method of a component; one that is gone answers at once."""
        call = self._calls.open(target, method)
        handle = self._handles[target]
        if handle.alive:
            span = span_id(str(target), operation, call.call_id)
            handle.send(Invoke(call.call_id, method, payload, span))
        else:
            self._calls.end(Returned(call.call_id, failure=Failure("it is no longer running")))
        return call

    def _wait_for(self, call: Call) -> None:
        """Serve components until a call of the framework itself has ended."""
        while call.outcome is None:
            if self._interrupted:
                raise _Interrupted
            self._serve()
        if call.outcome.failure is not None:
            raise self._error(call, call.outcome.failure)

    def _error(self, call: Call, failure: Failure) -> ComponentError:
        return ComponentError(self._handles[call.target].name, call.method, failure.text)

    # -- what components ask -----------------------------------------------------------------

    def _serve(self, timeout: float | None = None) -> None:
        """Wait for messages, or for something to be due, and see to it."""
        channels: dict[Any, ComponentHandle] = {
            handle.channel: handle for handle in self._handles.values() if handle.alive
        }
        wakeup = [self._wakeup] if self._wakeup is not None else []
        limits = [limit for limit in (timeout, self._lending.timeout()) if limit is not None]
        for ready in wait([*channels, *wakeup], min(limits, default=None)):
            if ready is self._wakeup:
                self._wakeup.recv(64)
                continue
            handle = channels[ready]
            try:
                message = handle.channel.receive()
            except (EOFError, OSError):
                handle.alive = False
                how = handle.how_it_ended()
                self._calls.end_all_of(handle.component_id, how)
                self._lending.gone(handle.component_id, how)
            else:
                self._handle(handle, message)
        self._lending.tick()

    def _handle(self, sender: ComponentHandle, message: object) -> None:
        if isinstance(message, Emit):
            self.simulation.log.write_all(message.events)
        elif isinstance(message, Returned):
            self._calls.end(message)
        elif isinstance(message, Broadcast):
            self._broadcast(message)
            self._lending.hear(sender.component_id, message)
        elif isinstance(message, Request):
            own = {"call": self._serve_call, "wait_call": self._serve_wait}
            (own | self._lending.services)[message.service](sender, message)

    def _broadcast(self, news: Broadcast) -> None:
        for handle in self._handles.values():
            if handle.alive:
                handle.send(news)

    def _serve_call(self, sender: ComponentHandle, request: Request) -> None:
        component_id, method, payload, operation = request.arguments
        if component_id not in self._handles:
            failure = Failure(f"there is no component {component_id}")
            sender.send(Reply(request.request_id, failure=failure))
            return
        call = self._invoke(component_id, method, payload, operation)
        sender.send(Reply(request.request_id, call.call_id))

    def _serve_wait(self, sender: ComponentHandle, request: Request) -> None:
        call_id, block = request.arguments
        call = self._calls.get(call_id)
        if call is None:
            failure = Failure(f"there is no call {call_id} to wait for")
            sender.send(Reply(request.request_id, failure=failure))
        elif call.outcome is None and not block:
            sender.send(Reply(request.request_id))
        elif call.outcome is None and call.target == sender.component_id:
            failure = Failure(f"{sender.name} waits for its own {call.method}, which cannot begin")
            sender.send(Reply(request.request_id, failure=failure))
        else:
            self._reply_when_ended(sender, request, call)

    def _reply_when_ended(self, sender: ComponentHandle, request: Request, call: Call) -> None:
        """Park a request until a call has ended."""

        def answer(outcome: Returned) -> None:
            failure = outcome.failure
            if failure is not None:
                failure = Failure(str(self._error(call, failure)))
            sender.send(Reply(request.request_id, outcome.value, failure))

        self._calls.when_ended(call, answer)

    # -- the keepers of Dask clusters --------------------------------------------------------

    def _start_keeper(self) -> ComponentID:
        keeper = ComponentID(self.config.name, "ClusterKeeper", len(self._handles) + 1)
        self._start(_KEEPER, keeper, Path(self.config.root))
        return keeper

    def _invoke_keeper(self, keeper: ComponentID, method: str, *arguments: Any) -> Call:
        return self._invoke(keeper, method, pack((arguments, {})), method)

    def _dismiss_keeper(self, keeper: ComponentID, kill: bool) -> None:
        if kill:
            self._handles[keeper].signal(signal.SIGKILL)
        else:
            self._handles[keeper].send(Terminate(ok=True))

    # -- the end -----------------------------------------------------------------------------

    def _finish(self) -> None:
        """End what was started: components, then their clusters, whose end belongs in the log."""
        simulation = self.simulation
        ok = not simulation.failure
        keepers = [self._handles[name] for name in self._lending.end()]
        self._leave([handle for handle in self._handles.values() if handle not in keepers], ok)
        self._leave(keepers, ok)
        now = time.time()
        root = self._root()
        ended = trace(
            root,
            "run",
            span=span_id(root),
            begin=self.started,
            end=now,
            total_cores=self.resources.nodes * self.resources.cores_per_node,
        )
        self._log(
            "IPS_END",
            "Simulation Ended" if ok else "Simulation Execution Error",
            at=now,
            ok=ok,
            state="Completed",
            stopat=datetime.fromtimestamp(now).isoformat(timespec="milliseconds"),
            trace=ended,
            **({} if ok else {"error": simulation.failure}),
        )
        simulation.log.close()

    def _leave(self, handles: list[ComponentHandle], ok: bool) -> None:
        """See processes out: in order, else by TERM, else by KILL; serve them meanwhile."""
        for handle in handles:
            handle.send(Terminate(ok))
        for number, seconds in _LEAVE_STAGES:
            staying = [handle for handle in handles if handle.alive]
            if number is not None:
                for handle in staying:
                    handle.signal(number)
            deadline = time.monotonic() + seconds
            while any(handle.alive for handle in handles) and time.monotonic() < deadline:
                self._serve(deadline - time.monotonic())
        for handle in handles:
            handle.close()
