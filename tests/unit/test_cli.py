"""The command line: arguments, messages, exit codes."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ips_core import cli
from ips_core.errors import ConfigError

Captured = pytest.CaptureFixture[str]


class FakeFramework:
    """Takes note of its arguments; goes well or not."""

    made: tuple[Any, ...] = ()
    failure = ""
    refusal: ConfigError | None = None

    def __init__(self, *arguments: Any) -> None:
        type(self).made = arguments
        config = SimpleNamespace(log_file="sim.log")
        self.simulations = [SimpleNamespace(name="sim", config=config, failure=self.failure)]
        if self.refusal is not None:
            raise self.refusal

    def run(self) -> bool:
        return not self.failure


@pytest.fixture
def framework(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeFramework]:
    class Framework(FakeFramework):
        pass

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "Framework", Framework)
    monkeypatch.delenv("IPS_PLATFORM_FILE", raising=False)
    return Framework


DEFAULTS = (["a.config"], None, None, False, False, 0, 0, False)
EVERYTHING = (["a.config"], "out.log", "p.conf", True, True, 3, 8, True)


@pytest.mark.parametrize(
    ("argv", "made"),
    [
        (["--config", "a.config"], DEFAULTS),
        (["--config=a.config"], DEFAULTS),
        (["--simulation", "a.config"], DEFAULTS),
        (["-i", "a.config"], DEFAULTS),
        (["-j", "a.config"], DEFAULTS),
        *(
            (argv, (["a.config", "b.config"], *DEFAULTS[1:]))
            for argv in (
                ["-i", "a.config,b.config"],
                ["--config=a.config, b.config"],
                ["--config=a.config", "--simulation=b.config,"],
            )
        ),
        (["--conf=a.config", "--log=sys.stdout"], DEFAULTS),
        (["-i", "a.config", "--no-debug", "--no-verbose", "--resume", "--no-resume"], DEFAULTS),
        (
            ["-i", "a.config", "-p", "p.conf", "-l", "out.log", "-d", "-v", "-n", "3", "-o", "8"],
            (*EVERYTHING[:-1], False),
        ),
        (
            [
                *("--config", "a.config", "--platform", "p.conf", "--log", "out.log"),
                *("--debug", "--verbose", "--nodes", "3", "--ppn", "8", "--resume"),
            ],
            EVERYTHING,
        ),
    ],
)
def test_arguments_reach_the_framework(
    framework: type[FakeFramework], argv: list[str], made: tuple[Any, ...]
) -> None:
    assert cli.main(argv) == 0
    assert framework.made == made


@pytest.mark.parametrize(("argv", "platform"), [([], "env.conf"), (["-p", "p.conf"], "p.conf")])
def test_platform_file_may_come_from_the_environment(
    framework: type[FakeFramework],
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    platform: str,
) -> None:
    monkeypatch.setenv("IPS_PLATFORM_FILE", "env.conf")
    cli.main(["-i", "a.config", *argv])
    assert framework.made[2] == platform


def test_good_simulation_says_nothing(framework: type[FakeFramework], capsys: Captured) -> None:
    assert cli.main(["-i", "a.config"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("log", "more"),
    [(None, ""), ("", ""), ("a traceback", "ips.py: more in sim.log\n")],
    ids=["gone", "empty", "full"],
)
def test_failed_simulation_says_why_and_where_there_is_more(
    framework: type[FakeFramework], capsys: Captured, log: str | None, more: str
) -> None:
    Path("sim.log").unlink(missing_ok=True)
    if log is not None:
        Path("sim.log").write_text(log)
    framework.failure = "component W failed in step: ValueError: x"
    assert cli.main(["-i", "a.config"]) == 1
    assert capsys.readouterr() == ("", f"ips.py: component W failed in step: ValueError: x\n{more}")


def test_every_problem_of_a_file_is_a_line(
    framework: type[FakeFramework], capsys: Captured
) -> None:
    framework.refusal = ConfigError("a.config", ["SIM_NAME is missing", "LOG_FILE is empty"])
    assert cli.main(["-i", "a.config"]) == 1
    assert capsys.readouterr() == (
        "",
        "ips.py: a.config: SIM_NAME is missing\nips.py: a.config: LOG_FILE is empty\n",
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("no.config", "no.config: there is no such file"),
    ],
)
def test_simulation_that_cannot_be_run_exits_with_1(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    config: str,
    message: str,
) -> None:
    """With the real framework, which is not even made."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["--config", config]) == 1
    assert capsys.readouterr() == ("", f"ips.py: {message}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-i", ","], "argument --config/--simulation/-i/-j: expected the name of a file"),
        (["--clone", "x"], f"--clone is no option any more: {cli._RETIRED['--clone']}"),
        (
            ["-i", "a", "--sim_name=x"],
            "--sim_name is no option any more: set SIM_NAME in the simulation file",
        ),
        ([], "the following arguments are required: --config/--simulation/-i/-j"),
        (
            ["a.config"],
            "a.config: a simulation file is named with --config a.config; the commands are check "
            "and init",
        ),
        (["-i"], "argument --config/--simulation/-i/-j: expected one argument"),
        (["-i", "a", "--nope"], "unrecognized arguments: --nope"),
        (["-i", "a", "-n", "0"], "argument --nodes/-n: expected a number of 1 or more, not '0'"),
        (["-i", "a", "-o", "x"], "argument --ppn/-o: expected a number of 1 or more, not 'x'"),
        (
            ["-i", "a", "-l", "no/x"],
            f"argument --log/-l: cannot write no/x: {os.strerror(errno.ENOENT)}",
        ),
    ],
)
def test_wrong_usage_exits_with_2(
    framework: type[FakeFramework], capsys: Captured, argv: Sequence[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(f"ips.py: error: {message}\n")
    assert framework.made == ()


def test_help_has_examples_that_can_be_parsed(
    framework: type[FakeFramework], capsys: Captured
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    examples = re.findall(r"(?m)^  ips\.py (--.*?)(?:  .*)?$", text)
    assert len(examples) == 3
    for example in examples:
        assert cli.main(example.split()) == 0
    assert {"files:", "resources:", "run:"} <= set(text.splitlines())


@pytest.mark.parametrize("command", ["check", "init"])
def test_command_has_its_own_help(capsys: Captured, command: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: ips.py {command} ")


def test_commands_are_not_imported_for_a_run(framework: type[FakeFramework]) -> None:
    code = (
        "import sys, ips_core.cli\n"
        "print({'ips_core.commands.check', 'ips_core.commands.starter'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "set()\n"


def test_version_is_the_installed_one(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(cli, "ips_core_version", lambda: "1.2.3")
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == "ips.py 1.2.3\n"
