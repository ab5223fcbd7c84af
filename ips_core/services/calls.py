"""Find components by port and call their methods."""

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

        Parameters
        ----------
        port_name : str
            Name of the port in section [PORTS].

        Returns
        -------
        ComponentID
            Id of the component, for :meth:`call`.

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
        """Call a method of another component without waiting for its end.

        Parameters
        ----------
        component_id : ComponentID
            Id of the component, from :meth:`get_port`.
        method_name : str
            Name of the method.
        *args, **keywords
            Arguments of the method; they must be picklable.

        Returns
        -------
        int
            Id of the call, for :meth:`wait_call`.

        Raises
        ------
        IPSError
            `component_id` is not an id, or there is no such component.
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
        """Call a method of another component and wait for its end.

        Parameters
        ----------
        component_id : ComponentID
            Id of the component, from :meth:`get_port`.
        method_name : str
            Name of the method.
        *args, **keywords
            Arguments of the method; they must be picklable.

        Returns
        -------
        tuple
            One item: the method's return value. IPS-framework returns a tuple, too.

        Raises
        ------
        IPSError
            The method raised, or its component died; the message names the component. Or the
            component is the caller itself, or waits for the caller.
        """
        if component_id == self.component_id:
            raise IPSError(
                f"{self.full_comp_id} cannot wait for its own {method_name}, which would begin "
                "only after this call; call the method directly"
            )
        return self.wait_call(self.call_nonblocking(component_id, method_name, *args, **keywords))

    def wait_call(self, call_id: int, block: bool = True) -> Any:
        """Wait for the end of a call of :meth:`call_nonblocking`.

        Parameters
        ----------
        call_id : int
            Id of the call.
        block : bool
            If False, raise instead of waiting. Default: True.

        Returns
        -------
        tuple
            One item: the method's return value.

        Raises
        ------
        KeyError
            The id is unknown, or the call was waited for already.
        IncompleteCallException
            `block` is False and the call still runs.
        IPSError
            The method raised, its component died, or the component waits for the caller.
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
        """Wait for the end of several calls.

        Parameters
        ----------
        call_id_list : iterable of int
            Ids of the calls.
        block : bool
            If False, skip calls that still run. Default: True.

        Returns
        -------
        dict
            What :meth:`wait_call` returns for each call, by call id. With ``block=False``, only
            calls that have ended.

        Raises
        ------
        KeyError
            An id is unknown, or the call was waited for already. Calls after it were not waited
            for.
        IPSError
            A call failed. All calls were waited for; the error is that of the first failure.
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
