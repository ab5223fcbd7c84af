"""The scan of Grad-Shafranov equilibria: four small points here, and the physics they must obey."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

IPS = (sys.executable, "-m", "ips_core")
NAMES = ("ip400kA_p2kPa", "ip400kA_p8kPa", "ip800kA_p2kPa", "ip800kA_p8kPa")


def run_scan(folder: Path) -> tuple[subprocess.CompletedProcess, Path]:
    argv = [*IPS, "--config", "equilibrium_scan.config", "--nodes", "2"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=110)
    (work,) = folder.glob("equilibrium_scan/work/*ScanWorker*")
    return done, work


def read_table(work: Path) -> dict[str, dict[str, str]]:
    with open(work / "scan.csv", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_the_physics_of_four_points(small_scan):
    done, work = run_scan(small_scan(2))
    assert done.returncode == 0
    table = read_table(work)
    assert tuple(table) == NAMES
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
    assert all((work / f"{name}.geqdsk").stat().st_size > 10_000 for name in NAMES)
    assert (work / "scan.png").read_bytes().startswith(b"\x89PNG")
    assert not [name for name in os.listdir(work) if name.startswith(".")]


def test_a_point_without_a_solution_costs_no_other(small_scan):
    folder = small_scan(2)
    config = folder / "equilibrium_scan.config"
    config.write_text(config.read_text().replace("2e3, 8e3", "2e3, 1e6"))
    done, work = run_scan(folder)
    assert done.returncode == 0
    table = read_table(work)
    assert [row["converged"] for row in table.values()] == ["True", "False", "True", "False"]
    assert "failed to converge" in table["ip400kA_p1000kPa"]["reason"]
