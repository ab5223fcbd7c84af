"""What the README shows works as it stands: the notebook cell, the driver, the sbatch script."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from ips_core import read_log

README = (Path(__file__).parents[2] / "README.md").read_text()


def block(language: str, mark: str) -> str:
    """The one code block of a language that contains a mark."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (found,) = (text for text in blocks if mark in text)
    return found


def run_notebook(source: str) -> str:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, timeout=60).execute()
    return "".join(output["text"] for output in notebook.cells[0].outputs)


@pytest.fixture
def scan(shared_tmp_path, monkeypatch) -> Path:
    """The README's simulation in a directory of its own."""
    monkeypatch.chdir(shared_tmp_path)
    Path("driver.py").write_text(block("python", "class Driver"))
    Path("scan.config").write_text(block("ini", "SIM_NAME"))
    return shared_tmp_path / "scan"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_notebook_cell_on_four_nodes(job_id):
    assert run_notebook(block("python", "SlurmAllocationCluster()")) == "328350\n"
    assert os.listdir() == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_notebook_cell_without_slurm(shared_tmp_path, monkeypatch):
    monkeypatch.chdir(shared_tmp_path)
    said = run_notebook(block("python", "SlurmAllocationCluster()"))
    assert said.splitlines()[-1] == "328350"
    assert "no Slurm allocation (SLURM_JOB_ID is not set): 1 worker(s)" in said


@pytest.mark.versions
def test_the_driver(scan):
    argv = [Path(sys.executable).with_name("ips.py"), "--config", "scan.config"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    results = "{'code_1': 1.0, 'date_1': 0, 'code_2': 2.8284271247461903, 'date_2': 0, "
    assert done.stdout.splitlines()[1].startswith(results)
    assert len(list(scan.glob("work/*/date_*.log"))) == 3


@pytest.mark.versions
def test_the_sbatch_script_on_four_nodes(slurm, scan, wait_until):
    driver = Path("driver.py")
    driver.write_text(driver.read_text().replace("dask_nodes=1", "dask_nodes=4"))
    Path("batch.sh").write_text(block("bash", "#SBATCH"))
    Path(".venv/bin").mkdir(parents=True)
    Path(".venv/bin/activate").write_text(f"PATH={Path(sys.executable).parent}:$PATH\n")
    slurm.run(["sbatch", "--output=batch.log", "batch.sh"])
    wait_until(lambda: not slurm.jobs(), 90, "the job has ended")
    log = Path("batch.log").read_text()
    assert log.splitlines()[0].startswith("Starting IPS ")
    assert "'code_5': 11.18" in log
    events = read_log(scan / "simulation_log")
    assert events[1]["comment"] == "Nodes = 4   PPN = 2"
    assert events[-1]["ok"]
