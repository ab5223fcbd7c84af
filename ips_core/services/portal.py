"""Services that write events of the component's own into the simulation log."""

from __future__ import annotations

from typing import Any

from ips_core.services.base import ServicesBase

__all__ = ["PortalServices"]


class PortalServices(ServicesBase):
    """Events for the log and the portal."""

    def send_portal_event(
        self,
        event_type: str = "COMPONENT_EVENT",
        event_comment: str = "",
        event_time: float | None = None,
        elapsed_time: float | None = None,
    ) -> None:
        """Write an event into the simulation log; a portal gets it, too.

        Parameters
        ----------
        event_type, event_comment : str
            Free text.
        event_time : float, optional
            When it happened, in seconds since the epoch. Default: now.
        elapsed_time : float, optional
            How long it took, in seconds: the event's field of that name.
        """
        fields: dict[str, Any] = {} if elapsed_time is None else {"elapsed_time": elapsed_time}
        self.link.emit(str(event_type), str(event_comment), at=event_time, **fields)

    def setMonitorURL(self, url: str = "") -> None:  # IPS-framework's name
        """Tell where the simulation's data can be watched.

        All later events of the simulation have it as ``vizurl``, without its ``http://``.

        Parameters
        ----------
        url : str
            An address; empty: none any more.
        """
        self.link.emit("IPS_SET_MONITOR_URL", "SUCCESS", vizurl=url.rpartition("//")[2])
