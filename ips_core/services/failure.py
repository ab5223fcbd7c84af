"""How services report that they failed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ips_core.services.base import ServicesBase

__all__ = ["failure_reported"]


@contextlib.contextmanager
def failure_reported(
    services: ServicesBase, method: str, eventtype: str, comment: str = ""
) -> Iterator[None]:
    """Let an exception through, after an event and a traceback in the log file.

    Parameters
    ----------
    services : ServicesBase
        Whose events and log file.
    method : str
        Name of the service.
    eventtype, comment : str
        Of the event; the comment ends with the exception's text.
    """
    try:
        yield
    except Exception as error:
        services.link.emit(eventtype, f"{comment} Exception raised : {error}", ok=False)
        services.logger.exception("%s failed", method)
        raise
