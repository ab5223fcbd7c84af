"""docs/profiles.md shows, for each packaged profile, the line that the code yields today."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import dask
import pytest
import yaml

from ips_dask_cluster.configuration import DEFAULT, Configured, profiles
from ips_dask_cluster.settings import StepSettings
from ips_dask_cluster.slurm.allocation import Allocation, Node
from ips_dask_cluster.steps.launcher import Steps

DOCS = Path(__file__).parents[2] / "docs"
SOURCE = DOCS.parent / "ips_dask_cluster" / "slurm-allocation.yaml"
NAME = "ips-dask-31415926-a1b2c3"
NODES = {
    "perlmutter-cpu": Node("nid004001", 256),
    "perlmutter-gpu": Node("nid001001", 128, gpus=4),
    "frontier": Node("frontier00001", 112, gpus=8),
    "local": Node("localhost-0", 8),
}


def worker_step(profile: str, run_directory: Path) -> list[str]:
    """The command line of a worker step, its script replaced by its name."""
    configured = Configured(profile, {})
    settings = StepSettings(
        name=NAME,
        run_directory=run_directory,
        log_directory=run_directory,
        python="python3",
        cores=configured("cores"),
        srun_extra_args=configured.words("srun-extra-args"),
        srun_args_skip=configured.words("srun-args-skip"),
    )
    first = NODES[profile]
    nodes = [first]
    if profile != "local":
        nodes.append(Node(first.name[:-1] + "2", first.cpus, first.memory, first.gpus))
    held = Allocation(None if profile == "local" else "31415926", tuple(nodes))
    steps = Steps.__new__(Steps)  # nothing is started: only what command() reads
    steps.allocation, steps.settings = held, settings
    return steps.command("worker", nodes, "$script", 1)


def documented(profile: str, language: str) -> str:
    """The first block of a language below the heading of a profile."""
    text = (DOCS / "profiles.md").read_text(encoding="utf-8")
    section = re.search(rf"^## `{profile}`$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None, f"no heading ## `{profile}`"
    block = re.search(rf"^```{language}\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)
    assert block is not None, f"no block of {language} below {profile}"
    return block[1]


def test_every_packaged_profile_is_documented() -> None:
    assert set(NODES) == set(profiles()) - {DEFAULT}


@pytest.mark.parametrize("profile", NODES)
def test_documented_line_is_what_runs(profile: str, tmp_path: Path) -> None:
    words = shlex.split(documented(profile, "sh").replace("\\\n", " "))
    assert words == worker_step(profile, tmp_path)


@pytest.mark.parametrize("profile", NODES)
def test_every_setting_of_a_profile_is_explained_with_its_source(profile: str) -> None:
    text = (DOCS / "profiles.md").read_text(encoding="utf-8")
    section = text.partition(f"## `{profile}`\n")[2].partition("\n## ")[0]
    source = SOURCE.read_text(encoding="utf-8").partition(f"\n  {profile}:\n")[2]
    lines = re.match(r"(?:    .*\n)*", source)[0].splitlines()
    written = [line.strip().removeprefix("- ") for line in lines if "#" not in line]
    assert len(written) >= 2
    for setting in written:
        if not setting.endswith(":"):
            assert f"| `{setting}` |" in section
    for url in {line.strip("# ") for line in lines if "https://" in line}:
        assert url in section
    rows = [row for row in section.splitlines() if row.startswith("| `")]
    assert [row for row in rows if "https://" not in row and "](" not in row] == []


def test_example_of_a_site_is_a_valid_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    text = (DOCS / "profiles.md").read_text(encoding="utf-8")
    block = re.search(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    sections = yaml.safe_load(block[1])["jobqueue"]
    assert list(sections) == ["my-site"]
    with dask.config.set({"jobqueue.my-site": sections["my-site"]}):
        settings = Configured("my-site", {})
    assert settings("local-directory") == "/scratch/me/dask"
    assert settings("srun-args-skip") == ("--mem",)
