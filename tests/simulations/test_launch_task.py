"""Single tasks of a component: what ``launch_task`` and its companions do, and what is logged."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

HOST = socket.gethostname()
NO_TASK = "KeyError: 'no task {}, or it was waited for already'"

PLATFORM = """
MPIRUN = eval
NODE_DETECTION = manual
CORES_PER_NODE = 2
SOCKETS_PER_NODE = 1
NODE_ALLOCATION_MODE = shared
"""

DRIVER = """
import json
import os
import sys
import time

from ips_core.tasks.orphan_reaper import marked_processes
from ipsframework import Component
from ipsframework.ipsExceptions import (
    BadResourceRequestException,
    GPUResourceRequestMismatchException,
    InsufficientResourcesException,
)

TRAPPED = "trap '' TERM; touch there; sleep 300 & sleep 300"


def until(what):
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline, "not within 30 s"
        time.sleep(0.02)


def error_of(function, *args, **keywords):
    try:
        return function(*args, **keywords)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


class Driver(Component):
    def step(self, timestamp=0.0, **keywords):
        told = {}
        for part in (
            self.codes, self.files, self.lists, self.limits, self.killed, self.errors, self.cores
        ):
            told[part.__name__] = part()
        told["modules"] = sorted({"dask", "distributed"} & set(sys.modules))
        print("told", json.dumps(told))
        self.sh("trap 'touch ended; exit 3' TERM; touch left; while :; do sleep 0.05; done")
        until(lambda: os.path.exists("left"))

    def launch(self, *words, nproc=1, where=None, **keywords):
        return self.services.launch_task(nproc, where or os.getcwd(), *words, **keywords)

    def sh(self, script, *args, **keywords):
        return self.launch("sh", "-c", script, *args, **keywords)

    def codes(self):
        services = self.services
        ids = [self.sh("exit 0", lofgile="x", xyzzy=1), self.sh("exit 3", timeout=1e9)]
        codes = [services.wait_task(task_id) for task_id in ids]
        codes.append(services.wait_task(self.sh("kill -9 $$", timeout=float("inf")), 30, 0.1))
        return [ids, codes, error_of(services.wait_task, 1), dict(services.task_map)]

    def files(self):
        wait = self.services.wait_task
        os.mkdir("elsewhere")
        elsewhere = os.path.abspath("elsewhere")
        script = "pwd; echo $1; echo $WORD; echo oops >&2; cat"
        with open("input", "w") as file:
            file.write("from a file")
        wait(
            self.sh(
                script, "sh", "two words", where=elsewhere, task_env={"WORD": "set"},
                logfile="logs/out", errfile="err", stdin="../input",
            )
        )
        wait(self.launch("sh -c 'echo $0 >&2'", "merged", logfile="merged", tag="a tag"))
        wait(self.sh("echo to the output of the simulation", logfile=""))
        wait(self.sh("echo $OMP_NUM_THREADS $OMP_PLACES", omp=True, task_cpp=1, logfile="omp"))
        return [open(name).read() for name in ("logs/out", "err", "merged", "omp")]

    def lists(self):
        services = self.services
        slow = self.sh("until test -e go; do sleep 0.05; done; exit 4")
        quick = self.sh("exit 5")
        found = [services.wait_task_nonblocking(slow)]
        until(lambda: found.append(services.wait_tasklist([quick], False)) or found[-1])
        found = [found[0], found[-1], services.wait_tasklist([slow], block=False)]
        open("go", "w").close()
        other = self.sh("exit 6")
        found.append(services.wait_tasklist([other, slow]))
        found.append(error_of(services.wait_tasklist, [slow]))
        return [quick, slow, other, found]

    def limits(self):
        services = self.services
        late = self.sh("sleep 300", timeout=0.5)
        codes = [services.wait_task(late)]
        begin = time.monotonic()
        other = self.sh(TRAPPED, task_env={"TASK": "late"})
        until(lambda: os.path.exists("there"))
        codes.append(services.wait_task(other, timeout=0, delay=60))
        return [codes, marked_processes("TASK=late"), time.monotonic() - begin < 20]

    def killed(self):
        services = self.services
        ids = [self.sh("sleep 300 & sleep 300", task_env={"TASK": "killed"}) for _ in "abc"[:2]]
        found = [services.kill_task(ids[0]), error_of(services.wait_task, ids[0])]
        found += [error_of(services.kill_task, 999), services.kill_all_tasks()]
        return [found, ids[0], dict(services.task_map), marked_processes("TASK=killed")]

    def errors(self):
        launch, here = self.services.launch_task, os.getcwd()
        with open("no_interpreter", "w") as file:
            file.write("#!/nope\\n")
        os.chmod("no_interpreter", 0o755)
        return [
            error_of(launch, 1, here, 5),
            error_of(launch, 1, here, "no_such_program"),
            error_of(launch, 1, here, os.path.abspath("no_interpreter")),
            error_of(launch, 1, "/nope", "true"),
            error_of(launch, "", here, "true"),
            error_of(launch, 1, here, "true", task_ppn="x"),
            error_of(launch, 1, here, "true", launch_cmd_extra_args="'x"),
            error_of(launch, 1, here, "true", logfile="/dev/null/x"),
            self.caught(BadResourceRequestException, launch, 3, here, "true"),
            self.caught(GPUResourceRequestMismatchException, launch, 1, here, "true", task_gpp=1),
        ]

    def caught(self, kind, function, *args, **keywords):
        try:
            function(*args, **keywords)
        except kind as error:
            return str(error)

    def cores(self):
        services = self.services
        held = self.sh("until test -e free; do sleep 0.05; done", nproc="2")
        try:
            self.sh("true", block=False)
        except InsufficientResourcesException as error:
            found = [str(error)]
        # waits for the cores of the other, which nobody has waited for
        open("free", "w").close()
        found.append(services.wait_task(self.sh("true", whole_nodes=True)))
        found.append(services.wait_task_nonblocking(held))
        return found
"""


@pytest.fixture
def answers(simulation: Any, once: Any) -> Any:
    """How the simulation ended, and what its driver told."""

    def run() -> tuple[Any, dict[str, Any], Path]:
        (simulation.folder / "platform.conf").write_text(PLATFORM)
        outcome = simulation.write(DRIVER).run("--platform", "platform.conf")
        assert outcome.code == 0, outcome.stderr + outcome.log
        (line,) = [line for line in outcome.stdout.splitlines() if line.startswith("told ")]
        return outcome, json.loads(line[5:]), simulation.root / "work" / "DRIVER__Driver_1"

    return once("run", run)


def test_ids_count_from_one_and_codes_are_those_of_the_programs(answers: Any) -> None:
    _, told, _ = answers
    assert told["codes"] == [[1, 2], [0, 3, -9], NO_TASK.format(1), {}]


def test_unknown_keywords_are_warned_of_and_have_no_effect(answers: Any) -> None:
    outcome, _, work = answers
    warnings = [line for line in outcome.log.splitlines() if "unknown keyword" in line]
    assert [line.partition("WARNING  ")[2] for line in warnings] == [
        "task sh: unknown keyword lofgile, which has no effect; did you mean logfile?",
        "task sh: unknown keyword xyzzy, which has no effect",
    ]
    assert not (work / "x").exists()


def test_files_are_where_the_component_is_and_arguments_stay_whole(answers: Any) -> None:
    outcome, told, work = answers
    assert told["files"] == [
        f"{work}/elsewhere\ntwo words\nset\nfrom a file",
        "oops\n",
        "merged\n",
        "1 threads\n",
    ]
    assert "echo to the output" not in outcome.stdout
    assert "to the output of the simulation\n" in outcome.stdout


def test_several_are_waited_for_in_the_order_of_their_ends(answers: Any) -> None:
    _, told, _ = answers
    quick, slow, other, found = told["lists"]
    assert found == [
        None,
        {str(quick): 5},
        {},
        {str(other): 6, str(slow): 4},
        NO_TASK.format(slow),
    ]


def test_time_limits_of_the_task_and_of_who_waits(answers: Any) -> None:
    outcome, told, _ = answers
    assert told["limits"] == [[-1, -9], [], True]
    late = [e for e in outcome.of_type("IPS_TASK_END") if "TIMEOUT" in e["comment"]]
    assert [(e["exit_status"], e["status"], e["ok"]) for e in late] == [
        (-1, "timed_out", False),
        (-9, "timed_out", False),
    ]
    for event in late:
        begin, _, end = event["comment"].partition("  TIMEOUT elapsed time = ")
        assert begin == f"task_id = {event['task_id']}"
        assert end == f"{event['elapsed_time']:.2f} S"


def test_killed_tasks_are_gone_with_all_they_have_started(answers: Any) -> None:
    _, told, _ = answers
    found, first, left, processes = told["killed"]
    assert found == [True, NO_TASK.format(first), NO_TASK.format(999), True]
    assert (left, processes) == ({}, [])


def test_errors_name_the_thing_and_the_cause(answers: Any) -> None:
    _, told, work = answers
    errors = [str(text).replace(f"{work}/", "") for text in told["errors"]]
    assert errors[:8] == [
        "ValueError: task binary of wrong type, expected str but found int",
        "TaskLaunchError: Program no_such_program is not in path or is not executable",
        f"TaskLaunchError: task no_interpreter: program no_interpreter cannot be started on {HOST}:"
        " no such interpreter",
        "FileNotFoundError: [Errno 2] task true: there is no working directory: '/nope'",
        "TaskLaunchError: task true: nproc = '': expected a whole number of 1 or more",
        "TaskLaunchError: task true: task_ppn = 'x': expected a whole number, 0 or more",
        'TaskLaunchError: task true: launch_cmd_extra_args = "\'x": expected each quote to be '
        "closed",
        f"TaskLaunchError: task true: log file /dev/null/x cannot be opened on {HOST}: "
        "Not a directory",
    ]
    bad, gpus = errors[8:]
    assert bad.startswith("nproc = 3 can never be had: there are 1 node(s)")
    assert gpus.startswith(
        "1 process(es) on a node with task_gpp = 1 want 1 GPUs, but a node has 0"
    )


def test_cores_are_free_when_a_task_has_ended_whether_or_not_one_waits_for_it(answers: Any) -> None:
    outcome, told, _ = answers
    text, *codes = told["cores"]
    assert text == "1 process(es) at most 1 a node cannot be had now: too much is in use"
    assert codes == [0, 0]
    tags = [e["trace"]["tags"] for e in outcome.of_type("IPS_TASK_END")][-3:-1]
    assert tags == [
        {"procs_requested": "2", "cores_allocated": "2"},
        {"procs_requested": "1", "cores_allocated": "2"},
    ]


def test_what_still_runs_is_ended_with_the_component_and_that_is_logged(answers: Any) -> None:
    outcome, _, work = answers
    assert (work / "ended").exists()
    assert "the simulation ended while 1 task(s) were running" in outcome.log
    last = outcome.of_type("IPS_TASK_END")[-1]
    assert (last["status"], last["exit_status"], last["ok"]) == ("cancelled", 3, False)


def test_each_task_is_logged_with_its_beginning_and_its_end(answers: Any) -> None:
    outcome, _, _ = answers
    begins = {e["task_id"]: e for e in outcome.of_type("IPS_LAUNCH_TASK")}
    ends = {e["task_id"]: e for e in outcome.of_type("IPS_TASK_END")}
    assert begins.keys() == ends.keys()
    shell = shutil.which("sh")
    begin, end = begins[2], ends[2]
    target = f"{shell} -c exit 3"
    assert begin["comment"] == f"task_id = 2 , Tag = None , nproc = 1 , Target = {target}"
    assert end["comment"] == f"task_id = 2  elapsed time = {end['elapsed_time']:.2f} S"
    assert (end["ok"], end["status"], end["exit_status"]) == (False, "failed", 3)
    assert end["error"] == "exit code 3"
    for event in (begin, end):
        assert (event["task_name"], event["host"]) == ("sh", HOST)
    assert end["trace"]["localEndpoint"] == {"serviceName": target}
    (merged,) = [e for e in begins.values() if "Tag = a tag" in e["comment"]]
    assert merged["comment"].endswith(f"Target = {shell} -c echo $0 >&2 merged")
    (omp,) = [e for e in begins.values() if "OMP_PLACES'" in e["comment"]]
    assert omp["comment"].endswith(
        ", env = {'OMP_NUM_THREADS': '1', 'OMP_PLACES': 'threads', 'OMP_PROC_BIND': 'spread'}"
    )


def test_dask_is_not_imported_for_it(answers: Any) -> None:
    _, told, _ = answers
    assert told["modules"] == []


def test_tasks_of_a_component_that_is_killed_end_with_it(simulation: Any) -> None:
    """The fixture ``nothing_left_behind`` looks for what has left its process group, too."""
    outcome = simulation.write(
        """
services.launch_task(1, cwd, "sh", "-c", "setsid sleep 300 & touch there; sleep 300")
while not os.path.exists("there"):
    time.sleep(0.02)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ).run()
    assert outcome.code == 1
    assert "killed" in outcome.stderr.lower()
    assert (simulation.root / "work" / "DRIVER__Driver_1" / "there").exists()


def test_launch_task_beside_a_pool_on_dask_of_the_same_component(simulation: Any) -> None:
    """On one machine neither waits for the other, as it was in IPS-framework."""
    outcome = simulation.write(
        """
services.create_task_pool("pool")
services.add_task("pool", "wait", 1, cwd, "sh", "-c", "until test -e go; do sleep 0.05; done")
services.submit_tasks("pool", use_dask=True, dask_ppw=1)
print(services.wait_task(services.launch_task(1, cwd, "touch", "go", whole_nodes=True)))
print(services.get_finished_tasks("pool"))
"""
    ).run()
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout.splitlines()[-2:] == ["0", "{'wait': 0}"]
    ids = [e["comment"].split()[2] for e in outcome.of_type("IPS_LAUNCH_TASK")]
    assert ids == ["1", "2"]
