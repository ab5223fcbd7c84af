"""Render the HTML page of a cluster for notebooks."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dask.utils import format_bytes
from dask.widgets import get_template

__all__ = ["Status", "cluster_page"]


@dataclass(frozen=True)
class Status:
    """Facts about a cluster that Dask's own table lacks."""

    allocation: str
    #: Nodes with a worker.
    nodes_used: int
    #: Nodes of the allocation.
    nodes_held: int
    #: Seconds until the allocation ends; None when it has no known end.
    seconds_left: float | None
    #: Command that the dashboard's link needs to work; empty if it needs none.
    tunnel: str

    def rows(self) -> str:
        """Return the facts as rows for Dask's table, which has two columns."""
        cells = [
            ("Allocation", self.allocation),
            ("Nodes", f"{self.nodes_used} of {self.nodes_held}"),
        ]
        if self.seconds_left is not None:
            minutes = max(0, int(self.seconds_left // 60))
            cells.append(("Time left", f"{minutes // 60} h {minutes % 60:02} min"))
        if self.tunnel:
            cells.append(("To see the dashboard from elsewhere", self.tunnel))
        rows = [cells[number : number + 2] for number in range(0, len(cells), 2)]
        return "\n".join(
            _row([f"<strong>{k}:</strong> {_text(v)}" for k, v in row]) for row in rows
        )


def cluster_page(
    kind: str,
    name: str,
    link: str,
    workers: Mapping[str, Mapping[str, Any]],
    node_of: Mapping[str, str],
    rows: str,
) -> str:
    """Return Dask's page of a cluster, with further ``rows`` and a table of workers and nodes.

    ``kind`` is the class of the cluster, ``workers`` is the scheduler's information by address, and
    ``node_of`` has the node of each worker by name. Dask's own table of scheduler and workers is
    left out, because it links to dashboards at network addresses where none listens.
    """
    page = get_template("cluster.html.j2").render(
        type=kind,
        name=_text(name),
        workers=workers,
        dashboard_link=_text(link),
        scheduler_info_repr=_workers_table(workers, node_of),
        cluster_status=rows,
    )
    return str(page).replace('<a href="" target="_blank"></a>', "none")


def _workers_table(workers: Mapping[str, Mapping[str, Any]], node_of: Mapping[str, str]) -> str:
    rows = [_row([f"<strong>{name}</strong>" for name in ("Worker", "Node", "Threads", "Memory")])]
    for info in sorted(workers.values(), key=lambda info: str(info["name"])):
        memory = format_bytes(info["memory_limit"]) if info["memory_limit"] else "no limit"
        node = node_of.get(info["name"], "")
        rows.append(_row([_text(w) for w in (info["name"], node, info["nthreads"], memory)]))
    return "<table>\n" + "\n".join(rows) + "\n</table>"


def _row(cells: Sequence[str]) -> str:
    inside = "".join(f'<td style="text-align: left;">{cell}</td>' for cell in cells)
    return f"<tr>{inside}</tr>"


def _text(value: object) -> str:
    return html.escape(str(value))
