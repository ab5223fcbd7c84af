"""The ``.html`` file: the events as a table for a browser."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["HtmlTable", "html_page"]

#: A browser shows so many at once; the log has them all.
MOST_ROWS = 5000
_LEAST_SECONDS = 300.0  # between two versions of the page while the simulation runs
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
    """Return the table of some events as a page.

    Parameters
    ----------
    rows : iterable of (bool, sequence)
        Of each event whether it went well, and its columns.
    title : str
        The portal run id.
    left_out : int
        How many events came before these.
    """
    from html import escape

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
    """A sink: the page, written at the end and, if events go on coming, every five minutes.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    say : callable
        Takes a sentence for the user, if a copy cannot be written.
    copy_to : str
        USER_W3_DIR: a folder, made if it is not there, for a copy of the page. Empty: none.
    every : int
        HTML_DUMP_FREQ: look after so many events whether the page is due.
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
        """Take events; write the page if it is due."""
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
        """Nothing is under way."""

    def _dump(self) -> None:
        self._last = time.monotonic()
        try:
            page = html_page(self._rows, self._path.stem, self._count - len(self._rows)).encode(
                errors="backslashreplace"
            )
        except Exception as error:  # a value that cannot even be printed
            self._say(f"{self._path} is not written: {error}")
            return
        _replace(self._path, page, self._say)
        for copy in self._copies:
            with contextlib.suppress(OSError):
                copy.parent.mkdir(parents=True, exist_ok=True)
            if not _replace(copy, page, self._say):
                self._copies = []


def _replace(path: Path, data: bytes, say: Callable[[str], None]) -> bool:
    """Write a file such that nobody ever sees half of it; tell whether that went well."""
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
