"""Submits pools: brings together what is to run, where, the log, and earlier runs' results."""

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
from ips_core.pools.policy import Policy
from ips_core.pools.pool import TaskPool
from ips_core.pools.pool_events import SubmissionEvents
from ips_core.pools.pool_journal import PoolJournal
from ips_core.pools.results import Results
from ips_core.pools.work import work_digest
from ips_core.tasks.record import TaskRecord
from ips_core.tasks.task import Task

__all__ = ["Backend", "Submitter"]


class Backend(Protocol):
    """Where pools can run."""

    #: What the log calls the start of a task there.
    launch_event: str
    #: Whether results are asked for in parts, see ``TaskPool.begin``.
    in_parts: bool
    #: Whether programs are looked for on the worker, not here.
    in_container: bool

    def executor(self, run: str) -> Executor:
        """Return what runs a submission of that name."""
        ...

    def release(self, run: str) -> None:
        """Give back what a submission used, if it had come so far."""
        ...


class Submitter:
    """Submits the pools of a component.

    Parameters
    ----------
    start : Start
        Who the component is.
    link : FrameworkLink
        Takes the events.
    logger : logging.Logger
        Takes the reasons of failures.
    """

    def __init__(self, start: Start, link: FrameworkLink, logger: logging.Logger) -> None:
        self._start = start
        self._link = link
        self._logger = logger
        self._journal: PoolJournal | None = None
        self._running: dict[str, Dispatcher] = {}

    def submit(self, pool: TaskPool, backend: Backend, policy: Policy, span: str) -> int:
        """Start working off what a pool has.

        Parameters
        ----------
        pool : TaskPool
            Its tasks.
        backend : Backend
            Where they run.
        policy : Policy
            What to do about failures and time.
        span : str
            Id of the call that does it.

        Returns
        -------
        int
            Number of tasks that were known.

        Raises
        ------
        TaskPoolError
            The pool is empty, or a task can never run there.
        Exception
            Where it was to run could not be had; the pool has its tasks still.
        """
        pool.check(backend.in_container)
        names = list(pool.queued_tasks)
        events = SubmissionEvents(
            *(self._start, self._link, self._logger, pool.name, span, backend.launch_event)
        )
        # On a shared cluster: not the pool of that name of another component, or an earlier one
        run = ascii(f"{self._start.name} {pool.name} {events.begin}")
        resumed = self._open_journal().submission(pool.name, pool.resume or self._start.resume)

        def recall(task: Task) -> tuple[str, TaskRecord | None]:
            work = work_digest(task)
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
            dispatcher = Dispatcher(run, source, executor, Results(names), events, policy, recall)
            resumed.began(run, executor.journal_directory)
            self._running[run] = dispatcher  # before it starts: it may be over at once
            dispatcher.start()
        except BaseException as error:
            self._running.pop(run, None)
            events.on_finished = lambda: None
            events.finished(describe(error))
            backend.release(run)
            raise
        pool.begin(dispatcher, backend.in_parts)
        return len(names)

    def _open_journal(self) -> PoolJournal:
        if self._journal is None:
            directory = Path(self._start.simulation.root, "simulation_log")
            self._journal = PoolJournal(
                directory / f"{self._start.name}.tasks", self._logger.warning
            )
        return self._journal

    def close(self) -> int:
        """End what is under way, and return how many submissions those were."""
        running = list(self._running.values())
        # at once: what ignores SIGTERM takes its time
        threads = [threading.Thread(target=dispatcher.cancel) for dispatcher in running]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._journal is not None:
            self._journal.close()
        return len(running)
