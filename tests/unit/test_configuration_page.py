"""docs/configuration.md names what the code has."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from ips_core import cli
from ips_core.commands.check import report
from ips_core.compat.names import INSTEAD, NAMES
from ips_core.config import ComponentConfig, PlatformConfig, SimulationConfig, platform
from ips_core.config.checkpoint import CHECKPOINT_VALUES
from ips_core.resources.nodes import NodeCapacity, Resources

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")


def part(heading: str) -> str:
    """The text below a heading, up to the next one."""
    return re.split(r"\n#+ ", PAGE.split(f"# {heading}\n", 1)[1])[0]


def first_column(heading: str) -> set[str]:
    """The words in the first column of the table below a heading."""
    rows = [line.split("|")[1] for line in part(heading).splitlines() if line.startswith("| ")]
    return {word for row in rows for word in re.findall(r"`([\w-]+)`", row)}


def test_keys_of_a_platform_file() -> None:
    defaults = platform.read_platform(None).values
    assert {*platform._MACHINE, *defaults} < first_column("Platform file")


def test_keys_of_checkpoints() -> None:
    known = {"MODE", "NUM_CHECKPOINT", "PROTECT_FREQUENCY", *CHECKPOINT_VALUES.values()}
    assert first_column("`[CHECKPOINT]`") == known


def test_options() -> None:
    parser: argparse.ArgumentParser = cli._parser()
    options = {option for action in parser._actions for option in action.option_strings}
    described = set(re.findall(r"`(--?[a-z-]+)`", part("Command line")))
    assert described == options - {"-h"}


def test_names_of_ipsframework() -> None:
    text = part("`import ipsframework`")
    named = set(re.findall(r"`(\w+)`", text))
    assert set(NAMES[""]) <= named
    assert {name for name in NAMES if NAMES[name] and "_" not in name} - {""} <= named
    assert "ResourceManager" in INSTEAD.keys() & named


def test_example_of_a_check() -> None:
    component = ComponentConfig(
        "SCAN", "DRIVER", "SCAN", "Driver", "/home/me/driver.py", "", {"INPUT_DIR": "/home/me"}
    )
    simulation = SimulationConfig(
        file="/home/me/scan.config",
        name="scan",
        root="/home/me/scan",
        log_file="/home/me/scan/scan.log",
        log_level="WARNING",
        ports={"DRIVER": "SCAN"},
        components={"SCAN": component},
        values={"SIMULATION_MODE": "NORMAL"},
        environment={},
    )
    resources = Resources(1, 4, "local", held=(NodeCapacity("laptop", 4),))
    assert report(PlatformConfig(), resources, [simulation]) in PAGE
