"""What a step's log tells of lost workers and nodes, however it was cut or mixed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ips_dask_cluster.steps import failures as losses
from ips_dask_cluster.steps.failures import Loss, LossWatch, read_losses
from ips_dask_cluster.steps.step import Step

ENDED = "ips-dask: node n1 worker c-0 ended with code 137, start 1 of 4"
KILLED = (
    "it was killed by signal 9, often for lack of memory; use fewer threads a worker, or nodes "
    "with more memory"
)
UNKNOWN = "no known symptom in its log"
FAILED = (
    "Slurm lost node n3; allocate again without it; with salloc --no-kill the other nodes stay "
    "yours"
)
NO_MODULE = (
    "the Python of the nodes has no module 'numpy'; install dask and distributed there, or pass "
    "python= (or container=) with one that has them"
)
NO_IMPORT = (
    "the Python of the nodes cannot import a module: libc; use the same environment on all nodes, "
    "python= or container="
)


# Lines.


def test_worker_that_is_started_again() -> None:
    assert list(read_losses([ENDED])) == [Loss("n1", "c-0", -9, KILLED, True)]


def test_worker_that_has_used_up_its_starts() -> None:
    (loss,) = read_losses(["ips-dask: node n1 worker c-0-3 ended with code 3, start 4 of 4"])
    assert loss == Loss("n1", "c-0-3", 3, UNKNOWN, False)


@pytest.mark.parametrize(
    ("code", "meaning"),
    [(0, 0), (1, 1), (128, 128), (129, -1), (139, -11), (192, -64), (193, 193), (255, 255)],
)
def test_only_a_code_that_a_shell_gives_a_signal_is_one(code: int, meaning: int) -> None:
    """A program that ends with -1 ends with 255, and there is no signal 127 (signal(7))."""
    line = f"ips-dask: node n1 worker c-0 ended with code {code}, start 1 of 1"
    assert [loss.exit_code for loss in read_losses([line])] == [meaning]


def test_reason_is_in_what_is_quoted_of_the_workers_own_log() -> None:
    lines = [
        "c-0| No module named pandas",
        "ips-dask: node n1 worker c-0 ended with code 1, start 1 of 2",
        "c-0| Traceback (most recent call last):",
        "No module named scipy",
        "ips-dask: node n2 worker c-1 ended with code 3, start 1 of 2",
        "c-1| text",
        "c-0| ImportError: libc",
        "ips-dask: node n1 worker c-0 ended with code 4, start 2 of 2",
        "c-0| text",
    ]
    assert [(loss.worker, loss.exit_code, loss.reason) for loss in read_losses(lines)] == [
        ("c-0", 1, NO_IMPORT),
        ("c-1", 3, UNKNOWN),
        ("c-0", 4, UNKNOWN),
    ]


def test_quoted_srun_of_a_task_is_no_loss_of_a_node() -> None:
    """Tasks may run srun, whose words are in the worker's log and so in the quote."""
    quoted = ["srun: error: n1: task 0: Exited with exit code 1", "srun: error: Node failure on n3"]
    lines = [ENDED, *[f"c-0| {line}" for line in quoted], *[f"c-0-1| {line}" for line in quoted]]
    assert [(loss.node, loss.worker) for loss in read_losses(lines)] == [("n1", "c-0")]


def test_name_of_a_worker_may_be_odd() -> None:
    line = "ips-dask: node n1 worker it's | mine-0 ended with code 1, start 1 of 2"
    assert [loss.worker for loss in read_losses([line])] == ["it's | mine-0"]


@pytest.mark.parametrize(
    ("line", "nodes"),
    [
        ("srun: error: n2: task 1: Killed", ["n2"]),
        ("srun: error: n2: task 1: Exited with exit code 66", ["n2"]),
        ("srun: error: n[1-2,4]: tasks 0-1,3: Exited with exit code 7", ["n1", "n2", "n4"]),
        ("srun: error: nid[001298,001300]: tasks 0-1: Killed", ["nid001298", "nid001300"]),
        ("srun: error: n1,login-2: tasks 0,4: Out Of Memory", ["n1", "login-2"]),
        ("srun: error: Node failure on n3", ["n3"]),
        ("srun: error: Node failure on n[3-4]", ["n3", "n4"]),
        ("srun: n2: task 1: Completed", []),
        ("srun: error: Unable to create step for job 17: Job/step already completing", []),
        ("srun: Job step aborted: Waiting up to 32 seconds for job step to finish.", []),
        ("", []),
    ],
)
def test_nodes_whose_script_ended_or_which_failed(line: str, nodes: list[str]) -> None:
    found = list(read_losses([line]))
    assert [loss.node for loss in found] == nodes
    assert {(loss.worker, loss.exit_code, loss.restarted) for loss in found} <= {("", None, False)}


def test_reason_of_a_node_is_in_the_lines_before() -> None:
    lines = ["ips-dask: node n2 cannot see the directory /runs", "other"]
    (loss,) = read_losses([*lines, "srun: error: n2: task 1: Exited with exit code 66"])
    assert loss.reason.startswith("node n2 cannot see the directory /runs; choose")
    assert [loss.reason for loss in read_losses(["srun: error: Node failure on n3"])] == [FAILED]
    lines = ["Traceback", "ImportError: libc", "srun: error: n2: task 1: Exited with exit code 1"]
    assert [loss.reason for loss in read_losses(lines)] == [NO_IMPORT]


def test_lines_long_before_are_not_the_reason() -> None:
    lines = ["ips-dask: node n2 cannot see the directory /runs", *["other"] * 45]
    (loss,) = read_losses([*lines, "srun: error: n2: task 1: Exited with exit code 66"])
    assert loss.reason == UNKNOWN


@pytest.mark.parametrize("line", [ENDED, "srun: error: n1: task 0: Killed"])
def test_line_that_is_glued_to_what_a_task_printed_is_read(line: str) -> None:
    assert [loss.node for loss in read_losses([f"...{line}"])] == ["n1"]
    assert [loss.node for loss in read_losses([f"c-9| ...{line}"])] == []


def test_node_list_that_does_not_parse_is_no_end_of_the_watch() -> None:
    """Tasks may print anything, also into the log of a step."""
    lines = ["srun: error: n[x]: task 0: Killed", "srun: error: n2: task 1: Killed"]
    assert [loss.node for loss in read_losses(lines)] == ["n2"]


class Counted(list[str]):
    """Lines, and how many of them were looked at or copied."""

    count = 0

    def __iter__(self) -> Iterator[str]:
        for line in super().__iter__():
            self.count += 1
            yield line

    def __getitem__(self, index: slice) -> list[str]:
        found = super().__getitem__(index)
        self.count += len(found)
        return found


def test_time_grows_with_the_number_of_losses_only() -> None:
    """The event loop stands still meanwhile."""
    lines = Counted()
    for node in range(100):
        lines.append(f"ips-dask: node n{node} worker c-{node} ended with code 1, start 1 of 4")
        lines += [f"c-{node}| {number}" for number in range(40)]
        lines.append(f"srun: error: n{node}: task 0: Exited with exit code 1")
    assert sum(1 for _ in read_losses(lines)) == 200
    assert lines.count < 4 * len(lines)


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (
            Loss("n2", "c-1", -9, KILLED, True),
            "worker c-1 on node n2 was killed by signal 9 and is started again",
        ),
        (
            Loss("n2", "c-1", -7, "it crashed (SIGBUS) in compiled code; a bad library", True),
            "worker c-1 on node n2 crashed (SIGBUS) in compiled code (a bad library) and is "
            "started again",
        ),
        (
            Loss("n2", "c-1", 1, NO_MODULE),
            f"worker c-1 on node n2 ended with exit code 1 ({NO_MODULE}) and is not started again",
        ),
        (
            Loss("n2", "c-1", 0, "x"),
            "worker c-1 on node n2 ended with exit code 0 (x) and is not started again",
        ),
        (Loss("n3", reason=FAILED), f"node n3 is lost and left out from now on: {FAILED}"),
    ],
)
def test_loss_is_one_sentence(loss: Loss, text: str) -> None:
    assert str(loss) == text


# The log as it grows.


class Watched:
    """A worker step's log, what is reported of it, and whether there is a reason to look."""

    def __init__(self, folder: Path, role: str = "worker") -> None:
        self.step = Step(role, [], ["n1"], folder / "c-worker-0.step.log")
        self.missing = True
        self.told: list[Loss] = []
        self.watch = LossWatch([self.step], lambda: self.missing, self.report)

    def report(self, loss: Loss, step: Step) -> None:
        assert step is self.step
        self.told.append(loss)

    def writes(self, text: str) -> None:
        with open(self.step.log, "ab") as log:
            log.write(text.encode())

    def looks(self, times: int = 1) -> list[str]:
        for _ in range(times):
            self.watch.read(self.step)
        return [loss.worker or loss.node for loss in self.told]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_lines_count_when_nothing_has_come_since(watched: Watched) -> None:
    watched.writes(f"{ENDED}\n")
    assert watched.looks() == []
    assert watched.looks() == ["c-0"]
    assert watched.looks(3) == ["c-0"]


def test_quote_that_is_still_being_written_is_waited_for(watched: Watched) -> None:
    watched.writes("ips-dask: node n1 worker c-0 ended with code 1, start 1 of 4\n")
    assert watched.looks() == []
    watched.writes("c-0| No module named 'numpy'\n")
    assert watched.looks() == []
    assert watched.looks() == ["c-0"]
    assert watched.told[0].reason == NO_MODULE


def test_reason_that_slurm_gave_at_an_earlier_look_counts(watched: Watched) -> None:
    watched.writes(
        "ips-dask: node n1 worker c-0 ended with code 1, start 1 of 4\n"
        "c-0| No module named 'numpy'\n"
        "slurmstepd-n1: error: *** STEP 9.1 ON n1 CANCELLED AT 2026-11-30T15:30:49 ***\n"
    )
    assert watched.looks(2) == ["c-0"]
    watched.writes("srun: error: n1: task 0: Killed\n")
    assert watched.looks(2) == ["c-0", "n1"]
    assert watched.told[1].reason.startswith("step 9.1 was cancelled (scancel); ")


def test_line_that_is_half_written_is_waited_for(watched: Watched) -> None:
    for part in (ENDED[:20], ENDED[20:]):
        watched.writes(part)
        assert watched.looks(2) == []
    watched.writes("\n")
    assert watched.looks(2) == ["c-0"]


def test_letter_that_is_half_written_is_no_trouble(watched: Watched) -> None:
    with open(watched.step.log, "wb") as log:
        log.write("ips-dask: node n1 worker ü-0 ended".encode()[:26])
    assert watched.looks(2) == []
    with open(watched.step.log, "ab") as log:
        log.write("ips-dask: node n1 worker ü-0 ended".encode()[26:])
        log.write(b" with code 3, start 1 of 1\nsome \xff\n")
    assert watched.looks(2) == ["ü-0"]


def test_log_in_which_tasks_print_all_the_time_is_read_all_the_same(watched: Watched) -> None:
    watched.writes(f"{ENDED}\n")
    for number in range(40):
        assert watched.looks() == (["c-0"] if number >= 9 else [])
        watched.writes(f"chatter {number}\n")


def test_end_of_the_step_is_the_end_of_waiting(watched: Watched) -> None:
    watched.writes(f"{ENDED}\n")
    watched.looks()
    watched.writes("srun: error: n2: task 1: Killed\n")
    watched.watch.read(watched.step, ended=True)
    assert watched.looks(3) == ["c-0", "n2"]


def test_last_line_without_newline_counts_when_the_step_has_ended(watched: Watched) -> None:
    watched.writes("ips-dask: node n1 worker c-0 ended with code 1, start 4 of 4\n")
    watched.writes("c-0| No module named 'numpy'")
    watched.watch.read(watched.step, ended=True)
    assert [loss.reason for loss in watched.told] == [NO_MODULE]


def test_log_that_is_not_there_or_vanishes_is_no_trouble(watched: Watched) -> None:
    assert watched.looks(2) == []
    watched.writes(f"{ENDED}\n")
    watched.looks()
    watched.step.log.unlink()
    assert watched.looks(2) == ["c-0"]


def test_scheduler_has_no_losses(tmp_path: Path) -> None:
    watched = Watched(tmp_path, role="scheduler")
    watched.writes(f"{ENDED}\n")
    assert watched.looks(3) == []


def test_steps_have_logs_of_their_own(tmp_path: Path, watched: Watched) -> None:
    other = Step("worker", [], ["n2"], tmp_path / "other.log")
    other.log.write_text("srun: error: n2: task 1: Killed\n")
    told: list[tuple[str, Step]] = []
    watch = LossWatch(
        [watched.step, other], bool, lambda loss, step: told.append((loss.node, step))
    )
    watched.writes(f"{ENDED}\n")
    for step in (watched.step, other):
        watch.read(step, ended=True)
    assert told == [("n1", watched.step), ("n2", other)]


# The end of a node's script is the echo of that of its worker.


def script_ends_after(watched: Watched, start: int) -> list[str]:
    watched.writes(
        f"ips-dask: node n1 worker c-0 ended with code 1, start {start} of 4\n"
        "c-0| No module named 'numpy'\n"
    )
    watched.looks(2)
    watched.writes("\n" * 50 + "srun: error: n1: task 0: Exited with exit code 1\n")
    watched.looks(2)
    return [loss.reason for loss in watched.told]


def test_node_is_lost_for_the_reason_of_the_worker_that_gave_up(watched: Watched) -> None:
    assert script_ends_after(watched, start=4) == [NO_MODULE, NO_MODULE]


def test_node_is_not_lost_for_what_a_worker_has_survived(watched: Watched) -> None:
    assert script_ends_after(watched, start=1) == [NO_MODULE, UNKNOWN]


# Looking.


def run_while(watched: Watched, scenario: Callable[[], object]) -> None:
    async def run() -> None:
        task = asyncio.ensure_future(watched.watch.run())
        try:
            await asyncio.wait_for(scenario(), 10)
        finally:
            task.cancel()

    asyncio.run(run())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0)


def test_nobody_looks_without_a_reason_or_longer_than_there_is_one(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "_SECONDS_BETWEEN_LOOKS", 0)
    looks: list[bool] = []
    monkeypatch.setattr(watched.watch, "read", lambda step: looks.append(watched.missing))

    async def idle() -> int:
        """Looks within a while in which there might be many."""
        before = len(looks)
        for _ in range(50):
            await asyncio.sleep(0)
        return len(looks) - before

    async def scenario() -> None:
        assert await idle() == 0
        watched.watch.look()
        await until(lambda: len(looks) > 5)
        watched.missing = False
        await until(lambda: not looks[-1])
        assert await idle() == 0
        watched.watch.look()
        assert await idle() == 1

    run_while(watched, scenario)


def test_step_that_comes_while_looking_is_looked_at(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "_SECONDS_BETWEEN_LOOKS", 0)
    steps: list[Step] = []
    watched.watch = LossWatch(steps, lambda: True, watched.report)
    watched.writes(f"{ENDED}\n")

    async def scenario() -> None:
        watched.watch.look()
        await asyncio.sleep(0)
        steps.append(watched.step)
        await until(lambda: watched.told)

    run_while(watched, scenario)
    assert watched.looks() == ["c-0"]
