"""A component that fails: its caller hears who and why, and so do the screen, log and LOG_FILE."""

from __future__ import annotations

from typing import Any

import pytest

#: How a component may fail, and what its caller then hears.
WAYS = {
    'raise ValueError("no such plasma")': "ValueError: no such plasma",
    'sys.exit("enough")': "it called sys.exit('enough')",
    "sys.exit()": "it called sys.exit()",
    "os._exit(3)": "its process ended with exit code 3",
    "os.kill(os.getpid(), signal.SIGKILL)": "its process was killed by signal 9 (SIGKILL)",
}
#: Those that do not leave the component the time to write why.
SUDDEN = ("os.", "subprocess.")


def assert_failed(outcome: Any, sentence: str, *, more: str) -> None:
    """The simulation failed with this sentence, and LOG_FILE is named if it has more to say."""
    assert outcome.code == 1
    assert outcome.stderr.splitlines() == [
        f"ips.py: {sentence}",
        *([f"ips.py: more in {more}"] if outcome.log else []),
    ]
    end = outcome.events[-1]
    assert end["eventtype"] == "IPS_END"
    assert end["ok"] is False
    assert end["comment"] == "Simulation Execution Error"
    assert end["error"] == sentence


@pytest.mark.parametrize("statement", WAYS)
def test_driver_that_fails(simulation: Any, statement: str) -> None:
    outcome = simulation.write(statement).run()
    sentence = f"component DRIVER__Driver_1 failed in step: {WAYS[statement]}"
    assert_failed(outcome, sentence, more=simulation.root / "sim.log")
    assert ("Traceback (most recent call last)" in outcome.log) != statement.startswith(SUDDEN)
    assert [event["ok"] for event in outcome.of_type("IPS_CALL_END")] == [True, False]


def test_driver_that_does_not_catch_what_its_worker_raised(simulation: Any) -> None:
    outcome = simulation.write(
        driver='services.call(services.get_port("WORKER"), "step", 0.0)',
        worker='raise ValueError("no such plasma")',
    ).run()
    sentence = "component WORKERS__Worker_2 failed in step: ValueError: no such plasma"
    assert_failed(
        outcome,
        f"component DRIVER__Driver_1 failed in step: {sentence}",
        more=simulation.root / "sim.log",
    )
    assert 'raise ValueError("no such plasma")\nValueError: no such plasma\n' in outcome.log


def test_component_that_closes_all_files_is_named_without_a_traceback(simulation: Any) -> None:
    outcome = simulation.write(
        driver="""
        try:
            services.call(services.get_port("WORKER"), "step", 0.0)
        except Exception as error:
            print("heard", error)
        """,
        worker="os.closerange(3, 64)",
    ).run()
    sentence = "its process closed the pipe to the framework"
    assert f"heard component WORKERS__Worker_2 failed in step: {sentence}\n" in outcome.stdout
    assert (outcome.code, outcome.stderr) == (0, "")


@pytest.mark.parametrize("statement", WAYS)
def test_caller_hears_who_failed_and_may_go_on(simulation: Any, statement: str) -> None:
    outcome = simulation.write(
        driver="""
        worker = services.get_port("WORKER")
        for attempt in range(2):
            try:
                services.call(worker, "step", 0.0)
            except Exception as error:
                print(error)
        """,
        worker=statement,
    ).run()
    assert outcome.stderr == ""
    assert outcome.code == 0
    first, second = outcome.stdout.splitlines()[1:]
    failed = "component WORKERS__Worker_2 failed in step: "
    assert first == failed + WAYS[statement]
    dead = "it is no longer running"
    assert second == failed + (dead if statement.startswith(SUDDEN) else WAYS[statement])
    ends = [event for event in outcome.of_type("IPS_CALL_END") if event["code"] != "Framework"]
    assert [event["ok"] for event in ends] == [False, False]
    assert outcome.events[-1]["ok"] is True


@pytest.mark.parametrize("statement", [*WAYS, "1 / 0"])
def test_constructor_that_fails(simulation: Any, statement: str) -> None:
    outcome = simulation.write(
        driver='print("never")',
        worker=f"""
        import os, signal, sys

        from ipsframework import Component

        class Worker(Component):
            def __init__(self, services, config):
                super().__init__(services, config)
                {statement}
        """,
    ).run()
    why = WAYS.get(statement, "ZeroDivisionError: division by zero")
    sentence = f"component WORKERS__Worker_2 failed in constructor: {why}"
    assert_failed(outcome, sentence, more=simulation.root / "sim.log")
    assert "never" not in outcome.stdout


def test_method_that_is_not_there(simulation: Any) -> None:
    outcome = simulation.write(
        driver='services.call(services.get_port("WORKER"), "stpe")', worker="pass"
    ).run()
    sentence = (
        "component WORKERS__Worker_2 failed in stpe: AttributeError: Worker has no method stpe"
    )
    assert_failed(
        outcome,
        f"component DRIVER__Driver_1 failed in step: {sentence}",
        more=simulation.root / "sim.log",
    )


def test_what_a_component_needs_before_its_constructor_is_told(simulation: Any) -> None:
    simulation.write(
        """
        log = services.get_config_param("LOG_FILE")
        os.rename(log, f"{log}.before")
        os.mkdir(log)
        with open("inner.config", "w") as file:
            file.write("[PORTS]\\nNAMES = DRIVER\\n[[DRIVER]]\\nIMPLEMENTATION = Inner\\n")
            file.write("[Inner]\\nCLASS = I\\nNAME = Driver\\nSCRIPT = $PWD/driver.py\\n")
        try:
            services.create_sub_workflow("inner", "inner.config")
        except Exception as error:
            print("told:", error)
        os.rmdir(log)
        os.rename(f"{log}.before", log)
        """
    )
    outcome = simulation.run()
    (told,) = [line for line in outcome.stdout.splitlines() if line.startswith("told: ")]
    assert told.startswith("told: component I__Driver_2 failed in constructor: IsADirectoryError: ")
    assert outcome.stderr == ""


def test_components_that_wait_for_each_other_are_told(simulation: Any) -> None:
    simulation.write(
        """
        worker = services.get_port("WORKER")
        try:
            services.call(worker, "step", 0.0)
        except Exception as error:
            print("told:", error)
        own = services.call_nonblocking(self.component_id, "finalize")
        try:
            services.wait_call(own)
        except Exception as error:
            print("told:", error)
        """,
        'services.call(services.get_port("DRIVER"), "init")',
    )
    outcome = simulation.run()
    assert outcome.code == 0
    circle, own = [line for line in outcome.stdout.splitlines() if line.startswith("told: ")]
    end = ": that cannot begin before this wait ends"
    # whoever begins to wait last is told
    assert circle in (
        "told: component WORKERS__Worker_2 failed in step: WORKERS__Worker_2 waits for init of "
        f"DRIVER__Driver_1, which waits for step of WORKERS__Worker_2{end}",
        "told: DRIVER__Driver_1 waits for step of WORKERS__Worker_2, which waits for init of "
        f"DRIVER__Driver_1{end}",
    )
    assert own == f"told: DRIVER__Driver_1 waits for finalize of DRIVER__Driver_1{end}"


@pytest.mark.parametrize("end", ["os._exit(3)", "pass"])
def test_what_a_component_started_ends_with_it(simulation: Any, end: str) -> None:
    """That nothing is left is what every test here is checked for."""
    outcome = simulation.write(f'subprocess.Popen(["sleep", "300"])\n{end}').run()
    assert outcome.code == (1 if "exit" in end else 0)


def test_death_is_noticed_while_a_forked_child_lives(simulation: Any) -> None:
    outcome = simulation.write("time.sleep(300) if os.fork() == 0 else os._exit(3)").run()
    assert_failed(
        outcome,
        "component DRIVER__Driver_1 failed in step: its process ended with exit code 3",
        more=simulation.root / "sim.log",
    )
