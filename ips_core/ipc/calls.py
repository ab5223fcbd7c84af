"""Track calls, their outcomes, and the callbacks that wait for them; pure bookkeeping."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ips_core.ipc.messages import ComponentID, Failure, Returned

__all__ = ["Call", "CallTable"]


@dataclass
class Call:
    """A call of a component's method."""

    #: Number of the call in the run, from 1.
    call_id: int
    target: ComponentID
    method: str
    #: None while the call runs.
    outcome: Returned | None = None
    #: The callback that waits for the outcome.
    ended: Callable[[Returned], None] | None = None


class CallTable:
    """All calls whose outcome has not been handed out."""

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        self._count = 0

    def open(self, target: ComponentID, method: str) -> Call:
        """Add a call and return it."""
        self._count += 1
        call = self._calls[self._count] = Call(self._count, target, method)
        return call

    def get(self, call_id: int) -> Call | None:
        """Return a call; None if it is unknown or its outcome was handed out."""
        return self._calls.get(call_id)

    def end(self, outcome: Returned) -> None:
        """Record the outcome of a call and hand it to a waiting callback; ignore a second one."""
        call = self._calls.get(outcome.call_id)
        if call is None or call.outcome is not None:
            return
        call.outcome = outcome
        if call.ended is not None:
            self.when_ended(call, call.ended)

    def end_all_of(self, target: ComponentID, reason: str) -> None:
        """End every running call of a component that is gone."""
        for call in list(self._calls.values()):
            if call.target == target:
                self.end(Returned(call.call_id, failure=Failure(reason)))

    def when_ended(self, call: Call, ended: Callable[[Returned], None]) -> None:
        """Hand the outcome of a call to `ended`, once, as soon as there is one."""
        call.ended = ended
        if call.outcome is not None:
            del self._calls[call.call_id]
            ended(call.outcome)
