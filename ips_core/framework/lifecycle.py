"""Lead one simulation through its lifecycle: start components, run phases, end all processes.

The lifecycle is a generator that yields what it waits for, so that any number of simulations run
side by side in the framework's one thread.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

from ips_core.errors import ComponentError, describe
from ips_core.framework.processes import ComponentHandle
from ips_core.framework.router import Router
from ips_core.framework.simulation import Simulation
from ips_core.ipc.calls import Call
from ips_core.ipc.messages import ComponentID, Terminate, pack
from ips_core.log.events import call_target, span_id, trace

__all__ = ["Lifecycle", "Wait"]

_PHASES = [(port, method) for port in ("INIT", "DRIVER") for method in ("init", "step", "finalize")]
_LEAVE_STAGES: tuple[tuple[signal.Signals | None, float], ...] = (
    (None, 15.0),
    (signal.SIGTERM, 1.0),
    (signal.SIGKILL, 5.0),
)


class _Interrupted(Exception):
    """The simulation must end now."""


@dataclass(frozen=True)
class Wait:
    """A condition to wait for, with a deadline on the monotonic clock."""

    condition: Callable[[], bool]
    deadline: float = math.inf

    def is_over(self) -> bool:
        """Return whether the condition holds or the deadline has passed."""
        return self.condition() or time.monotonic() >= self.deadline


class Lifecycle:
    """The lifecycle of one simulation; ``simulation.failure`` has the outcome at its end.

    `start` starts the components and returns the calls of their constructors. `release` gives up
    the simulation's clusters and returns their keepers. `end` is called last, when no process of
    the simulation runs.
    """

    def __init__(
        self,
        simulation: Simulation,
        router: Router,
        start: Callable[[], Iterable[Call]],
        release: Callable[[], Iterable[ComponentID]],
        end: Callable[[], None],
    ) -> None:
        self.simulation = simulation
        self._router = router
        self._start = start
        self._release = release
        self._end = end
        self._leaving = False
        self._steps = self._live()
        self._wait = next(self._steps)  # run to the first yield, where interrupt() works

    @property
    def deadline(self) -> float:
        """Latest time for the next :meth:`advance`, on the monotonic clock."""
        return self._wait.deadline

    def advance(self) -> bool:
        """Do all that needs no further wait; return whether the lifecycle goes on."""
        while self._wait.is_over():
            wait = next(self._steps, None)
            if wait is None:
                return False
            self._wait = wait
        return True

    def interrupt(self, reason: str) -> None:
        """End the simulation in order; do nothing if it is already ending."""
        if not self._leaving:
            self._wait = self._steps.throw(_Interrupted(reason))

    def _live(self) -> Generator[Wait]:
        failure = ""
        try:
            yield Wait(lambda: True)
            for call in list(self._start()):
                yield from self._await(call)
            for port, method in _PHASES:
                if port in self.simulation.ports:
                    yield from self._call(self.simulation.ports[port], method)
        except (ComponentError, _Interrupted) as error:
            failure = str(error)
        except Exception as error:  # a bug here: the simulation still ends in order
            failure = f"in the framework: {describe(error)}"
        self._leaving = True
        self.simulation.failure = failure
        self.simulation.ending = True
        # Components end first, then their clusters, then the log, which must record both ends.
        keepers = list(self._release())
        yield from self._shut_down(self._router.handles(self.simulation.members))
        yield from self._shut_down(self._router.handles(keepers))
        self._end()

    def _await(self, call: Call) -> Iterator[Wait]:
        yield Wait(lambda: call.outcome is not None)
        failure = self._router.error_of(call)
        if failure is not None:
            raise failure

    def _call(self, component_id: ComponentID, method: str) -> Iterator[Wait]:
        """Call a method of a component with time 0, as IPS does, and wait for its end."""
        begin = time.time()
        target, operation = call_target(component_id, method, (0,), {})
        comment = f"Target = {target}:{operation}"
        self.simulation.tell("IPS_CALL_BEGIN", comment, at=begin)
        call = self._router.invoke(component_id, method, pack(((0,), {})), operation)
        ok = False
        try:
            yield from self._await(call)
            ok = True
        finally:
            end = time.time()
            span = span_id(target, operation, call.call_id)
            parent = span_id(self.simulation.root_span)
            ended = trace(target, operation, span=span, begin=begin, end=end, parent=parent)
            self.simulation.tell("IPS_CALL_END", comment, at=end, ok=ok, trace=ended)

    def _shut_down(self, handles: list[ComponentHandle]) -> Iterator[Wait]:
        """End processes: by request, then with SIGTERM, then with SIGKILL."""
        for handle in handles:
            handle.send(Terminate(ok=not self.simulation.failure))
        for number, seconds in _LEAVE_STAGES:
            for handle in handles:
                if handle.alive and number is not None:
                    handle.signal(number)
            yield Wait(
                lambda: not any(handle.alive for handle in handles), time.monotonic() + seconds
            )
        for handle in handles:
            handle.close()
