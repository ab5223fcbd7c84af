"""The life of one simulation: its components start, its phases run, all that it started ends.

It is written down as a generator that yields what it waits for, so that any number of simulations
live side by side in the framework's one thread.
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

__all__ = ["Life", "Until"]

_PHASES = [(port, method) for port in ("INIT", "DRIVER") for method in ("init", "step", "finalize")]
_LEAVE_STAGES: tuple[tuple[signal.Signals | None, float], ...] = (
    (None, 15.0),
    (signal.SIGTERM, 1.0),
    (signal.SIGKILL, 5.0),
)


class _Interrupted(Exception):
    """The simulation is to end now."""


@dataclass(frozen=True)
class Until:
    """What a life waits for: a condition, or a time on the monotonic clock."""

    condition: Callable[[], bool]
    deadline: float = math.inf

    def is_over(self) -> bool:
        """Tell whether the wait is over."""
        return self.condition() or time.monotonic() >= self.deadline


class Life:
    """Leads one simulation through its life.

    Parameters
    ----------
    simulation : Simulation
        It; its ``failure`` tells in the end how it went.
    router : Router
        Of the components.
    start : callable
        ``start()`` starts the simulation's components and returns the calls of their constructors.
    give_up : callable
        ``give_up()`` says that nobody needs its clusters any more, and returns their keepers.
    end : callable
        ``end()`` is the last thing that happens, when nothing of it runs any more.
    """

    def __init__(
        self,
        simulation: Simulation,
        router: Router,
        start: Callable[[], Iterable[Call]],
        give_up: Callable[[], Iterable[ComponentID]],
        end: Callable[[], None],
    ) -> None:
        self.simulation = simulation
        self._router = router
        self._start = start
        self._give_up = give_up
        self._end = end
        self._leaving = False
        self._steps = self._live()
        self._wait = next(self._steps)  # up to where it can be interrupted

    @property
    def deadline(self) -> float:
        """When :meth:`go_on` has to be called at the latest, on the monotonic clock."""
        return self._wait.deadline

    def go_on(self) -> bool:
        """Do what can be done now; return whether there is more to come."""
        while self._wait.is_over():
            wait = next(self._steps, None)
            if wait is None:
                return False
            self._wait = wait
        return True

    def interrupt(self, reason: str) -> None:
        """End it, in order; one that is about to leave anyway is not disturbed."""
        if not self._leaving:
            self._wait = self._steps.throw(_Interrupted(reason))

    def _live(self) -> Generator[Until]:
        failure = ""
        try:
            yield Until(lambda: True)
            for call in list(self._start()):
                yield from self._await(call)
            for port, method in _PHASES:
                if port in self.simulation.ports:
                    yield from self._call(self.simulation.ports[port], method)
        except (ComponentError, _Interrupted) as error:
            failure = str(error)
        except Exception as error:  # ours: the simulation ends in order all the same
            failure = f"in the framework: {describe(error)}"
        self._leaving = True
        self.simulation.failure = failure
        self.simulation.ending = True
        # components first, then their clusters, whose end belongs into the log
        keepers = list(self._give_up())
        yield from self._see_out(self._router.handles(self.simulation.members))
        yield from self._see_out(self._router.handles(keepers))
        self._end()

    def _await(self, call: Call) -> Iterator[Until]:
        yield Until(lambda: call.outcome is not None)
        failure = self._router.error_of(call)
        if failure is not None:
            raise failure

    def _call(self, component_id: ComponentID, method: str) -> Iterator[Until]:
        """Call a method of a component, as IPS does with 0 as the time, and wait for its end."""
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

    def _see_out(self, handles: list[ComponentHandle]) -> Iterator[Until]:
        """See processes out: in order, else by TERM, else by KILL."""
        for handle in handles:
            handle.send(Terminate(ok=not self.simulation.failure))
        for number, seconds in _LEAVE_STAGES:
            for handle in handles:
                if handle.alive and number is not None:
                    handle.signal(number)
            yield Until(
                lambda: not any(handle.alive for handle in handles), time.monotonic() + seconds
            )
        for handle in handles:
            handle.close()
