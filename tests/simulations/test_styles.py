"""The styles that existing components are written in: example simulations on one machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ips_simulations.comparison import RUNS, Run, check_traces, expected, seen

_BY_NAME = {run.name: run for run in RUNS}


@pytest.fixture
def run_of(simulation: Any, once: Callable[..., Any]) -> Callable[[str], Any]:
    """``run_of(name)``: the outcome of a run and its folder; it is made once."""

    def make(run: Run, folder: Path) -> Any:
        simulation.folder = folder
        config = run.prepare(folder, "workstation.conf")
        simulation.name = run.name
        return simulation.run("--platform", "platform.conf", config=config), folder

    def answer(name: str) -> Any:
        folder = simulation.folder
        if name == "again":  # it restarts from what the first has left
            _, folder = answer("discharge")
        return once(name, lambda: make(_BY_NAME[name], folder))

    return answer


@pytest.mark.parametrize("name", _BY_NAME)
def test_a_run_leaves_what_is_expected(run_of: Any, name: str) -> None:
    outcome, folder = run_of(name)
    assert (outcome.code, outcome.stderr) == (0, "")
    wanted = expected(_BY_NAME[name])
    found = seen(_BY_NAME[name], folder, outcome.stdout, outcome.events)
    for section in wanted:
        assert found[section] == wanted[section]
    check_traces(outcome.events)


def test_time_loop_with_state_and_a_restart(run_of: Any) -> None:
    outcome, folder = run_of("again")
    start = outcome.events[0]
    assert (start["tokamak"], start["shotno"], start["sim_runid"]) == ("SPHERE", "1042", "ramp_7")
    assert start["rcomment"] == "a ramp of one shot"
    work = folder / "again" / "work"
    log = (work / "epa_solovev_Solovev_3" / "solve.log").read_text()
    assert log == "process 0 of 1 on here\n"
    assert (work / "tr_zero_d_ZeroD_4" / "profile.txt").read_text().splitlines() == [
        "t = 0.25  energy = 1.2500",
        "t = 0.50  energy = 2.1250",
        "t = 0.75  energy = 2.5625",
        "t = 1.00  energy = 2.7812",
        "t = 1.25  energy = 2.8906",
    ]


def test_several_pools_a_step_and_output_that_is_redirected(run_of: Any) -> None:
    _, folder = run_of("ensemble")
    codes = f"exit_status = {[(f'task_{member}', 0) for member in 'abcd']}"
    assert (folder / "ensemble_components.out").read_text().splitlines() == [
        codes,
        "iteration 1 residual 3.0",
        codes,
        "iteration 2 residual 3.0",
    ]
    run = folder / "ensemble" / "work" / "WORKERS__ensemble_worker_2" / "run_c"
    assert (run / "prepare.log").read_text() == "member c\n"
    assert (run / "read.log").read_text() == "2\n"


def test_errors_of_old_scripts_are_logged_with_their_tracebacks(run_of: Any) -> None:
    outcome, _ = run_of("retry")
    assert "ERROR    Error in step of code, dt = 0.500000" in outcome.log
    assert "Exception: stiff returned 3: step 0.5 is too long" in outcome.log
    failed = [event for event in outcome.of_type("IPS_CALL_END") if not event["ok"]]
    assert [event["code"] for event in failed] == ["DRIVER__retryDriver_1"]
    assert "dt=0.500" in failed[0]["comment"]
