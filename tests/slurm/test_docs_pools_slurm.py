"""The examples of docs/pools.md that need Slurm: ranks on two nodes, and a GPU of one's own."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from textwrap import indent

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "pools.md").read_text(encoding="utf-8")

DRIVER = """\
from ipsframework import Component


class Driver(Component):
    def step(self, timestamp=0.0, **keywords):
        services, here = self.services, self.services.get_working_dir()
{statements}"""


def example(heading: str) -> str:
    found = re.search(rf"^## {heading}\n.*?^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return DRIVER.format(statements=indent(found[1], " " * 8))


@pytest.fixture
def run(gpu_slurm, shared_tmp_path, monkeypatch):
    """``run(heading)``: run an example on two nodes; return its output and its folder."""
    monkeypatch.chdir(shared_tmp_path)
    config = re.search(r"^```ini\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert config is not None
    Path("scan.config").write_text(config[1])

    def run(heading: str) -> tuple[str, Path]:
        Path("driver.py").write_text(example(heading))
        command = [sys.executable, "-m", "ips_core", "--config", "scan.config"]
        done = gpu_slurm.salloc(command, nodes=2, options=("--exclusive", "--gpus-per-node=2"))
        assert done.returncode == 0, done.stderr
        (folder,) = (shared_tmp_path / "scan" / "work").iterdir()
        return done.stdout, folder

    return run


def test_ranks_of_the_page(run) -> None:
    output, folder = run("MPI programs")
    assert output.endswith("{'ranks': 0} n1,n2\n")
    assert len((folder / "ranks.log").read_text().splitlines()) == 4


def test_gpu_of_the_page(run) -> None:
    output, folder = run("GPUs")
    assert "{'device': 0}" in output
    lines = (folder / "gpu.log").read_text().splitlines()
    devices = [line for line in lines if line.startswith("CUDA_VISIBLE_DEVICES=")]
    assert devices in (["CUDA_VISIBLE_DEVICES=0"], ["CUDA_VISIBLE_DEVICES=1"])
