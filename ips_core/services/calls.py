"""Services by which components find and call each other."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ips_core.errors import IncompleteCallException, IPSError
from ips_core.ipc.messages import ComponentID, pack, unpack
from ips_core.log.events import call_target, span_id, trace
from ips_core.services.base import ServicesBase

__all__ = ["CallServices"]


@dataclass(frozen=True)
class _Call:
    target: str
    operation: str
    span: str
    begin: float


class CallServices(ServicesBase):
    """Ports and calls."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._calls: dict[int, _Call] = {}

    def get_port(self, port_name: str) -> ComponentID:
        """Return the component that implements a port.

        Raises
        ------
        KeyError
            The simulation has no such port.
        """
        ports = self._start.ports
        if port_name not in ports:
            raise KeyError(f"no port {port_name}; there are {', '.join(ports)}")
        return ports[port_name]

    def call_nonblocking(
        self, component_id: ComponentID, method_name: str, *args: Any, **keywords: Any
    ) -> int:
        """Call a method of another component and go on.

        Returns
        -------
        int
            The call's id, for :meth:`wait_call`.

        Raises
        ------
        IPSError
            There is no such component.
        """
        if not isinstance(component_id, ComponentID):
            raise IPSError(
                f"cannot call {method_name} of {component_id!r}: expected a component's id, which "
                "get_port returns"
            )
        begin = time.time()
        target, operation = call_target(component_id, method_name, args, keywords)
        payload = pack((args, keywords))
        self.link.emit("IPS_CALL_BEGIN", f"Target = {target}:{operation}", at=begin)
        call_id = self.link.ask("call", component_id, method_name, payload, operation)
        span = span_id(target, operation, call_id)
        self._calls[call_id] = _Call(target, operation, span, begin)
        return call_id

    def call(self, component_id: ComponentID, method_name: str, *args: Any, **keywords: Any) -> Any:
        """Call a method of another component and wait for it.

        Returns
        -------
        tuple
            One item: what the method returned (as IPS-framework has it).

        Raises
        ------
        IPSError
            The method raised, or its component died; the message names it. Or the component is
            the caller itself.
        """
        if component_id == self.component_id:
            raise IPSError(
                f"{self.full_comp_id} cannot wait for its own {method_name}, which would begin "
                "only after this call; call the method directly"
            )
        return self.wait_call(self.call_nonblocking(component_id, method_name, *args, **keywords))

    def wait_call(self, call_id: int, block: bool = True) -> Any:
        """Wait for a call of :meth:`call_nonblocking`.

        Parameters
        ----------
        call_id : int
            The call.
        block : bool
            False: do not wait.

        Returns
        -------
        tuple
            One item: what the method returned.

        Raises
        ------
        KeyError
            There is no such call, or it was waited for already.
        IncompleteCallException
            ``block`` is False and the call still runs.
        IPSError
            The method raised, or its component died.
        """
        if call_id not in self._calls:
            raise KeyError(f"no call {call_id} to wait for")
        try:
            value = self.link.ask("wait_call", call_id, block)
        except IPSError as error:
            self._end_call(call_id, str(error))
            raise
        if value is None:
            raise IncompleteCallException(call_id)
        self._end_call(call_id)
        return (unpack(value),)

    def _end_call(self, call_id: int, failed: str = "") -> None:
        call = self._calls.pop(call_id)
        now = time.time()
        comment = f"Target = {call.target}:{call.operation}"
        self.link.emit(
            "IPS_CALL_END",
            f'Error: "{failed}" {comment}' if failed else comment,
            at=now,
            ok=not failed,
            trace=trace(
                call.target,
                call.operation,
                span=call.span,
                begin=call.begin,
                end=now,
                parent=self.span,
            ),
        )

    def wait_call_list(self, call_id_list: Iterable[int], block: bool = True) -> dict[int, Any]:
        """Wait for several calls; all are waited for before the first failure is raised.

        Returns
        -------
        dict
            Results by call id; with ``block=False``, of those that have ended.
        """
        results: dict[int, Any] = {}
        failure: IPSError | None = None
        for call_id in list(call_id_list):
            try:
                results[call_id] = self.wait_call(call_id, block)
            except IncompleteCallException:
                continue
            except IPSError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return results
