"""What a notebook shows of a cluster, as HTML; the numbers are the cluster's."""

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
    """What Dask's own table of a cluster does not have.

    Parameters
    ----------
    allocation : str
        Whose nodes.
    nodes_used, nodes_held : int
        Nodes with a worker, and nodes of the allocation.
    seconds_left : float or None
        Until the allocation ends; None when it has no known end.
    tunnel : str
        The command that makes the dashboard's link work; empty where none is needed.
    """

    allocation: str
    nodes_used: int
    nodes_held: int
    seconds_left: float | None
    tunnel: str

    def rows(self) -> str:
        """Return rows for Dask's table, of two columns."""
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
    """Return Dask's page of a cluster, with our rows and a table of workers and their nodes.

    Dask's own table of scheduler and workers is left out: it has links to dashboards at their
    network addresses, where none listens.

    Parameters
    ----------
    kind, name : str
        Class and name of the cluster.
    link : str
        Of the dashboard; empty for none.
    workers : mapping
        What the scheduler tells of each, by address.
    node_of : mapping of str to str
        Node of each worker, by its name.
    rows : str
        Further rows of the table, as HTML.
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
