"""Run a pool's tasks as processes of the component or by the platform's launcher.

The framework assigns the cores; each thread here waits for the cores of one task and then for the
task's process.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ips_core.errors import describe
from ips_core.pools.attempt import Attempt
from ips_core.pools.executor import Ended, Post, Requeued, Started
from ips_core.resources.allocation_end import AllocationEnd, JobEnd
from ips_core.tasks.launch import Launch
from ips_core.tasks.orphan_reaper import OrphanReaper
from ips_core.tasks.runner import Runner
from ips_core.tasks.task import Task

__all__ = ["LocalExecutor"]

_CANCEL_SECONDS = 10.0


class LocalExecutor:
    """Executor on this machine, or on the nodes that a launcher reaches.

    ``pool`` is the name of the run, and no other executor uses ``runner``. At most ``slots`` tasks
    run or wait for cores. The functions run in the executor's threads:
    ``allocate(task)`` waits for cores and returns the reservation, and an exception ends the task;
    ``release(reservation)`` releases them; ``launch(task, reservation)`` returns a program's
    command line and the variables that its own environment overrides; ``finish(record,
    reservation)`` returns the record of a program with what the launcher knows of it;
    ``refuse(task)`` returns the reason why the launcher can never start it, or an empty text. With
    ``isolate``, callables run in processes of their own, so that they can be ended and cannot harm
    the component.
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
        self.journal_directory = None  # This process has the records, so no journal is needed.
        self._post: Post = lambda news: None
        self._changed = threading.Condition()
        self._queue: deque[Attempt] = deque()
        self._waiting: dict[threading.Thread, Attempt | None] = {}  # None: the attempt is requeued
        self._running: set[str] = set()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._holding = False
        self._closed = False
        self._trouble = ""
        self._guard: OrphanReaper | None = None

    @property
    def ends_at(self) -> float | None:
        """When all have to have ended, in seconds since the epoch; None: not known."""
        return self._end.ends_at

    def why_not(self, task: Task) -> str:
        """Return the reason why a task can never run here, empty if it can."""
        if task.nproc > self.slots:
            return f"nproc = {task.nproc}, but there are {self.slots} cores"
        return self._refuse(task)

    def start(self, post: Post) -> None:
        """Prepare for tasks; ``post`` takes all events. An OSError says that no process starts."""
        self._post = post
        self._guard = OrphanReaper()
        self._end.follow(lambda: post(lambda: ()))

    def submit(self, attempts: Sequence[Attempt]) -> None:
        """Run each attempt once there are cores; a RuntimeError says that no thread starts."""
        with self._changed:
            holding = self._holding
            if not holding:
                self._start_threads(len(self._queue) + len(attempts) - self._idle)
                self._queue.extend(attempts)
                self._changed.notify(len(attempts))
        if holding:
            self._post(Requeued(tuple(attempt.key for attempt in attempts)))

    def hold(self) -> None:
        """Start nothing more and requeue the attempts that have not started."""
        with self._changed:
            self._holding = True
            waiting = [attempt for attempt in self._waiting.values() if attempt is not None]
            keys = tuple(attempt.key for attempt in (*self._queue, *waiting))
            self._queue.clear()
            # Their threads still wait for cores and will release them.
            self._waiting = dict.fromkeys(self._waiting)
        if keys:
            self._post(Requeued(keys))

    def cancel(self) -> None:
        """End all running tasks; return when they have ended, after 10 s at most."""
        deadline = time.monotonic() + _CANCEL_SECONDS
        self.hold()
        self._runner.cancel(self._pool)
        with self._changed:
            left = max(0.0, deadline - time.monotonic())
            self._changed.wait_for(lambda: not self._running, left)

    def close(self) -> str:
        """End the tasks and threads; return the reason if that failed, else an empty text.

        A thread that waits for cores stays: it releases them when it gets them.
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
            # A daemon, since a thread that waits for cores cannot be interrupted.
            thread = threading.Thread(target=self._work, name=f"{self._pool}-{number}", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                if not self._threads:  # With one thread or more, the tasks run nevertheless.
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
        """Get cores, run an attempt on them unless it was requeued, release them."""
        try:
            allocation = self._allocate(attempt.task)
        except Exception as error:  # The cores cannot be had, or the framework is gone.
            if self._begins(attempt):
                self._ended(attempt, self._not_started(attempt.task, error))
            return
        try:
            record = self._run(attempt, allocation) if self._begins(attempt) else None
        finally:
            self._give_back(allocation)
        if record is not None:  # Posted last, so that the cores are free when the event arrives.
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
            record = self._runner.run(
                payload, lambda begun: self._post(Started(attempt.key, begun))
            )
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
        if argv != payload["argv"]:  # A launcher assigns GPUs and binds processes itself.
            payload = {key: payload[key] for key in payload if key not in ("gpus", "pin")}
        return payload | {"argv": argv, "env": variables | environment}

    def _give_back(self, allocation: Any) -> None:
        try:
            self._release(allocation)
        except Exception as error:  # The framework is gone, and all reservations with it.
            self._trouble = f"cores could not be given back: {describe(error)}"

    def _ended(self, attempt: Attempt, record: dict[str, Any]) -> None:
        self._post(Ended(attempt.key, record))
        with self._changed:  # After the event, so that cancel() returns when all are posted.
            self._running.discard(attempt.key)
            self._changed.notify_all()

    def _not_started(self, task: Task, error: Exception) -> dict[str, Any]:
        """Return the record of a task that has no cores or could not be started."""
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
