"""Write the ``.eventlog`` file: a line of ``key=value`` for each event, as in IPS-framework."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ips_core.log.appender import Appender
from ips_core.log.events import clock

__all__ = ["EventLog", "eventlog_line"]


def eventlog_line(event: Mapping[str, Any], written: float) -> str:
    """Return an event as a line that was written at `written`, in seconds since the epoch.

    A value with blanks is in single quotes, an empty value is left out, and line ends within a
    value are written as ``\\n``.
    """
    line = f"{event['seqnum']:8d} {clock(written)} "
    for name, value in event.items():
        text = value if value.__class__ is str else _text(value)
        if "\n" in text or "\r" in text:
            text = text.strip().replace("\r", "\\r").replace("\n", "\\n")
        if " " in text:
            if not text.isspace():
                line += f"{name}='{text}' "
        elif text:
            line += f"{name}={text} "
    return line + "\n"


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


class EventLog:
    """A sink that appends each event to the ``.eventlog`` file at once."""

    def __init__(self, path: Path) -> None:
        self._file = Appender(path)

    def write(self, events: Sequence[dict[str, Any]]) -> None:
        """Append events with one write."""
        now = time.time()
        lines = "".join(eventlog_line(event, now) for event in events)
        self._file.write(lines.encode(errors="backslashreplace"))

    def end(self) -> None:
        """Close the file."""
        self._file.close()

    def close(self) -> None:
        """Do nothing: :meth:`end` closes the file."""
