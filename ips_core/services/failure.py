"""Report the failure of a service."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ips_core.services.base import ServicesBase

__all__ = ["failure_reported"]


@contextlib.contextmanager
def failure_reported(
    services: ServicesBase, method: str, eventtype: str, comment: str = ""
) -> Iterator[None]:
    """Emit a failed event and log the traceback if the body raises, then raise again.

    The event's comment is ``comment`` followed by the exception's text.
    """
    try:
        yield
    except Exception as error:
        services.link.emit(eventtype, f"{comment} Exception raised : {error}", ok=False)
        services.logger.exception("%s failed", method)
        raise
