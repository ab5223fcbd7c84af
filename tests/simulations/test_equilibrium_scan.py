"""The scan of Grad-Shafranov equilibria: four small points here, and the physics they must obey."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import dataclass

import pytest

IPS = (sys.executable, "-m", "ips_core")
NAMES = ("ip400kA_p2kPa", "ip400kA_p8kPa", "ip800kA_p2kPa", "ip800kA_p8kPa")


@dataclass(frozen=True)
class Scan:
    """What a scan leaves: its exit code, the rows of its table, its files and their sizes."""

    code: int
    table: dict[str, dict[str, str]]
    sizes: dict[str, int]
    picture: bytes


@pytest.fixture
def scan(small_scan, once) -> Scan:
    """Four points, and two that have no solution."""

    def run() -> Scan:
        folder = small_scan(2)
        config = folder / "equilibrium_scan.config"
        config.write_text(config.read_text().replace("2e3, 8e3", "2e3, 8e3, 1e6"))
        argv = [*IPS, "--config", config.name, "--nodes", "2"]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=110)
        (work,) = folder.glob("equilibrium_scan/work/*ScanWorker*")
        with open(work / "scan.csv", newline="") as file:
            table = {row["name"]: row for row in csv.DictReader(file)}
        sizes = {path.name: path.stat().st_size for path in work.iterdir()}
        return Scan(done.returncode, table, sizes, (work / "scan.png").read_bytes())

    return once("scan", run)


def test_the_physics_of_four_points(scan):
    assert scan.code == 0
    table = {name: scan.table[name] for name in NAMES}
    assert {row["converged"] for row in table.values()} == {"True"}
    q95, beta, axis, volume, li = (
        {name: float(row[key]) for name, row in table.items()}
        for key in ("q95", "beta_p", "R_axis", "volume", "li")
    )
    low, low_hot, high, high_hot = NAMES
    for row in table.values():
        # Ampere's law round the boundary gives back the current asked for, on this coarse grid
        asked, solved = float(row["plasma_current"]), float(row["current_from_field"])
        assert solved == pytest.approx(asked, rel=5e-3)
        assert abs(float(row["Z_axis"])) < 1e-3  # up-down symmetric
        assert float(row["residual"]) < 1e-4
    # The equation has a similarity: shape, beta and inductance depend on p / Ip^2 alone
    for quantity in (beta, axis, volume, li):
        assert quantity[low] == pytest.approx(quantity[high_hot], rel=1e-3)
    # More current, less safety factor; more pressure, more beta and a larger Shafranov shift
    assert q95[low] / q95[high] == pytest.approx(2, rel=0.03)
    assert beta[low] < beta[low_hot]
    assert axis[low] < axis[low_hot]
    assert beta[high] < beta[high_hot]
    assert all(scan.sizes[f"{name}.geqdsk"] > 10_000 for name in NAMES)
    assert scan.picture.startswith(b"\x89PNG")
    assert not [name for name in scan.sizes if name.startswith(".")]


def test_a_point_without_a_solution_costs_no_other(scan):
    assert [row["converged"] for row in scan.table.values()] == ["True", "True", "False"] * 2
    assert "failed to converge" in scan.table["ip400kA_p1000kPa"]["reason"]
