"""Tasks of a pool without Dask: processes of the component, or what the platform's launcher starts.

Cores are counted by whoever hands out allocations; here are only the threads that wait for one and
then for the process.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ips_core.errors import describe
from ips_core.pools.attempt import Attempt
from ips_core.pools.executor import Begun, Ended, GivenBack, Hear
from ips_core.resources.allocation_end import AllocationEnd, JobEnd
from ips_core.tasks.guard import TaskGuard
from ips_core.tasks.launch import Launch
from ips_core.tasks.runner import Runner
from ips_core.tasks.task import Task

__all__ = ["LocalExecutor"]

_CANCEL_SECONDS = 10.0


class LocalExecutor:
    """Runs tasks in processes of this machine, or on the nodes that a launcher reaches.

    Parameters
    ----------
    pool : str
        Name of the pool's run, as its tasks carry it.
    runner : tasks.runner.Runner
        Runs them; it is this executor's own.
    slots : int
        Cores there are; so many tasks run or wait for theirs at a time.
    allocate : callable
        ``allocate(task)`` waits for the cores of a task and returns what holds them; called in the
        executor's threads. What it raises ends the task.
    release : callable
        ``release(allocation)``: gives them back.
    launch : callable
        ``launch(task, allocation)``: a program's command line, and what comes on top of its
        environment; a task's own variables win.
    end : JobEnd, optional
        When the cores are taken away. Default: never.
    finish : callable, optional
        ``finish(record, allocation)``: the record of a program that has ended, when the launcher
        knows more of it than its exit code. Default: as it is.
    refuse : callable, optional
        ``refuse(task)``: why the launcher can never start it, in a sentence; nothing if it can.
        Default: it can.
    isolate : bool, optional
        Callables run in processes of their own, so that they cannot harm the component, and can be
        ended. Default: True.
    """

    def __init__(
        self,
        pool: str,
        runner: Runner,
        slots: int,
        allocate: Callable[[Task], Any],
        release: Callable[[Any], object],
        launch: Callable[[Task, Any], Launch],
        end: JobEnd | None = None,
        finish: Callable[[dict[str, Any], Any], dict[str, Any]] | None = None,
        refuse: Callable[[Task], str] = lambda task: "",
        isolate: bool = True,
    ) -> None:
        self.slots = slots
        self._end = AllocationEnd(end or JobEnd())
        self._pool = pool
        self._runner = runner
        self._allocate = allocate
        self._release = release
        self._launch = launch
        self._finish = finish
        self._refuse = refuse
        self._isolate = isolate
        self.journal_directory = None  # this process has the records: nothing is lost on the way
        self._hear: Hear = lambda news: None
        self._changed = threading.Condition()
        self._queue: deque[Attempt] = deque()
        self._waiting: dict[threading.Thread, Attempt | None] = {}  # for cores; None: held back
        self._running: set[str] = set()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._holding = False
        self._closed = False
        self._trouble = ""
        self._guard: TaskGuard | None = None

    @property
    def ends_at(self) -> float | None:
        """When all have to have ended, in seconds since the epoch; None: not known."""
        return self._end.ends_at

    def why_not(self, task: Task) -> str:
        """Return why a task can never run here, in a sentence; nothing if it can."""
        if task.nproc > self.slots:
            return f"nproc = {task.nproc}, but there are {self.slots} cores"
        return self._refuse(task)

    def start(self, hear: Hear) -> None:
        """Get ready; from now on tell the news to ``hear``.

        Raises
        ------
        OSError
            No process can be started.
        """
        self._hear = hear
        self._guard = TaskGuard()
        self._end.follow(lambda: hear(lambda: ()))

    def submit(self, attempts: Sequence[Attempt]) -> None:
        """Run these as soon as there are cores; each for itself, since nothing has to travel.

        Raises
        ------
        RuntimeError
            No thread can be started. Nothing was.
        """
        with self._changed:
            holding = self._holding
            if not holding:
                self._start_threads(len(self._queue) + len(attempts) - self._idle)
                self._queue.extend(attempts)
                self._changed.notify(len(attempts))
        if holding:
            self._hear(GivenBack(tuple(attempt.key for attempt in attempts)))

    def hold(self) -> None:
        """Begin nothing more: what has not begun comes back at once."""
        with self._changed:
            self._holding = True
            waiting = [attempt for attempt in self._waiting.values() if attempt is not None]
            keys = tuple(attempt.key for attempt in (*self._queue, *waiting))
            self._queue.clear()
            # their threads still wait for cores, and will give them back
            self._waiting = dict.fromkeys(self._waiting)
        if keys:
            self._hear(GivenBack(keys))

    def cancel(self) -> None:
        """End what runs, for good; return when that is so, after 10 s at most."""
        deadline = time.monotonic() + _CANCEL_SECONDS
        self.hold()
        self._runner.cancel(self._pool)
        with self._changed:
            left = max(0.0, deadline - time.monotonic())
            self._changed.wait_for(lambda: not self._running, left)

    def close(self) -> str:
        """End what is left, and the threads; return a sentence about what went wrong, or nothing.

        A thread that waits for cores is left to itself: it gives them back when it gets them.
        """
        self._end.close()
        self.cancel()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            if self._running:
                self._trouble = f"not ended within 10 s: {', '.join(sorted(self._running))}"
            leaving = [each for each in self._threads if each not in self._waiting]
        if not self._running:
            for thread in leaving:
                thread.join(_CANCEL_SECONDS)
        if self._guard is not None:
            self._guard.close()
        return self._trouble

    def _start_threads(self, wanted: int) -> None:
        for number in range(len(self._threads), min(len(self._threads) + wanted, self.slots)):
            # a daemon, since nobody can end one that waits for cores
            thread = threading.Thread(target=self._work, name=f"{self._pool}-{number}", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                if not self._threads:  # else those that are there will do
                    raise
                return
            self._threads.append(thread)

    def _work(self) -> None:
        while (attempt := self._next()) is not None:
            self._with_cores(attempt)

    def _next(self) -> Attempt | None:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._queue or self._closed)
            self._idle -= 1
            if not self._queue:
                return None
            attempt = self._queue.popleft()
            self._waiting[threading.current_thread()] = attempt
            return attempt

    def _with_cores(self, attempt: Attempt) -> None:
        """Get cores, run an attempt on them unless it was held back, give them back."""
        try:
            allocation = self._allocate(attempt.task)
        except Exception as error:  # also the framework's end
            if self._begins(attempt):
                self._ended(attempt, self._not_started(attempt.task, error))
            return
        try:
            record = self._run(attempt, allocation) if self._begins(attempt) else None
        finally:
            self._give_back(allocation)
        if record is not None:  # told now: whoever hears of it may count on the cores
            self._ended(attempt, record)

    def _begins(self, attempt: Attempt) -> bool:
        with self._changed:
            begins = self._waiting.pop(threading.current_thread()) is not None
            if begins:
                self._running.add(attempt.key)
            return begins

    def _run(self, attempt: Attempt, allocation: Any) -> dict[str, Any]:
        try:
            payload = self._payload(attempt, allocation)
            record = self._runner.run(payload, lambda begun: self._hear(Begun(attempt.key, begun)))
            if self._finish is not None and attempt.task.function is None:
                return self._finish(record, allocation)
            return record
        except Exception as error:
            return self._not_started(attempt.task, error)

    def _payload(self, attempt: Attempt, allocation: Any) -> dict[str, Any]:
        task, payload = attempt.task, attempt.payload(self._pool)
        guard = self._guard.environment if self._guard is not None else {}
        environment = payload.get("env", {}) | guard
        if task.function is not None:
            more = {"isolate": True, "cwd": task.working_dir, "env": environment}
            return payload | (more if self._isolate else {})
        argv, variables = self._launch(task, allocation)
        if argv != payload["argv"]:  # then the launcher hands out GPUs, and binds
            payload = {key: payload[key] for key in payload if key not in ("gpus", "pin")}
        return payload | {"argv": argv, "env": variables | environment}

    def _give_back(self, allocation: Any) -> None:
        try:
            self._release(allocation)
        except Exception as error:  # the framework is gone, and all cores with it
            self._trouble = f"cores could not be given back: {describe(error)}"

    def _ended(self, attempt: Attempt, record: dict[str, Any]) -> None:
        self._hear(Ended(attempt.key, record))
        with self._changed:  # only now, so that cancel returns when all has been told
            self._running.discard(attempt.key)
            self._changed.notify_all()

    def _not_started(self, task: Task, error: Exception) -> dict[str, Any]:
        """Return the record of a task that there are no cores for, or no way to start it."""
        return {
            "pool": self._pool,
            "name": task.name,
            "host": "",
            "worker": "",
            "start_time": time.time(),
            "elapsed_time": 0.0,
            "status": "failed",
            "exit_status": 126 if task.function is None else 1,
            "value": None,
            "error": f"it could not be started: {describe(error)}",
            "traceback": "",
        }
