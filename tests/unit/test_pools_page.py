"""The tables of docs/pools.md name what the code has."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

from ips_core.tasks.record import TaskRecord
from ips_core.tasks.task import Task

PAGE = (Path(__file__).parents[2] / "docs" / "pools.md").read_text(encoding="utf-8")


def first_column(heading: str) -> set[str]:
    """The names in the first column of the table with this first line."""
    table = PAGE.split(f"\n{heading}\n", 1)[1].split("\n\n", 1)[0]
    rows = [line.split("|")[1] for line in table.splitlines()[1:]]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_fields_of_a_record() -> None:
    fields = {field.name for field in dataclasses.fields(TaskRecord)}
    assert first_column("| field of a `TaskRecord` | meaning |") == (
        fields - {"is_program"} | {"ok", "result"}
    )


def test_statuses() -> None:
    docstring = inspect.getdoc(TaskRecord) or ""
    described = docstring.split("status : str", 1)[1].split("exit_status :", 1)[0]
    known = set(re.findall(r"``(\w+)``", described))
    assert "finished" in known
    assert first_column("| status | meaning |") == known


def test_keywords_of_a_task() -> None:
    positional = {"name", "nproc", "working_dir"}
    made = {"argv", "function", "args", "kwargs", "program", "missing", "launcher"}
    known = {field.name for field in dataclasses.fields(Task)} - positional - made
    of_launchers = {"task_ppn", "task_cpp", "launch_cmd_extra_args"}
    assert first_column("| keyword | meaning |") == known | of_launchers
