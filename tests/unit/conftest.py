"""What unit tests share: small programs on PATH, and a Python that lacks our packages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# No deadline for one example: the machine may be busy.
settings.register_profile("unit", deadline=None, database=None, max_examples=60)
settings.load_profile("unit")

_WITHOUT_US = """
import sys
sys.modules |= {"ips_core": None, "ips_dask_cluster": None}
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``program(name, script)``: a shell script of that name, the only folder on PATH being its."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(name: str, script: str = "") -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def run_without_us(tmp_path: Path) -> Callable[..., str]:
    """``run_without_us(code, *arguments)``: what it prints in a Python without our packages."""

    def run(code: str, *arguments: object) -> str:
        argv = [sys.executable, "-I", "-c", _WITHOUT_US + code, *map(str, arguments)]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
