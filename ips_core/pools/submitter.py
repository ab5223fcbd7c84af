"""Submit pools: connect tasks, executor, log and the results of earlier runs of the simulation."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Protocol

from ips_core.errors import TaskPoolError, describe
from ips_core.ipc.link import FrameworkLink
from ips_core.ipc.messages import Start
from ips_core.pools.dispatcher import Dispatcher
from ips_core.pools.executor import Executor
from ips_core.pools.fingerprint import fingerprint
from ips_core.pools.policy import Policy
from ips_core.pools.pool import TaskPool
from ips_core.pools.pool_events import RunEvents
from ips_core.pools.results import Results
from ips_core.pools.resume_log import ResumeLog
from ips_core.tasks.record import TaskRecord
from ips_core.tasks.task import Task

__all__ = ["Backend", "Submitter"]


class Backend(Protocol):
    """A place where pools run."""

    #: Event type of a task's start.
    launch_event: str
    #: Whether results are returned in parts, see ``TaskPool.begin``.
    in_parts: bool
    #: Whether programs are looked up on the worker instead of this host.
    in_container: bool

    def executor(self, run: str) -> Executor:
        """Return the executor of the run of this name."""
        ...

    def release(self, run: str) -> None:
        """Release what a run used, if it got that far."""
        ...


class Submitter:
    """Submits the pools of a component."""

    def __init__(self, start: Start, link: FrameworkLink, logger: logging.Logger) -> None:
        self._start = start
        self._link = link
        self._logger = logger
        self._journal: ResumeLog | None = None
        self._running: dict[str, Dispatcher] = {}

    def submit(self, pool: TaskPool, backend: Backend, policy: Policy, span: str) -> int:
        """Start the tasks of a pool and return their number, without those that iterables yield.

        ``span`` is the id of the call that submits. A TaskPoolError says that the pool is empty or
        a task can never run; any exception leaves the pool as it was.
        """
        pool.check(backend.in_container)
        names = list(pool.queued_tasks)
        events = RunEvents(
            self._start, self._link, self._logger, pool.name, span, backend.launch_event
        )
        # Unique on a shared cluster, also among runs of pools with the same name.
        run = ascii(f"{self._start.name} {pool.name} {events.begin}")
        resumed = self._open_journal().submission(pool.name, pool.resume or self._start.resume)

        def find_finished(task: Task) -> tuple[str, TaskRecord | None]:
            work = fingerprint(task)
            return work, resumed.find(task.name, work, task.function is None)

        def finished() -> None:
            self._running.pop(run, None)
            backend.release(run)

        events.pool_began()
        try:
            executor = backend.executor(run)
            for task in pool.queued_tasks.values():
                if reason := executor.why_not(task):
                    raise TaskPoolError(f"task {task.name} of pool {pool.name}: {reason}")
            events.slots, events.journal, events.on_finished = executor.slots, resumed, finished
            source = pool.source(backend.in_container)
            dispatcher = Dispatcher(
                run, source, executor, Results(names), events, policy, find_finished
            )
            resumed.began(run, executor.journal_directory)
            self._running[run] = dispatcher  # Before the start: the run may end at once.
            dispatcher.start()
        except BaseException as error:
            self._running.pop(run, None)
            events.on_finished = lambda: None
            events.finished(describe(error))
            backend.release(run)
            raise
        pool.begin(dispatcher, backend.in_parts)
        return len(names)

    def _open_journal(self) -> ResumeLog:
        if self._journal is None:
            directory = Path(self._start.simulation.root, "simulation_log")
            self._journal = ResumeLog(directory / f"{self._start.name}.tasks", self._logger.warning)
        return self._journal

    def close(self) -> int:
        """End the active runs and return how many there were."""
        running = list(self._running.values())
        # In parallel: each program that ignores SIGTERM costs several seconds.
        threads = [threading.Thread(target=dispatcher.cancel) for dispatcher in running]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._journal is not None:
            self._journal.close()
        return len(running)
