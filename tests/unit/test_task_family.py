"""What a task has started is found wherever it has gone, and ended with the task."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ips_core.tasks import runner as task_runner
from ips_core.tasks.process_tag import ProcessTag, end_tagged, tagged_processes
from ips_core.tasks.runner import Runner

WaitUntil = Callable[..., Any]
#: Has a child that ignores SIGTERM, in a session of its own, whose parent has ended.
DAEMON = """
(setsid sh -c 'trap "" TERM; echo $$ >pid; exec sleep 60' &)
until test -s pid; do :; done
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """``daemon()``: the folder below /proc of the daemon that was started in the test's folder."""

    def find() -> Path:
        return Path("/proc", (tmp_path / "pid").read_text().strip())

    yield find
    if find().exists():  # only if the test failed
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(find().name), 9)


def test_marks_differ_and_go_on_that_of_the_task_around_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("IPS_TASK_MARK", raising=False)
    marks = ProcessTag()
    (first, environment), (second, _) = marks.next(), marks.next()
    assert environment == {"IPS_TASK_MARK": first}
    assert first != second
    monkeypatch.setenv("IPS_TASK_MARK", first)
    inner, environment = ProcessTag().next()
    assert environment == {"IPS_TASK_MARK": f"{first} {inner}"}


def test_family_is_found_by_its_mark_and_that_of_the_task_around_it(
    tmp_path: Path, daemon: Callable[[], Path], wait_until: WaitUntil
) -> None:
    environment = os.environ | {"IPS_TASK_MARK": "outer-1 inner-1"}
    subprocess.run(["sh", "-c", DAEMON], cwd=tmp_path, env=environment, check=True, timeout=30)
    pid = int(daemon().name)
    # the shell between them may be leaving yet, and an exec shows no environment for a moment
    wait_until(lambda: tagged_processes(["inner-1"]) == [pid], 5, "it is all that is left")
    wait_until(
        lambda: tagged_processes(["other", "outer-1"]) == [pid], 5, "it is found by the outer mark"
    )
    assert tagged_processes([]) == tagged_processes(["outer"]) == tagged_processes(["1"]) == []
    end_tagged(["outer-1"], 10)
    assert tagged_processes(["outer-1"]) == []


def task(script: str, folder: Path, **changes: Any) -> dict[str, Any]:
    argv = ["/bin/sh", "-c", script]
    return {"pool": "pool", "name": "t", "argv": argv, "cwd": str(folder)} | changes


def test_a_late_task_loses_its_daemons(
    tmp_path: Path, daemon: Callable[[], Path], wait_until: WaitUntil
) -> None:
    late = task(DAEMON + "sleep 60", tmp_path, timeout=3)
    record = Runner("w").run(late, lambda begun: None)
    assert record["status"] == "timed_out"
    wait_until(lambda: not daemon().exists(), 5, "its new parent has taken note")


def test_a_cancelled_task_loses_its_daemons(
    tmp_path: Path,
    daemon: Callable[[], Path],
    monkeypatch: pytest.MonkeyPatch,
    wait_until: WaitUntil,
) -> None:
    monkeypatch.setattr(task_runner, "_CANCEL_GRACE", 0.2)
    runner = Runner("w")
    running = task(DAEMON + "touch running; sleep 60", tmp_path)
    thread = threading.Thread(target=runner.run, args=(running, lambda begun: None))
    thread.start()
    wait_until((tmp_path / "running").exists, 20, "the task runs")
    runner.cancel("pool")
    wait_until(lambda: not daemon().exists(), 5, "its new parent has taken note")
    thread.join()


def test_a_task_that_has_finished_may_leave_a_daemon(
    tmp_path: Path, daemon: Callable[[], Path]
) -> None:
    runner = Runner("w")
    record = runner.run(task(DAEMON, tmp_path), lambda begun: None)
    assert record["status"] == "finished"
    runner.cancel()
    assert daemon().exists()
    os.kill(int(daemon().name), 9)
