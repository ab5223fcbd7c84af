"""Dask's dashboard of a simulation's cluster: off unless asked for, and then there."""

from __future__ import annotations

import re
import urllib.request
from typing import Any
from urllib.parse import urljoin

STEPS = """
services.create_task_pool("pool")
services.add_task("pool", "a long task", 1, cwd, "sh", "-c", "{command}")
services.submit_tasks("pool", use_dask=True)
print(services.get_finished_tasks("pool"))
"""
WAIT = "while ! test -e looked; do sleep 0.1; done"


def page(link: str) -> str:
    with urllib.request.urlopen(link, timeout=30) as answer:
        return str(answer.read(), "utf-8")


def test_dashboard_is_there_when_asked_for(simulation: Any, wait_until: Any) -> None:
    simulation.write(STEPS.format(command=WAIT))
    running = simulation.edit("LOG_LEVEL = INFO", "DASK_DASHBOARD = True").start()
    said = wait_until(lambda: running.stdout[1:], 60, "the link")[0]
    link = said.removeprefix("Dask's dashboard: ").strip()
    assert "Dask" in page(link)
    wait_until(lambda: running.launched(1), 60, "the start of the task")
    workers = urljoin(link, "info/main/workers.html")
    (worker,) = set(re.findall(r'href="(\.\./worker/[^"]+)"', page(workers)))
    assert ">a long task-" in page(urljoin(workers, worker))
    (simulation.root / "work" / "DRIVER__Driver_1" / "looked").touch()
    outcome = running.finish()
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.splitlines()[2:] == ["{'a long task': 0}"]


def test_there_is_none_otherwise(simulation: Any) -> None:
    outcome = simulation.write(STEPS.format(command="true")).run()
    assert outcome.stdout.splitlines()[1:] == ["{'a long task': 0}"]


def test_what_is_neither_true_nor_false_is_told(simulation: Any) -> None:
    simulation.write(STEPS.format(command="true"))
    outcome = simulation.edit("LOG_LEVEL = INFO", "DASK_DASHBOARD = perhaps").run()
    assert outcome.code == 1
    assert "DASK_DASHBOARD = perhaps: expected True or False" in outcome.stderr
