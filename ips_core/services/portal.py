"""Write a component's own events to the simulation log."""

from __future__ import annotations

from typing import Any

from ips_core.services.base import ServicesBase

__all__ = ["PortalServices"]


class PortalServices(ServicesBase):
    """Events for the simulation log and the portal."""

    def send_portal_event(
        self,
        event_type: str = "COMPONENT_EVENT",
        event_comment: str = "",
        event_time: float | None = None,
        elapsed_time: float | None = None,
    ) -> None:
        """Write an event to the simulation log; a portal receives it, too.

        Parameters
        ----------
        event_type : str
            Type of the event. Default: ``COMPONENT_EVENT``.
        event_comment : str
            Free text. Default: empty.
        event_time : float, optional
            Time of the event in seconds since the epoch. Default: now.
        elapsed_time : float, optional
            Duration in seconds, recorded as ``elapsed_time``. Default: no such field.
        """
        fields: dict[str, Any] = {} if elapsed_time is None else {"elapsed_time": elapsed_time}
        self.link.emit(str(event_type), str(event_comment), at=event_time, **fields)

    def setMonitorURL(self, url: str = "") -> None:  # IPS-framework's name
        """Record the address at which the simulation's data can be watched.

        All later events of the simulation carry it as ``vizurl``, without ``http://``.

        Parameters
        ----------
        url : str
            Address; an empty one ends the recording. Default: empty.
        """
        self.link.emit("IPS_SET_MONITOR_URL", "SUCCESS", vizurl=url.rpartition("//")[2])
