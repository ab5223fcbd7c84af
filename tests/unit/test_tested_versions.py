"""The page of tested versions follows from its data; the tools that make both."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"

OLD = {
    "name": "trixie",
    "part": "all",
    "date": "2026-11-30",
    "versions": {"Slurm": "24.11.5", "Python": "3.13.5", "dask": "1", "distributed": "1"},
    "folders": {"tests/slurm": {"passed": 3, "failed": 0, "skipped": 0, "seconds": 7}},
}
NEW = {
    "name": "sid",
    "part": "all",
    "date": "2026-12-01",
    "versions": {
        "Slurm": "26.05.5",
        "Python": "3.14.7",
        "dask": "2",
        "distributed": "2",
        "podman": "5.8.1",
        "crun": "1.20",
    },
    "folders": {
        "tests/slurm": {"passed": 3, "failed": 1, "skipped": 2, "seconds": 70},
        "tests/simulations": {"passed": 5, "failed": 0, "skipped": 0, "seconds": 9},
    },
}

REPORT = """\
<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests"><testsuite name="pytest" \
errors="1" failures="1" skipped="1" tests="4" time="12.345"><testcase classname="tests.a" \
name="good" time="1"/><testcase classname="tests.a" name="bad"><failure message="m">f</failure>\
</testcase><testcase classname="tests.a" name="worse"><error message="m">f</error></testcase>\
<testcase classname="tests.a" name="left_out"><skipped message="m"/></testcase></testsuite>\
</testsuites>
"""


@pytest.fixture(scope="module")
def page_tool() -> dict[str, Any]:
    return runpy.run_path(str(TOOLS / "tested-versions"))


@pytest.fixture(scope="module")
def run_tool() -> dict[str, Any]:
    return runpy.run_path(str(TOOLS / "test-slurms"))


def test_page_follows_from_the_data_file() -> None:
    done = subprocess.run([sys.executable, TOOLS / "tested-versions", "--check"], timeout=60)
    assert done.returncode == 0, "run tools/tested-versions"


def test_table_has_a_row_for_each_record(page_tool: dict[str, Any]) -> None:
    assert page_tool["markdown"](page_tool["rows"]([OLD, NEW])) == (
        "| Slurm   | Python | dask | distributed | container tools         | tests/slurm       "
        "                  | tests/simulations | date       |\n"
        "| ------- | ------ | ---- | ----------- | ----------------------- | ------------------"
        "----------------- | ----------------- | ---------- |\n"
        "| 24.11.5 | 3.13.5 | 1    | 1           |                         | 3 passed, 7 s     "
        "                  |                   | 2026-11-30 |\n"
        "| 26.05.5 | 3.14.7 | 2    | 2           | podman 5.8.1, crun 1.20 | 3 passed, 1 failed"
        ", 2 skipped, 70 s | 5 passed, 9 s     | 2026-12-01 |\n"
    )


def test_newer_record_replaces_the_one_of_the_same_name(page_tool: dict[str, Any]) -> None:
    again = {**OLD, "versions": {**OLD["versions"], "dask": "3"}}
    assert page_tool["merge"]([NEW, OLD], [again]) == [again, NEW]


def test_report_is_read_with_the_names_of_what_failed(
    tmp_path: Path, run_tool: dict[str, Any]
) -> None:
    report = tmp_path / "slurm.xml"
    report.write_text(REPORT)
    assert run_tool["read_report"](report, 1) == {
        "passed": 1,
        "failed": 2,
        "skipped": 1,
        "seconds": 12,
        "failures": ["tests.a::bad", "tests.a::worse"],
    }


def test_run_without_a_report_or_a_failing_test_is_no_success(
    tmp_path: Path, run_tool: dict[str, Any]
) -> None:
    report = tmp_path / "slurm.xml"
    crashed = run_tool["read_report"](report, -9)
    report.write_text('<testsuites><testsuite tests="0" skipped="0" time="0"/></testsuites>')
    interrupted = run_tool["read_report"](report, 2)
    empty = run_tool["read_report"](report, 0)
    for folder in (crashed, interrupted, empty):
        assert not run_tool["is_green"]({"folders": {"tests/slurm": folder}})
