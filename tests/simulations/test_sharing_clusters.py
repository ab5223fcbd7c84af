"""Clusters outlive pools and components, and go when nobody needs them."""

from __future__ import annotations

from typing import Any

HELPERS = """
import os
import signal
import time
from pathlib import Path

from ips_core import read_log
from ipsframework import Component


def until(what):
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline, "not within 30 s"
        time.sleep(0.02)


class Base(Component):
    def pool(self, *command, block=True, **keywords):
        name = f"pool of {' '.join(command)} {time.time()}"
        self.services.create_task_pool(name)
        self.services.add_task(name, "t", 1, os.getcwd(), *command)
        self.services.submit_tasks(name, use_dask=True, **keywords)
        return self.services.get_finished_tasks(name) if block else name

    def closed(self):
        events = read_log("../../simulation_log")
        return [e for e in events if e["eventtype"] == "IPS_TASK_END" and "host" not in e]

"""


def component(name: str, statements: str) -> str:
    lines = "".join(f"        {line}\n" for line in statements.strip().splitlines())
    return (
        f"{HELPERS}\nclass {name}(Base):\n"
        f"    def step(self, timestamp=0.0, **keywords):\n        services = self.services\n{lines}"
    )


def clusters(outcome: Any) -> list[str]:
    """Starts and ends of clusters, in the log's order."""
    events = outcome.of_type("IPS_LAUNCH_TASK", "IPS_TASK_END")
    return [e["eventtype"] for e in events if e.get("task_name") == "dask-worker"]


START, END = "IPS_LAUNCH_TASK", "IPS_TASK_END"


def test_components_share_a_cluster_one_after_the_other(simulation: Any) -> None:
    outcome = simulation.write(
        driver=component(
            "Driver",
            """
print(self.pool("true"))
services.call(services.get_port("WORKER"), "step", 0.0)
print(self.pool("false"))
""",
        ),
        worker=component("Worker", "print(self.pool('sh', '-c', 'exit 3'))"),
    ).run()
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.splitlines()[1:] == ["{'t': 0}", "{'t': 3}", "{'t': 1}"]
    assert clusters(outcome) == [START, END]
    (start,) = outcome.of_type(START)
    assert start["code"] == "DRIVER__Driver_1"


def test_an_idle_cluster_is_closed_in_time_and_a_busy_one_is_not(simulation: Any) -> None:
    simulation.write(
        component(
            "Driver",
            """
print(self.pool("sleep", "3"), len(self.closed()))
until(self.closed)
print(self.pool("false"))
""",
        )
    ).edit("LOG_LEVEL = INFO", "LOG_LEVEL = INFO\nDASK_IDLE_TIMEOUT = 1.5")
    outcome = simulation.run()
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.splitlines()[1:] == ["{'t': 0} 0", "{'t': 1}"]
    assert clusters(outcome) == [START, END, START, END]
    assert all(event["ok"] for event in outcome.of_type(END) if "host" not in event)


def test_an_idle_timeout_that_makes_no_sense(simulation: Any) -> None:
    simulation.write("pass").edit("LOG_LEVEL = INFO", "DASK_IDLE_TIMEOUT = soon")
    outcome = simulation.run()
    assert outcome.code == 1
    assert outcome.stderr.splitlines()[0].endswith(
        "sim.config: DASK_IDLE_TIMEOUT = soon: expected a number of seconds"
    )


def test_what_a_killed_component_left_on_the_workers_is_gone(simulation: Any) -> None:
    outcome = simulation.write(
        driver=component(
            "Driver",
            """
try:
    services.call(services.get_port("WORKER"), "step", 0.0)
except Exception as error:
    print(error)
print(self.pool("true", dask_ppw=1))
pid = Path("../WORKERS__Worker_2/pid").read_text().strip()
print("alive:", os.path.exists(f"/proc/{pid}"))
""",
        ),
        worker=component(
            "Worker",
            """
self.pool("sh", "-c", "echo $$ > pid; exec sleep 300", block=False, dask_ppw=1)
until(lambda: Path("pid").exists() and Path("pid").read_text())
os.kill(os.getpid(), signal.SIGKILL)
""",
        ),
    ).run()
    assert outcome.stdout.splitlines()[1:] == [
        "component WORKERS__Worker_2 failed in step: its process was killed by signal 9 (SIGKILL)",
        "{'t': 0}",
        "alive: False",
    ]
    assert clusters(outcome) == [START, END]


def test_two_layouts_run_side_by_side_on_one_machine(simulation: Any) -> None:
    outcome = simulation.write(
        component(
            "Driver",
            """
waits = "until test -e go; do sleep 0.05; done"
name = self.pool("sh", "-c", waits, block=False, dask_ppw=1)
print(self.pool("touch", "go", dask_ppw=2))
print(services.get_finished_tasks(name))
""",
        )
    ).run()
    assert outcome.stdout.splitlines()[1:] == ["{'t': 0}", "{'t': 0}"]
    assert clusters(outcome) == [START, START, END, END]


def test_cores_are_allocated_and_waited_for_beside_a_cluster(simulation: Any) -> None:
    outcome = simulation.write(
        driver=component(
            "Driver",
            """
from ips_core.errors import BadResourceRequest, InsufficientResources

ask = services.link.ask
self.pool("true")
first = ask("allocate", 3, 0, 1, 0, False, True)
print(first.nodes == (os.uname().nodename,), first.shares[0].cores, len(self.closed()))
try:
    ask("allocate", 2, 0, 1, 0, False, False)
except InsufficientResources as error:
    print(error)
try:
    ask("allocate", 5, 0, 1, 0, False, True)
except BadResourceRequest as error:
    print(error)
call = services.call_nonblocking(services.get_port("WORKER"), "step", 0.0)
until(lambda: os.path.exists("../WORKERS__Worker_2/asking"))
Path("released").touch()
ask("release", first.id)
services.wait_call(call)
print(ask("allocate", 1, 0, 1, 0, False, True).shares[0].processes)
""",
        ),
        worker=component(
            "Worker",
            """
request = services.link.post("allocate", 4, 0, 1, 0, True, True)
Path("asking").touch()
got = services.link.answer(request)
print(got.whole_nodes, os.path.exists("../DRIVER__Driver_1/released"))
services.link.ask("release", got.id)
""",
        ),
    ).run("--ppn", "4")
    assert (outcome.code, outcome.stderr) == (0, "")
    nodes = "there are 1 node(s) for 4 process(es) each, with 4 core(s) and 0 GPU(s)"
    assert outcome.stdout.splitlines()[1:] == [
        "True 3 0",  # the cluster has none of them
        "2 process(es) of 1 core(s) cannot be had now: too much is in use",
        f"5 process(es) of 1 core(s) can never be had: {nodes}",
        "True True",
        "1",
    ]
