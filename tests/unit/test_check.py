"""``ips.py check``: what would run, what is wrong; nothing is run or created."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ips_core import cli
from ips_core.commands import check, scripts
from ips_core.config import ComponentConfig, PlatformConfig, read_simulation
from ips_core.framework import machine
from ips_core.resources.allocation_end import JobEnd
from ips_core.resources.nodes import NodeCapacity, Resources

Captured = pytest.CaptureFixture[str]

CONFIG = """\
SIM_NAME = {name}
SIM_ROOT = $PWD/{name}
LOG_FILE = $SIM_ROOT/{name}.log
[PORTS]
   NAMES = DRIVER WORKER
   [[DRIVER]]
      IMPLEMENTATION = Drive
   [[WORKER]]
      IMPLEMENTATION = Work
[Drive]
   CLASS = DRIVER
   SUB_CLASS =
   NAME = Driver
   SCRIPT = $PWD/driver.py
[Work]
   CLASS = WORKERS
   SUB_CLASS = FAST
   NAME = JSONDecoder
   MODULE = json.decoder
"""
DRIVER = "raise SystemExit('executed')\nclass Driver(Component): ...\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The launch directory, with two simulations in it; no job, no platform file."""
    monkeypatch.chdir(tmp_path)
    for variable in ("SLURM_JOB_ID", "IPS_PLATFORM_FILE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    for name in ("a", "b"):
        Path(f"{name}.config").write_text(CONFIG.format(name=name))
    Path("driver.py").write_text(DRIVER)
    return tmp_path


def test_report(here: Path) -> None:
    platform = PlatformConfig("p.conf", "srun", {}, "SHARED")
    resources = Resources(2, 8, "srun", held=(NodeCapacity("n1", 8, 2), NodeCapacity("n2", 9)))
    simulation = read_simulation("a.config", platform)
    simulation.values.update(SIMULATION_MODE="RESTART", RESTART_TIME="3.000")
    assert (
        check.report(platform, resources, [simulation])
        == f"""\
platform file    p.conf
tasks start by   srun
allocation mode  SHARED
nodes            2, for 8 process(es) each
   n1: 8 core(s), 2 GPU(s)
   n2: 9 core(s), 0 GPU(s)

simulation a
   file          {here}/a.config
   SIM_ROOT      {here}/a
   LOG_FILE      {here}/a/a.log, from WARNING up
   mode          RESTART at 3.000
   port DRIVER: [Drive]
      class           Driver of {here}/driver.py
      work directory  {here}/a/work/DRIVER__Driver_1
      INPUT_DIR       {here}
   port WORKER: [Work]
      class           JSONDecoder of module json.decoder
      work directory  {here}/a/work/WORKERS_FAST_JSONDecoder_2
      INPUT_DIR       {here}
"""
    )


def test_several_simulations_are_checked_together(here: Path, capsys: Captured) -> None:
    before = sorted(here.iterdir())
    assert cli.main(["check", "a.config,b.config", "--nodes=2", "--ppn", "3"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "nodes            2, for 3 process(es) each\n" in out
    assert f"work directory  {here}/b/work/WORKERS_FAST_JSONDecoder_4\n" in out
    assert out.endswith("\nNothing speaks against running it.\n")
    assert sorted(here.iterdir()) == before


def test_each_port_of_a_section_has_a_component_of_its_own(here: Path, capsys: Captured) -> None:
    text = CONFIG.format(name="a").replace("DRIVER WORKER", "TWIN DRIVER WORKER")
    Path("a.config").write_text(
        text.replace("[[WORKER]]", "[[TWIN]]\n      IMPLEMENTATION = Work\n   [[WORKER]]")
    )
    assert cli.main(["check", "a.config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith(("   port", "      work"))] == [
        "   port TWIN: [Work]",
        f"      work directory  {here}/a/work/WORKERS_FAST_JSONDecoder_1",
        "   port DRIVER: [Drive]",
        f"      work directory  {here}/a/work/DRIVER__Driver_2",
        "   port WORKER: [Work]",
        f"      work directory  {here}/a/work/WORKERS_FAST_JSONDecoder_3",
    ]


def test_simulation_file_counts_for_the_machine(capsys: Captured) -> None:
    own = "MPIRUN = eval\nNODES = 5\nOUT_REDIRECT = yes\nPORTAL_URL = http://x\n"
    Path("a.config").write_text(own + CONFIG.format(name="a"))
    assert cli.main(["check", "a.config"]) == 0
    out, _ = capsys.readouterr()
    for line in (
        "nodes            5, for",
        "OUT_REDIRECT  ",
        "portal        http://x",
        "MPIRUN = eval",
    ):
        assert line in out


def test_nodes_of_a_job_are_not_known_outside_of_it(capsys: Captured) -> None:
    Path("p.conf").write_text("MPIRUN = srun\n")
    assert cli.main(["check", "--platform=p.conf", "a.config"]) == 0
    assert "those of a Slurm job: run this inside salloc or sbatch" in capsys.readouterr().out


def test_nodes_of_a_job_are_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setattr(machine, "read_allocation", lambda: ((NodeCapacity("n7", 4, 1),), JobEnd()))
    assert cli.main(["check", "a.config"]) == 0
    assert "tasks start by   srun\n" in (out := capsys.readouterr().out)
    assert "   n7: 4 core(s), 1 GPU(s)\n" in out


def test_everything_that_would_not_run_is_said(here: Path, capsys: Captured) -> None:
    text = CONFIG.format(name="a").replace("SIM_ROOT = $PWD/a", "SIM_ROOT = $PWD/driver.py/x")
    text = text.replace("NAME = Driver", "NAME = Other\n   INPUT_FILES = no.txt *.py b.config")
    Path("a.config").write_text(text.replace("json.decoder", "json.nope"))
    assert cli.main(["check", "a.config"]) == 1
    out, err = capsys.readouterr()
    driver = here / "driver.py"
    assert err.splitlines() == [
        f"ips.py: a.config: {problem}"
        for problem in (
            f"SIM_ROOT: {driver} is no directory",
            f"LOG_FILE: {driver} is no directory",
            f"[Drive] {driver}: there is no class Other, which is the component's NAME",
            f"[Drive] INPUT_FILES: no such file: {here}/no.txt",
            "[Work] MODULE = json.nope: Python finds no such module",
        )
    ]
    assert out.endswith("\n5 problem(s) found.\n")


def test_folder_that_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    monkeypatch.setattr(check.os, "access", lambda *_: False)
    assert check._blocked(here / "new" / "deep") == f"{here} is not writable"


def test_files_that_cannot_be_read_are_said_as_in_a_run(capsys: Captured) -> None:
    assert cli.main(["check", "no.config", "nor.config"]) == 1
    assert capsys.readouterr() == (
        "",
        "ips.py: no.config: there is no such file\nips.py: nor.config: there is no such file\n",
    )


# Scripts.

MISSING = "there is no class C, which is the component's NAME"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("class C(Component): ...", ""),
        ("import other\nclass C(other.Base): ...", ""),
        ("from other import C", ""),
        ("from other import D as C", ""),
        ("from other import *", ""),
        ("C = make()", ""),
        ("a, C = make()", ""),
        ("C: type = make()", ""),
        ("try:\n    from x import C\nexcept ImportError:\n    class C(Base): ...", ""),
        ("if x:\n    pass\nelse:\n    class C(Base): ...", ""),
        ("try:\n    pass\nexcept OSError:\n    class C(Base): ...", ""),
        ("with x:\n    C = 1", ""),
        ("def __getattr__(name): ...", ""),
        ("@component\nclass C: ...", ""),
        ("class C: ...\nclass C(Component): ...", ""),
        ("class C: ...", "the class C is not derived from Component"),
        ("class C(Component): ...\nclass C: ...", "the class C is not derived from Component"),
        ("", MISSING),
        ("class D(Component):\n    class C(Component): ...", MISSING),
        ("def f():\n    C = 1", MISSING),
        ("import C.x as D", MISSING),
        ("print(C)", MISSING),
    ],
)
def test_class_of_a_script(here: Path, text: str, problem: str) -> None:
    Path("c.py").write_text(text)
    component: Any = SimpleNamespace(script=str(here / "c.py"), name="C", section="S", module="")
    expected = problem and f"[S] {here}/c.py: {problem}"
    assert scripts.class_problem(component) == expected


@pytest.mark.parametrize(
    ("content", "where"),
    [(b"class C(:\n", ", line 1: "), (b"x = 1\n'\xff'\n", ", line "), (b"\0", "")],
    ids=["syntax", "no text", "null"],
)
def test_script_that_is_no_python(here: Path, content: bytes, where: str) -> None:
    Path("c.py").write_bytes(content)
    component = ComponentConfig("S", "", "", "C", str(here / "c.py"), "", {})
    found = scripts.class_problem(component)
    assert found.startswith(f"[S] {here / 'c.py'}{where}")
    assert "there is no class" not in found


@pytest.mark.parametrize(
    ("module", "name", "problem"),
    [
        ("json.decoder", "JSONDecodeError", ""),
        ("math", "anything", ""),
        ("package.inner", "C", ""),
        ("package", "D", "[S] {here}/package/__init__.py: there is no class D, which is the"),
        ("package.nope", "C", "[S] MODULE = package.nope: Python finds no such module"),
        ("package.inner.deep", "C", "[S] MODULE = package.inner.deep: Python finds no such"),
        ("nope.inner", "C", "[S] MODULE = nope.inner: Python finds no such module"),
    ],
)
def test_class_of_a_module_is_found_without_importing_it(
    here: Path, module: str, name: str, problem: str
) -> None:
    Path("package").mkdir()
    Path("package/__init__.py").write_text("raise SystemExit('imported')\n")
    Path("package/inner.py").write_text("class C(Base): ...\n")
    found = scripts.class_problem(ComponentConfig("S", "", "", name, "", module, {}))
    assert found.startswith(problem.format(here=here))
    assert bool(found) == bool(problem)
