"""Tasks that are run again, and pools that stop because too many fail."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

DRIVER = """
from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from ipsframework import Component

COUNT = 'echo >> "$1"; exit $2'


def fine(number):
    return number


def deadly(path, deaths):
    if note(path) <= deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    return "at last"


def flaky(path, failures):
    count = note(path)
    if count <= failures:
        raise ValueError(f"attempt {count}")
    return "at last"


def note(path):
    with open(path, "a") as file:
        file.write("begun\\n")
    return len(Path(path).read_text().splitlines())


class Driver(Component):
    def step(self, timestamp=0.0, **keywords):
        self.cwd, self.facts = self.services.get_working_dir(), {}
        self.lost()
        self.failed()
        self.stopped("count", 100, 1, max_failures=2)
        self.stopped("share", 60, 2, max_failures=0.1)
        self.stopped("enough", 20, 4, max_failures=0.5)
        print(json.dumps(self.facts))

    def go(self, pool, **keywords):
        self.services.submit_tasks(pool, use_dask=True, dask_ppw=2, **keywords)
        values = self.services.get_finished_tasks(pool)
        records = self.services.get_task_records(pool)
        self.facts[pool] = {
            name: [str(values[name]), r.status, r.exit_status, r.attempts, r.error]
            for name, r in records.items()
        }
        self.facts[pool + " looks fine"] = [name for name, value in values.items() if value == 0]

    def add(self, pool, name, *work, **keywords):
        self.services.add_task(pool, name, 1, self.cwd, *work, **keywords)

    def lost(self):
        for pool, deaths in (("once", 1), ("always", 99), ("never", 1)):
            self.services.create_task_pool(pool)
            for number in range(1, 21 if pool == "once" else 1):
                self.add(pool, f"f{number}", fine, number)
            self.add(pool, pool, deadly, f"{self.cwd}/{pool}", deaths)
        self.go("once")
        self.go("always", retries=1)
        self.go("never", retries=0)

    def failed(self):
        self.services.create_task_pool("failed")
        self.add("failed", "flaky", flaky, f"{self.cwd}/flaky", 2)
        self.add("failed", "own", flaky, f"{self.cwd}/own", 1, isolate=True)
        self.add("failed", "hopeless", "sh", "-c", COUNT, "sh", "hopeless", 5)
        self.add("failed", "late", "sh", "-c", "echo >> late; exec sleep 300", timeout=0.5)
        self.add("failed", "single", "sh", "-c", COUNT, "sh", "single", 6, retry_failed=0)
        self.add("failed", "fine", "sh", "-c", COUNT, "sh", "fine", 0)
        self.go("failed", retry_failed=2)

    def stopped(self, pool, tasks, every, **keywords):
        self.services.create_task_pool(pool)
        for number in range(tasks):
            code = 0 if number % every else 3
            command = f"touch {pool}-$0; sleep 0.1; exit $1"
            self.add(pool, f"{pool}{number}", "sh", "-c", command, number, code)
        self.go(pool, **keywords)
"""


@pytest.fixture
def pools(simulation: Any, once: Callable[..., Any]) -> Any:
    """One driver's pools: the outcome, what it says, its work directory."""

    def run() -> Any:
        restarts = {"DASK_JOBQUEUE__SLURM_ALLOCATION__RESTARTS": "20"}
        outcome = simulation.write(DRIVER).run(**restarts)
        assert outcome.code == 0
        assert all("was killed by signal 9" in line for line in outcome.stderr.splitlines())
        facts = json.loads(outcome.stdout.splitlines()[-1])
        return outcome, facts, simulation.root / "work" / "DRIVER__Driver_1"

    return once("pools", run)


def ends(outcome: Any, name: str) -> list[tuple[int, str, bool]]:
    """Attempt, status and success of each end of a task, in the log's order."""
    found = [event for event in outcome.of_type("IPS_TASK_END") if event["task_name"] == name]
    return [(event["attempt"], event["status"], event["ok"]) for event in found]


def launches(outcome: Any, name: str) -> list[int]:
    """The attempts at a task that began."""
    events = outcome.of_type("IPS_LAUNCH_DASK_TASK")
    return [event["attempt"] for event in events if event["task_name"] == name]


def count(folder: Any, name: str) -> int:
    return len((folder / name).read_text().splitlines())


def test_a_task_that_kills_its_workers_is_given_up(pools: Any) -> None:
    outcome, facts, work = pools
    always, never = facts["always"]["always"], facts["never"]["never"]
    lost = "its worker was lost"
    assert always[1:4] == ["lost", None, 2]
    assert never[1:4] == ["lost", None, 1]
    for name, found in (("always", always), ("never", never)):
        assert found[4].startswith(lost)
        assert found[0].startswith(f"task {name} failed: {lost}")
    assert count(work, "always") == 2
    assert count(work, "never") == 1
    assert ends(outcome, "always") == [(1, "lost", False), (2, "lost", False)]
    assert ends(outcome, "never") == [(1, "lost", False)]
    assert launches(outcome, "always") == [1, 2]


def test_what_a_worker_had_runs_again_on_another(pools: Any) -> None:
    outcome, facts, work = pools
    assert facts["once"]["once"] == ["at last", "finished", 0, 2, ""]
    assert count(work, "once") == 2
    assert ends(outcome, "once") == [(1, "lost", False), (2, "finished", True)]
    for number in range(1, 21):
        assert facts["once"][f"f{number}"][:3] == [str(number), "finished", 0]


def test_failed_tasks_are_run_again_as_often_as_asked_for(pools: Any) -> None:
    outcome, facts, work = pools
    found = facts["failed"]
    assert found["flaky"] == ["at last", "finished", 0, 3, ""]
    assert found["own"] == ["at last", "finished", 0, 2, ""]
    assert found["hopeless"] == ["5", "failed", 5, 3, "exit code 5"]
    assert found["late"] == ["-1", "timed_out", -1, 3, "timed out after 0.5 s"]
    assert found["single"] == ["6", "failed", 6, 1, "exit code 6"]
    assert found["fine"] == ["0", "finished", 0, 1, ""]
    for name, (*_, attempts, _) in found.items():
        assert launches(outcome, name) == list(range(1, attempts + 1))
        assert [attempt for attempt, _, _ in ends(outcome, name)] == launches(outcome, name)
        assert count(work, name) == attempts
    assert ends(outcome, "flaky") == [
        *((1, "failed", False), (2, "failed", False), (3, "finished", True)),
    ]
    assert facts["failed looks fine"] == ["fine"]


@pytest.mark.parametrize(
    ("pool", "tasks", "most", "text"), [("count", 100, 2, "2"), ("share", 60, 6, "0.1")]
)
def test_a_pool_stops_after_too_many_failures(
    pools: Any, pool: str, tasks: int, most: int, text: str
) -> None:
    outcome, facts, work = pools
    records = facts[pool]
    assert len(records) == tasks
    statuses = Counter(status for _, status, _, _, _ in records.values())
    assert most < statuses["failed"] < tasks / 2  # some had begun when it was told
    assert statuses["not_started"] > tasks / 2
    assert sum(statuses.values()) == statuses.total() == tasks
    begun = {path.name.replace("-", "") for path in work.glob(f"{pool}-*")}
    left = {name for name, (_, status, *_) in records.items() if status == "not_started"}
    assert begun == records.keys() - left
    reason = f"stopped after {most + 1} failed tasks (max_failures = {text})"
    for name in left:
        assert records[name][2:] == [None, 0, reason]
        assert records[name][0] == f"task {name} failed: {reason}"
        assert launches(outcome, name) == ends(outcome, name) == []
    assert not left & set(facts[f"{pool} looks fine"])
    (end,) = [e for e in outcome.of_type("IPS_TASK_POOL_END") if f"= {pool} " in e["comment"]]
    assert (end["ok"], end["error"]) == (False, reason)
    assert end["counts"] == dict(statuses)


def test_a_pool_with_fewer_failures_goes_on(pools: Any) -> None:
    _, facts, _ = pools
    statuses = Counter(status for _, status, _, _, _ in facts["enough"].values())
    assert statuses == {"finished": 15, "failed": 5}
