"""Which calls are on their way, what came of them, and who waits for that: pure bookkeeping."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ips_core.ipc.messages import ComponentID, Failure, Returned

__all__ = ["Call", "CallTable"]


@dataclass
class Call:
    """A call of a component's method.

    Parameters
    ----------
    call_id : int
        Counts the calls of a run from 1.
    target : ComponentID
        Who is called.
    method : str
        What is called.
    outcome : Returned or None
        How it ended; None while it runs.
    """

    call_id: int
    target: ComponentID
    method: str
    outcome: Returned | None = None
    ended: Callable[[Returned], None] | None = None


class CallTable:
    """All calls whose outcome somebody may still ask for."""

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        self._count = 0

    def open(self, target: ComponentID, method: str) -> Call:
        """Return a new call."""
        self._count += 1
        call = self._calls[self._count] = Call(self._count, target, method)
        return call

    def get(self, call_id: int) -> Call | None:
        """Return a call; None if there is none, or its outcome was taken already."""
        return self._calls.get(call_id)

    def end(self, outcome: Returned) -> None:
        """Take note of how a call ended, and tell who waits for it; a second end is ignored."""
        call = self._calls.get(outcome.call_id)
        if call is None or call.outcome is not None:
            return
        call.outcome = outcome
        if call.ended is not None:
            self.when_ended(call, call.ended)

    def end_all_of(self, target: ComponentID, reason: str) -> None:
        """End every call of a component that is gone."""
        for call in list(self._calls.values()):
            if call.target == target:
                self.end(Returned(call.call_id, failure=Failure(reason)))

    def when_ended(self, call: Call, ended: Callable[[Returned], None]) -> None:
        """Hand out the outcome of a call, once, as soon as there is one."""
        call.ended = ended
        if call.outcome is not None:
            del self._calls[call.call_id]
            ended(call.outcome)
