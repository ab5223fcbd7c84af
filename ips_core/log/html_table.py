"""Write the ``.html`` file: the events as a table for a browser."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["HtmlTable", "html_page"]

#: Most rows of the page, for the browser's sake; the log has all events.
MOST_ROWS = 5000
_LEAST_SECONDS = 300.0  # between two versions of the page during a run
_COLUMNS = {
    "Time": "time",
    "Sequence Num": "seqnum",
    "Type": "eventtype",
    "Code": "code",
    "State": "state",
    "Wall Time": "walltime",
    "Physics Time": "phystimestamp",
    "Comment": "comment",
}
_NO_ROW = ("IPS_START", "IPS_RESOURCE_ALLOC", "IPS_END")
_STYLE = (
    "table{border-collapse:collapse;font:13px sans-serif}"
    "td,th{border:1px solid #bbb;padding:2px 6px;text-align:left;vertical-align:top}"
    "tr.failed td{background:#fdd}"
)


def html_page(rows: Iterable[tuple[bool, Sequence[Any]]], title: str, left_out: int = 0) -> str:
    """Return events as an HTML page with `title`.

    A row is a flag, whether the event went well, and the values of its columns; `left_out` is the
    number of earlier events without a row.
    """
    from html import escape  # lazy: most processes write no page

    def cells(values: Iterable[Any], tag: str) -> str:
        return "".join(f"<{tag}>{escape(str(value))}</{tag}>" for value in values)

    lines = [
        f'<!DOCTYPE html><html><head><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>{_STYLE}</style></head><body>",
    ]
    if left_out:
        lines.append(
            f"<p>The first {left_out} events are left out; {escape(title)}.json has all.</p>"
        )
    lines.append(f"<table><thead><tr>{cells(_COLUMNS, 'th')}</tr></thead><tbody>")
    for ok, values in rows:
        lines.append(f"<tr{'' if ok else ' class=failed'}>{cells(values, 'td')}</tr>")
    lines.append("</tbody></table></body></html>")
    return "\n".join(lines) + "\n"


class HtmlTable:
    """A sink that writes the page at the end and, while events arrive, every five minutes.

    `copy_to` (USER_W3_DIR) is a folder for a copy of the page, created if it is missing; empty
    means none. `every` (HTML_DUMP_FREQ) is the number of events after which the sink checks whether
    the page is due. `say` gets a message for the user if a file cannot be written.
    """

    def __init__(
        self, path: Path, say: Callable[[str], None], copy_to: str = "", every: int = 10
    ) -> None:
        self._path = path
        self._say = say
        self._copies = [Path(copy_to) / path.name] if copy_to else []
        self._every = max(1, every)
        self._rows: deque[tuple[bool, tuple[Any, ...]]] = deque(maxlen=MOST_ROWS)
        self._count = 0
        self._last = time.monotonic()

    def write(self, events: Sequence[dict[str, Any]]) -> None:
        """Take events, and write the page if it is due."""
        before = self._count
        for event in events:
            if event["eventtype"] not in _NO_ROW:
                self._count += 1
                columns = tuple(event.get(name, "") for name in _COLUMNS.values())
                self._rows.append((bool(event.get("ok", True)), columns))
        looked = before // self._every != self._count // self._every
        if looked and time.monotonic() - self._last > _LEAST_SECONDS:
            self._dump()

    def end(self) -> None:
        """Write the page."""
        self._dump()
        self._rows.clear()

    def close(self) -> None:
        """Do nothing: :meth:`end` writes the page."""

    def _dump(self) -> None:
        self._last = time.monotonic()
        try:
            page = html_page(self._rows, self._path.stem, self._count - len(self._rows)).encode(
                errors="backslashreplace"
            )
        except Exception as error:  # a value whose __str__ raises
            self._say(f"{self._path} is not written: {error}")
            return
        _replace(self._path, page, self._say)
        for copy in self._copies:
            with contextlib.suppress(OSError):
                copy.parent.mkdir(parents=True, exist_ok=True)
            if not _replace(copy, page, self._say):
                self._copies = []


def _replace(path: Path, data: bytes, say: Callable[[str], None]) -> bool:
    """Replace a file in one step and return whether that worked; `say` gets the reason if not."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        say(f"{path} cannot be written: {error.strerror}")
        with contextlib.suppress(OSError):
            part.unlink()
        return False
    return True
