"""docs/examples/dask, run as its documentation says: output, files, and every event of its log."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "dask"
FRAMEWORK, DRIVER, WORKER = "Framework", "DRIVER__Driver_1", "WORKERS__DaskWorker_2"
TASKS = ("binary", "function", "method")
TRACED = ("IPS_CALL_END", "IPS_TASK_END", "IPS_END")
DRIVER_STEP = "Target = dask_sim@Driver@1:step(0)"
WORKER_STEP = "Target = dask_sim@DaskWorker@2:step(0.000)"


@pytest.fixture
def example(simulation: Any, once: Callable[..., Any]) -> Any:
    """The run that all tests here look at, and its folder."""

    def run() -> Any:
        arguments = ("--platform", "platform.conf")
        return simulation.copy(EXAMPLE).run(*arguments), simulation.root

    return once("example", run)


def test_output(example: Any) -> None:
    outcome, _ = example
    assert outcome.stderr == ""
    assert outcome.code == 0
    lines = outcome.stdout.splitlines()
    assert lines[0].startswith("Starting IPS ")
    assert lines[1] == "ret_val = 3"
    assert sorted(lines[2:5]) == ["myfun(0.5)", "mymethod(0.5)", "sh 0.5"]
    assert lines[5:] == ["exit_status = {'binary': 0, 'function': 0, 'method': 0}"]
    (line,) = outcome.log.splitlines()
    assert "INFO     pool pool: 3 tasks, 3 finished; 0.5" in line


def test_files(example: Any) -> None:
    _, root = example
    found = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    (log,) = (name for name in found if name.endswith(".json"))
    beside = {log.replace(".json", suffix) for suffix in (".eventlog", ".html")}
    assert beside <= set(found)
    assert [name for name in found if name not in beside | {log}] == [
        "dask_sim.config",
        "dask_sim.log",
        "platform.conf",
        "simulation_log",
        "simulation_log/WORKERS__DaskWorker_2.tasks",
        "simulation_results",
        "simulation_setup",
        "simulation_setup/dask_driver.py",
        "simulation_setup/dask_worker.py",
        "work",
        "work/DRIVER__Driver_1",
        "work/WORKERS__DaskWorker_2",
    ]


def test_order_of_events(example: Any) -> None:
    outcome, _ = example
    seen = [(event["code"], event["eventtype"], event["comment"]) for event in outcome.events]
    before, tasks, after = seen[:8], seen[8:14], seen[14:]

    assert before[:7] == [
        (FRAMEWORK, "IPS_START", "Starting IPS Simulation"),
        (FRAMEWORK, "IPS_RESOURCE_ALLOC", "Nodes = 1   PPN = 1"),
        (FRAMEWORK, "IPS_CALL_BEGIN", "Target = dask_sim@Driver@1:init(0)"),
        (FRAMEWORK, "IPS_CALL_END", "Target = dask_sim@Driver@1:init(0)"),
        (FRAMEWORK, "IPS_CALL_BEGIN", DRIVER_STEP),
        (DRIVER, "IPS_CALL_BEGIN", WORKER_STEP),
        (WORKER, "IPS_TASK_POOL_BEGIN", "task_pool = pool "),
    ]
    assert before[7][:2] == (WORKER, "IPS_LAUNCH_TASK")
    assert before[7][2].startswith("task_id = 1 , Tag = None , nproc = 1 , Target = ")

    assert {code for code, _, _ in tasks} == {WORKER}
    for name in TASKS:
        own = [what for _, what, comment in tasks if comment.startswith(f"task_name = {name},")]
        assert own == ["IPS_LAUNCH_DASK_TASK", "IPS_TASK_END"]

    assert after[0][:2] == (WORKER, "IPS_TASK_POOL_END")
    assert re.fullmatch(r"task_pool = pool  elapsed time = \d+\.\d\d S", after[0][2])
    assert after[1:5] == [
        (DRIVER, "IPS_CALL_END", WORKER_STEP),
        (FRAMEWORK, "IPS_CALL_END", DRIVER_STEP),
        (FRAMEWORK, "IPS_CALL_BEGIN", "Target = dask_sim@Driver@1:finalize(0)"),
        (FRAMEWORK, "IPS_CALL_END", "Target = dask_sim@Driver@1:finalize(0)"),
    ]
    assert after[5][:2] == (WORKER, "IPS_TASK_END")
    assert re.fullmatch(r"task_id = 1  elapsed time = \d+\.\d\d S", after[5][2])
    assert after[6:] == [(FRAMEWORK, "IPS_END", "Simulation Ended")]


def test_fields_of_every_event(example: Any) -> None:
    outcome, root = example
    (log,) = (root / "simulation_log").glob("*.json")
    assert re.fullmatch(r"dask_sim_\S+_\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}", log.stem)
    for number, event in enumerate(outcome.events):
        assert event["seqnum"] == number
        assert event["ok"] is True
        assert event["sim_name"] == "dask_sim"
        assert event["portal_runid"] == log.stem
        assert event["phystimestamp"] == -1
        assert re.fullmatch(r"\d+\.\d\d", event["walltime"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\d\|\d\d:\d\d:\d\d\S+", event["time"])
        assert ("trace" in event) == (event["eventtype"] in TRACED)
        states = {"IPS_START": "Running", "IPS_END": "Completed"}
        default = None if event["code"] == FRAMEWORK else "Running"
        assert event.get("state") == states.get(event["eventtype"], default)


def test_fields_of_start_and_end(example: Any) -> None:
    outcome, _ = example
    start, end = outcome.events[0], outcome.events[-1]
    for key in ("host", "user", "ips_version", "startat"):
        assert isinstance(start[key], str)
        assert start[key]
    assert start["simname"] == "dask_sim"
    assert start["rcomment"] == "SWIM simulation run"
    assert start["parent_portal_runid"] is None
    assert end["trace"]["localEndpoint"]["serviceName"] == "dask_sim@FRAMEWORK@Framework@0"
    assert end["trace"]["tags"] == {"total_cores": "1"}


def test_spans_are_nested(example: Any) -> None:
    outcome, _ = example
    spans = [event["trace"] for event in outcome.events if "trace" in event]
    trace_id = hashlib.md5(outcome.events[0]["portal_runid"].encode()).hexdigest()
    for span in spans:
        assert span["traceId"] == trace_id
        assert re.fullmatch(r"[0-9a-f]{16}", span["id"])
        assert isinstance(span["timestamp"], int)
        assert isinstance(span["duration"], int)
    assert len({span["id"] for span in spans}) == len(spans)
    by_comment = {event["comment"]: event.get("trace") for event in outcome.events}
    root, driver, worker = (
        outcome.events[-1]["trace"],
        by_comment[DRIVER_STEP],
        by_comment[WORKER_STEP],
    )
    assert "parentId" not in root
    assert driver["parentId"] == root["id"]
    assert worker["parentId"] == driver["id"]
    ends = [e for e in outcome.of_type("IPS_TASK_END") if e["task_name"] in TASKS]
    assert {event["trace"]["parentId"] for event in ends} == {worker["id"]}


def test_fields_of_tasks(example: Any) -> None:
    outcome, _ = example
    launched = {e["task_name"]: e for e in outcome.of_type("IPS_LAUNCH_DASK_TASK")}
    ended = {e["task_name"]: e for e in outcome.of_type("IPS_TASK_END")}
    assert set(launched) == set(TASKS)
    assert set(ended) == {*TASKS, "dask-worker"}
    for name in TASKS:
        begin, end = launched[name], ended[name]
        for key in ("start_time", "host", "worker"):
            assert begin[key] == end[key]
        assert isinstance(end["start_time"], float)
        assert end["host"]
        assert end["worker"]
        assert end["exit_status"] == 0
        assert 0.5 <= end["elapsed_time"] < 5
        assert end["comment"] == f"task_name = {name}, elapsed time = {end['elapsed_time']:.2f}s"
    assert launched["function"]["comment"] == "task_name = function, Target = myfun(0.5)"
    assert launched["method"]["comment"] == "task_name = method, Target = mymethod(0.5)"
    assert launched["binary"]["comment"].endswith(' -c echo "sh $1"; sleep $1 sh 0.5')
    (step,) = outcome.of_type("IPS_LAUNCH_TASK")
    assert step["task_name"] == "dask-worker"
    assert ended["dask-worker"]["exit_status"] == 0
    assert ended["dask-worker"]["start_time"] == step["start_time"] < ended["binary"]["start_time"]
