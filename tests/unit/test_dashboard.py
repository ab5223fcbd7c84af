"""Where a browser finds the dashboard, and what a notebook shows, as pure text."""

from __future__ import annotations

import dask
import pytest

from ips_dask_cluster.dashboard import Dashboard
from ips_dask_cluster.display import Status, cluster_page

HUB = {"JUPYTERHUB_SERVICE_PREFIX": "/user/me/"}
NEAR = Dashboard("127.0.0.1", 41, "10.0.0.1", "n1", True)
FAR = Dashboard("127.0.0.1", 41, "10.0.0.1", "n1", False)
OPEN = Dashboard("", 41, "10.0.0.1", "n1", False)
LAPTOP = Dashboard("127.0.0.1", 41, "10.0.0.1", "", True)
TUNNEL = "ssh -N -L 41:127.0.0.1:41 n1"


@pytest.mark.parametrize(
    ("dashboard", "environ", "link", "tunnel"),
    [
        (NEAR, {}, "http://127.0.0.1:41/status", TUNNEL),
        (FAR, {}, "http://127.0.0.1:41/status", TUNNEL),
        (OPEN, {}, "http://10.0.0.1:41/status", ""),
        (LAPTOP, {}, "http://127.0.0.1:41/status", ""),
        (NEAR, HUB, "/user/me/proxy/41/status", ""),
        (FAR, HUB, "/user/me/proxy/41/status", TUNNEL),
        (OPEN, HUB, "/user/me/proxy/10.0.0.1:41/status", ""),
        (LAPTOP, HUB, "/user/me/proxy/41/status", ""),
    ],
)
def test_link_and_the_tunnel_it_needs(dashboard, environ, link, tunnel) -> None:
    assert (dashboard.link(environ), dashboard.tunnel(environ)) == (link, tunnel)


def test_a_link_that_is_configured_is_left_alone() -> None:
    with dask.config.set({"distributed.dashboard.link": "https://site/{host}/{port}"}):
        assert (FAR.link(HUB), FAR.tunnel(HUB)) == ("https://site/127.0.0.1/41", "")


@pytest.mark.parametrize(
    ("listens", "on_loopback"),
    [
        ("", False),
        ("0.0.0.0", False),
        ("::", False),
        ("hsn0.site", False),
        ("10.0.0.1", False),
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
    ],
)
def test_who_reaches_it(listens: str, on_loopback: bool) -> None:
    assert Dashboard(listens, 41, "10.0.0.1", "n1", True).on_loopback == on_loopback


CELL = '<td style="text-align: left;">'


def test_rows_of_a_cluster_in_an_allocation() -> None:
    assert Status("Slurm job 7", 2, 4, 3725.0, TUNNEL).rows() == (
        f"<tr>{CELL}<strong>Allocation:</strong> Slurm job 7</td>"
        f"{CELL}<strong>Nodes:</strong> 2 of 4</td></tr>\n"
        f"<tr>{CELL}<strong>Time left:</strong> 1 h 02 min</td>"
        f"{CELL}<strong>To see the dashboard from elsewhere:</strong> {TUNNEL}</td></tr>"
    )


def test_rows_without_an_end_and_without_a_tunnel() -> None:
    assert Status("this machine", 1, 1, None, "").rows() == (
        f"<tr>{CELL}<strong>Allocation:</strong> this machine</td>"
        f"{CELL}<strong>Nodes:</strong> 1 of 1</td></tr>"
    )


def test_no_time_left_is_no_negative_time() -> None:
    assert "0 h 00 min" in Status("Slurm job 7", 1, 1, -90.0, "").rows()


def test_page_of_a_cluster() -> None:
    workers = {
        "tcp://b": {"name": "c-1", "nthreads": 2, "memory_limit": 2**31},
        "tcp://a": {"name": "c-0", "nthreads": 4, "memory_limit": 0},
    }
    page = cluster_page("Kind", "<c>", "http://x", workers, {"c-0": "n1"}, "<tr>more</tr>")
    assert '<a href="http://x" target="_blank">http://x</a>' in page
    assert "&lt;c&gt;" in page
    assert "<c>" not in page
    assert "<strong>Total threads:</strong> 6" in page
    assert "<tr>more</tr>" in page
    assert (
        f"<tr>{CELL}c-0</td>{CELL}n1</td>{CELL}4</td>{CELL}no limit</td></tr>\n"
        f"<tr>{CELL}c-1</td>{CELL}</td>{CELL}2</td>{CELL}2.00 GiB</td></tr>\n"
    ) in page


def test_page_without_dashboard_has_no_empty_link() -> None:
    page = cluster_page("Kind", "c", "", {}, {}, "")
    assert "<strong>Dashboard:</strong> none" in page
    assert "href" not in page
