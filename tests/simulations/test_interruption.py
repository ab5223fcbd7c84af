"""Ctrl-C, SIGTERM, SIGKILL: the simulation ends soon, says so, and leaves nothing."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

FOUR_BINARIES = """
services.create_task_pool("pool")
for number in range(4):
    services.add_task("pool", f"t{number}", 1, cwd, "sleep", 300)
"""
A_FUNCTION = """
def nap():
    time.sleep(300)

services.add_task("pool", "function", 1, cwd, nap)
"""
RUN = """
services.submit_tasks("pool", use_dask=True, dask_ppw=5)
services.get_finished_tasks("pool")
"""


@pytest.mark.versions
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_tasks_run(
    simulation: Any, wait_until: Callable[..., Any], number: signal.Signals
) -> None:
    running = simulation.write(FOUR_BINARIES + A_FUNCTION + RUN).start()
    wait_until(lambda: running.launched(5), 30, "the start of five tasks")
    running.process.send_signal(number)
    outcome = running.finish(20)
    assert outcome.code == 1
    assert outcome.stderr.splitlines() == [
        f"ips.py: interrupted by {number.name}",
        f"ips.py: more in {simulation.root / 'sim.log'}",
    ]
    end = outcome.events[-1]
    assert end["eventtype"] == "IPS_END"
    assert end["ok"] is False
    assert end["error"] == f"interrupted by {number.name}"
    ended = {event["task_name"]: event for event in outcome.of_type("IPS_TASK_END")}
    for name in ("function", "t0", "t1", "t2", "t3"):
        assert ended[name]["ok"] is False
        assert ended[name]["error"] == "cancelled"
        assert f"task {name}: cancelled" in outcome.log
    assert "dask-worker" in ended
    assert "Traceback" not in outcome.log


@pytest.mark.parametrize("who", ["driver", "worker", "both"])
def test_ctrl_c_while_a_component_hangs(
    simulation: Any, wait_until: Callable[..., Any], who: str
) -> None:
    call = 'services.call(services.get_port("WORKER"), "step", 0.0)'
    hang = 'print("hanging"); time.sleep(300)'
    if who == "both":
        call = call.replace("call(", "call_nonblocking(", 1) + "; time.sleep(300)"
    simulation.write(hang if who == "driver" else call, "" if who == "driver" else hang)
    running = simulation.start()
    wait_until(lambda: "hanging\n" in running.stdout, 30, "the hanging component")
    running.process.send_signal(signal.SIGINT)
    outcome = running.finish(20)
    assert outcome.code == 1
    assert outcome.stderr == "ips.py: interrupted by SIGINT\n"
    assert outcome.events[-1]["eventtype"] == "IPS_END"
    assert outcome.events[-1]["ok"] is False


def test_ctrl_c_while_a_cluster_starts(simulation: Any, wait_until: Callable[..., Any]) -> None:
    running = simulation.write(FOUR_BINARIES + RUN).start()

    def begun() -> bool:
        return "IPS_TASK_POOL_BEGIN" in [event["eventtype"] for event in simulation.events()]

    wait_until(begun, 30, "the beginning of the pool")
    running.process.send_signal(signal.SIGINT)
    outcome = running.finish(20)
    assert outcome.code == 1
    assert outcome.stderr.splitlines()[0] == "ips.py: interrupted by SIGINT"
    assert outcome.events[-1]["eventtype"] == "IPS_END"


def test_framework_killed_while_tasks_run(simulation: Any, wait_until: Callable[..., Any]) -> None:
    running = simulation.write(FOUR_BINARIES + RUN).start()
    wait_until(lambda: running.launched(4), 30, "the start of four tasks")
    running.process.kill()
    outcome = running.finish(10)
    assert outcome.code == -signal.SIGKILL
    assert outcome.events[-1]["eventtype"] == "IPS_LAUNCH_DASK_TASK"


def test_a_lost_cluster_is_reported_without_dask_traceback(simulation: Any) -> None:
    """A signal reaches all processes of a simulation at once, so this happens at every Ctrl-C."""
    talk = """
import psutil
from distributed import Client
from tornado.ioloop import PeriodicCallback

services.create_task_pool("pool")
services.add_task("pool", "t", 1, cwd, "true")
services.submit_tasks("pool", use_dask=True)
services.get_finished_tasks("pool")
(client,) = Client._instances
say = PeriodicCallback(lambda: client._send_to_scheduler({"op": "heartbeat-client"}), 1)
client.loop.add_callback(say.start)
time.sleep(1)
(scheduler,) = [
    process
    for process in psutil.Process(os.getppid()).children(recursive=True)
    if "python" in process.name() and "ips_dask_announce" in process.cmdline()
]
scheduler.kill()
time.sleep(1)
client.loop.add_callback(say.stop)
print("ended")
"""
    outcome = simulation.write(talk).start().finish(60)
    assert "ended" in outcome.stdout
    assert "the scheduler step on" in outcome.stderr
    assert "Batched Comm Closed" not in outcome.stderr
