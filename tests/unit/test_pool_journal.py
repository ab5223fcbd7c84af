"""What one run notes of its pools, and what the next one makes of it."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import gc
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_core.errors import TaskPoolError
from ips_core.pools.resume_log import ResumeLog, ResumeLogRun
from ips_core.tasks.record import TaskRecord
from ips_core.tasks.runner import Journal

WORK = "0123456789abcdef"
LARGE = "x" * 5000


def record(name: str = "a", value: Any = None, **fields: Any) -> TaskRecord:
    """What became of a task that went well."""
    return TaskRecord(
        name,
        **{"status": "finished", "exit_status": 0, "value": value, "host": "nid1", "attempts": 1}
        | {"start_time": 1000.25, "elapsed_time": 0.5}
        | fields,
    )


class Runs:
    """Runs of a simulation, one after the other: each call of ``next`` begins another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []
        self._journal: ResumeLog | None = None

    def next(self) -> ResumeLog:
        self.end()
        self._journal = ResumeLog(self.path, self.warnings.append)
        return self._journal

    def end(self) -> None:
        if self._journal is not None:
            self._journal.close()


def submitted(journal: ResumeLog, pool: str = "scan", resume: bool = True) -> ResumeLogRun:
    """A submission that has begun; its run's name is unique."""
    submission = journal.submission(pool, resume)
    submission.began(f"{pool}-{id(submission)}-{os.getpid()}")
    return submission


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    made = Runs(tmp_path / "log" / "sim@Driver@1.tasks")
    yield made
    made.end()


def lines(runs: Runs) -> list[dict[str, Any]]:
    return [json.loads(line) for line in runs.path.read_bytes().splitlines()]


# What was noted is found.


@pytest.mark.parametrize(
    "noted",
    [
        record(is_program=True),
        record(value=(1, 2.5, {"psi": [1]}), slots=4, worker="c-0", attempts=3),
        record(value=LARGE),
        record("odd \udcff\n name", value=b"\x00"),
        record("long" * 10_000),
    ],
)
def test_record_of_the_run_before_is_found(runs: Runs, noted: TaskRecord) -> None:
    submitted(runs.next()).ended([(WORK, noted), (WORK, record("other"))])
    submission = runs.next().submission("scan", resume=True)
    assert submission.find(noted.name, WORK, noted.is_program) == noted
    assert submission.find("other", WORK, False) == record("other")
    assert submission.find("third", WORK, False) is None
    assert runs.warnings == []


def test_other_work_runs_again_and_replaces_it(runs: Runs) -> None:
    submitted(runs.next()).ended([(WORK, record(value=1))])
    submission = submitted(runs.next())
    assert submission.find("a", "f" * 16, False) is None
    submission.ended([("f" * 16, record(value=2))])
    submission = runs.next().submission("scan", resume=True)
    assert submission.find("a", "f" * 16, False) == record(value=2)
    assert submission.find("a", WORK, False) is None


@pytest.mark.parametrize(
    "status", ["failed", "timed_out", "cancelled", "lost", "result_lost", "not_started"]
)
def test_only_success_is_noted(runs: Runs, status: str) -> None:
    submission = submitted(runs.next())
    before = runs.path.read_bytes()
    submission.ended([(WORK, record(status=status))])
    assert runs.path.read_bytes() == before


def test_work_without_a_digest_is_never_the_same(runs: Runs) -> None:
    submitted(runs.next()).ended([("", record())])
    assert runs.next().submission("scan", resume=True).find("a", "", False) is None
    assert [line for line in lines(runs) if "task" in line] == []


def test_kth_submission_is_that_of_the_run_before(runs: Runs) -> None:
    journal = runs.next()
    for value in (1, 2):
        submitted(journal).ended([(WORK, record(value=value))])
    submitted(journal, "other").ended([(WORK, record(value=3))])
    journal = runs.next()
    assert submitted(journal, "other").find("a", WORK, False) == record(value=3)
    assert submitted(journal).find("a", WORK, False) == record(value=1)
    journal.submission("scan", resume=True)  # could not begin: does not count
    assert submitted(journal).find("a", WORK, False) == record(value=2)
    assert submitted(journal).find("a", WORK, False) is None


def test_third_run_has_what_the_first_two_did(runs: Runs) -> None:
    submitted(runs.next()).ended([(WORK, record("a"))])
    submitted(runs.next()).ended([(WORK, record("b"))])
    submission = submitted(runs.next())
    assert [submission.find(name, WORK, False) for name in "ab"] == [record("a"), record("b")]


# A new beginning.


def test_run_without_resume_forgets_and_deletes_nothing(runs: Runs) -> None:
    submitted(runs.next()).ended([(WORK, record("a"))])
    submitted(journal := runs.next(), "kept").ended([(WORK, record("k"))])
    submission = submitted(journal, resume=False)
    assert submission.find("a", WORK, False) is None
    submission.ended([(WORK, record("b"))])
    submitted(journal, resume=False).ended([(WORK, record("c"))])
    journal = runs.next()
    first, second = submitted(journal), submitted(journal)
    assert [first.find(name, WORK, False) for name in "ab"] == [None, record("b")]
    assert second.find("c", WORK, False) == record("c")
    assert submitted(journal, "kept").find("k", WORK, False) == record("k")
    assert "a" in [line.get("task") for line in lines(runs)]


def test_submission_that_never_began_forgets_nothing(runs: Runs) -> None:
    submitted(runs.next()).ended([(WORK, record())])
    runs.next().submission("scan", resume=False)
    assert submitted(runs.next()).find("a", WORK, False) == record()


def test_pool_that_changes_its_mind_finds_nothing_forgotten(runs: Runs) -> None:
    journal = runs.next()
    for _ in range(2):
        submitted(journal).ended([(WORK, record())])
    journal = runs.next()
    submitted(journal, "other")  # has read the journal
    assert journal.submission("scan", resume=False).find("a", WORK, False) is None
    submitted(journal, resume=False)
    assert submitted(journal, resume=True).find("a", WORK, False) is None


_PROGRAM = st.lists(
    st.tuples(st.booleans(), st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("12")))),
    max_size=4,
)


@given(_PROGRAM)
def test_any_runs_agree_with_a_dict(
    tmp_path_factory: pytest.TempPathFactory, program: list[tuple[bool, list[tuple[str, str]]]]
) -> None:
    runs = Runs(tmp_path_factory.mktemp("runs") / "a.tasks")
    known: dict[str, tuple[str, int]] = {}
    for number, (resume, tasks) in enumerate(program):
        submission = submitted(runs.next(), resume=resume)
        known = known if resume else {}
        submission.ended([(work, record(name, value=number)) for name, work in tasks])
        known = known | {name: (work, number) for name, work in tasks}
    submission = submitted(runs.next())
    for name in "abc":
        for work in "12":
            noted = known.get(name)
            found = submission.find(name, work, False)
            assert (found and found.value) == (noted[1] if noted and noted[0] == work else None)
    runs.end()


# Values.


def test_large_value_has_a_private_file(runs: Runs) -> None:
    submitted(runs.next()).ended([(WORK, record(value=LARGE))])
    folder = runs.path.with_name(f"{runs.path.name}.d")
    (file,) = folder.iterdir()
    assert pickle.loads(file.read_bytes()) == LARGE
    assert [path.stat().st_mode & 0o777 for path in (folder, file, runs.path)] == [
        0o700,
        0o600,
        0o600,
    ]


def test_large_value_without_resume_is_dropped_and_its_task_runs_again(runs: Runs) -> None:
    values = [("a", LARGE), ("b", LARGE), ("c", "short")]
    submission = submitted(runs.next(), resume=False)
    submission.ended([(WORK, record(name, value)) for name, value in values])
    submission = submitted(runs.next())
    assert [submission.find(name, WORK, False) for name, _ in values] == [
        None,
        None,
        record("c", "short"),
    ]
    (warning,) = runs.warnings
    assert "task a of pool scan runs again: its result was not kept" in warning
    assert not runs.path.with_name(f"{runs.path.name}.d").exists()


def test_4_kb_is_the_limit(runs: Runs) -> None:
    size = 4096 - len(cloudpickle.dumps(b"x" * 4000)) + 4000
    submission = submitted(runs.next(), resume=False)
    submission.ended([(WORK, record("a", b"x" * size)), (WORK, record("b", b"x" * (size + 1)))])
    assert [line.get("dropped") for line in lines(runs) if "task" in line] == [None, True]


def test_value_that_cannot_be_pickled_costs_only_itself(runs: Runs) -> None:
    values: list[tuple[str, Any]] = [("a", (each for each in ())), ("c", 1)]
    values.append(("b", [LARGE * 20, (each for each in ())]))
    submitted(runs.next()).ended([(WORK, record(name, value)) for name, value in values])
    submission = submitted(runs.next())
    assert [submission.find(name, WORK, False) for name in "abc"] == [None, None, record("c", 1)]
    assert list(runs.path.with_name(f"{runs.path.name}.d").iterdir()) == []
    assert "a result cannot be kept: TypeError" in runs.warnings[0]


def test_value_whose_class_is_gone_runs_again(runs: Runs, tmp_path: Path) -> None:
    code = "import sys, types\nclass Gone: pass\nGone.__module__ = 'gone'\n" + _NOTE_AND_END
    code = code.replace("VALUE", "Gone()").replace(
        "# PREPARE", "sys.modules['gone'] = types.ModuleType('gone'); sys.modules['gone'].Gone=Gone"
    )
    done = subprocess.run([sys.executable, "-c", code, runs.path], timeout=60)
    assert done.returncode == -signal.SIGKILL
    submission = submitted(runs.next())
    assert submission.find("a", WORK, False) is None
    (warning,) = runs.warnings
    assert "task a of pool scan runs again: its result cannot be read: ModuleNotFound" in warning


def test_value_whose_file_is_gone_runs_again(runs: Runs) -> None:
    submitted(runs.next()).ended([(WORK, record(value=LARGE))])
    (file,) = runs.path.with_name(f"{runs.path.name}.d").iterdir()
    file.unlink()
    assert submitted(runs.next()).find("a", WORK, False) is None
    assert "runs again: its result cannot be read: FileNotFoundError" in runs.warnings[0]


# Death, and full disks.

_NOTE_AND_END = """
import os, pathlib, signal, sys
from ips_core.pools.resume_log import ResumeLog
from ips_core.tasks.record import TaskRecord
# PREPARE
submission = ResumeLog(pathlib.Path(sys.argv[1]), print).submission("scan", True)
submission.began("scan-1")
submission.ended([("0123456789abcdef", TaskRecord("a", "finished", value=VALUE))])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_run_leaves_what_it_noted_and_no_lock(runs: Runs) -> None:
    code = _NOTE_AND_END.replace("VALUE", "[1, 2]")
    done = subprocess.run([sys.executable, "-c", code, runs.path], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert submitted(runs.next()).find("a", WORK, False) == TaskRecord(
        "a", "finished", value=[1, 2]
    )


@pytest.mark.parametrize("cut", [1, 7, 40, 100])
def test_half_a_line_is_passed_over_and_the_next_is_whole(runs: Runs, cut: int) -> None:
    submission = submitted(runs.next())
    submission.ended([(WORK, record("a"))])
    submission.ended([(WORK, record("b"))])
    runs.end()
    runs.path.write_bytes(runs.path.read_bytes()[:-cut])
    submission = submitted(runs.next())
    assert [submission.find(name, WORK, False) for name in "ab"] == [record("a"), None]
    submission.ended([(WORK, record("c"))])
    submission = submitted(runs.next())
    assert submission.find("c", WORK, False) == record("c")
    assert runs.warnings == []
    assert len(re.findall(rb'(?m)^\{"submission": .*\}$', runs.path.read_bytes())) == 3


def test_lines_that_are_no_lines_of_ours_are_passed_over(runs: Runs) -> None:
    submitted(runs.next()).ended([(WORK, record("a"))])
    runs.end()
    with open(runs.path, "ab") as file:
        file.write(b'\x00\x00\n[1]\n7\n{"task": "a"}\n{"submission": "b"}\n{"later": 1}\n\xff\n')
    submission = submitted(runs.next())
    assert submission.find("a", WORK, False) == record("a")


def test_full_disk_is_said_once(runs: Runs) -> None:
    runs.path.parent.mkdir()
    runs.path.symlink_to("/dev/full")
    submission = submitted(runs.next(), resume=False)  # there is no end to read to in /dev/full
    for name in "ab":
        submission.ended([(WORK, record(name))])
    (warning,) = runs.warnings
    assert warning.startswith(f"{runs.path}: No space left on device")


def test_disk_that_is_full_for_a_while(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    submission = submitted(runs.next())
    write = os.write

    def half(file: int, text: bytes) -> int:
        if len(text) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, text[: len(text) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        submission.ended([(WORK, record("a"))])
    submission.ended([(WORK, record("b"))])
    submission = submitted(runs.next())
    assert [submission.find(name, WORK, False) for name in "ab"] == [None, record("b")]


def test_large_value_on_a_full_disk(runs: Runs) -> None:
    submission = submitted(runs.next())
    runs.path.with_name(f"{runs.path.name}.d").write_text("in the way")
    submission.ended([(WORK, record("a", LARGE)), (WORK, record("b"))])
    assert "a result cannot be kept: " in runs.warnings[0]
    assert submitted(runs.next()).find("b", WORK, False) == record("b")


def test_batch_is_one_write(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    submission = submitted(runs.next())
    sizes = []
    write = os.write

    def counted(file: int, text: bytes) -> int:
        sizes.append(len(text))
        return write(file, text)

    monkeypatch.setattr(os, "write", counted)
    submission.ended((WORK, record(str(number))) for number in range(100))
    submission.ended([])
    assert len(sizes) == 1


# Two at once.


def test_two_runs_at_once_cannot_both_resume(runs: Runs) -> None:
    submitted(runs.next()).ended([(WORK, record("a"))])
    second = Runs(runs.path)
    with pytest.raises(TaskPoolError) as caught:
        second.next().submission("scan", resume=True)
    assert str(pickle.loads(pickle.dumps(caught.value))) == (
        f"pool scan cannot be resumed from {runs.path}: another run has it; wait for its end, "
        "or use another SIM_ROOT"
    )
    runs.end()
    assert submitted(second.next()).find("a", WORK, False) == record("a")
    second.end()


def test_second_run_without_resume_goes_on_and_notes_nothing(runs: Runs) -> None:
    submitted(runs.next()).ended([(WORK, record("a"))])
    before = runs.path.read_bytes()
    second = Runs(runs.path)
    submission = submitted(second.next(), resume=False)
    submission.ended([(WORK, record("b"))])
    assert submission.find("b", WORK, False) is None
    assert runs.path.read_bytes() == before
    assert [warning.partition(": ")[2] for warning in second.warnings] == [
        "another run has it; wait for its end, or use another SIM_ROOT; this run cannot be resumed"
    ]


def test_file_system_without_locks(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: int, how: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    submitted(runs.next()).ended([(WORK, record("a"))])
    assert submitted(runs.next()).find("a", WORK, False) == record("a")
    assert "this file system has no locks" in runs.warnings[0]


def test_journal_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    runs = Runs(tmp_path / "file" / "a.tasks")
    journal = runs.next()
    with pytest.raises(TaskPoolError, match=r"cannot be resumed from .*: it cannot be opened: "):
        journal.submission("scan", resume=True)
    submitted(journal, resume=False).ended([(WORK, record())])
    assert len(runs.warnings) == 1


def test_closed_journal_takes_nothing_and_has_nothing(runs: Runs) -> None:
    journal = runs.next()
    submission = submitted(journal)
    journal.close()
    before = runs.path.read_bytes()
    submission.ended([(WORK, record())])
    assert (runs.path.read_bytes(), submission.find("a", WORK, False)) == (before, None)
    with pytest.raises(TaskPoolError, match="it was closed"):
        journal.submission("scan", resume=True)


# What only the workers knew.


@pytest.fixture
def worker(tmp_path: Path) -> Callable[..., None]:
    """``worker(run, record, work)``: a worker notes in ``cluster/`` that a task has ended."""
    directory = tmp_path / "cluster"
    directory.mkdir()
    journal = Journal(str(directory), "c-0")

    def end(run: str, noted: TaskRecord, work: str = WORK) -> None:
        found = {name: getattr(noted, name) for name in ("name", "status", "exit_status", "value")}
        found |= {"host": noted.host, "worker": noted.worker, "start_time": noted.start_time}
        found |= {"elapsed_time": noted.elapsed_time, "pool": run, "work": work}
        key = f"{noted.name}-{noted.start_time}"
        journal.begun(key, cloudpickle.dumps({"pool": run, "name": noted.name}))
        journal.ended(key, cloudpickle.dumps(found))

    return end


def begin(runs: Runs, directory: Path, run: str, resume: bool = True) -> ResumeLogRun:
    submission = runs.next().submission("scan", resume)
    submission.began(run, directory)
    return submission


def test_what_only_a_worker_knew_counts(
    runs: Runs, tmp_path: Path, worker: Callable[..., None]
) -> None:
    directory = tmp_path / "cluster"
    begin(runs, directory, "scan-1").ended([(WORK, record("a", 1))])
    worker("scan-1", record("a", 1))
    worker("scan-1", record("b", [2]))
    worker("scan-1", record("c", LARGE))
    worker("scan-1", record("d", status="failed"))
    worker("other-1", record("e", 5))
    worker("scan-1", record("f", 6), work="")
    submission = submitted(runs.next())
    expected = [record("a", 1), record("b", [2]), record("c", LARGE), None, None, None]
    assert [submission.find(name, WORK, False) for name in "abcdef"] == expected
    assert submission.find("a", WORK, True) == record("a", 1, is_program=True)
    # it has been copied, and only once
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    submission = submitted(runs.next())
    assert [submission.find(name, WORK, False) for name in "abcdef"] == expected
    assert sorted(line["task"] for line in lines(runs) if "task" in line) == ["a", "b", "c"]
    assert runs.warnings == []


def test_later_attempt_that_only_a_worker_knew_replaces_the_earlier(
    runs: Runs, tmp_path: Path, worker: Callable[..., None]
) -> None:
    begin(runs, tmp_path / "cluster", "scan-1").ended([(WORK, record("a", 1))])
    begin(runs, tmp_path / "cluster", "scan-2")
    later = record("a", 2, start_time=2000.0)
    worker("scan-2", later, work="f" * 16)
    assert submitted(runs.next()).find("a", "f" * 16, False) == later


def test_workers_of_a_run_that_is_forgotten_are_not_asked(
    runs: Runs, tmp_path: Path, worker: Callable[..., None]
) -> None:
    begin(runs, tmp_path / "cluster", "scan-1")
    worker("scan-1", record("a"))
    submitted(runs.next(), resume=False)
    assert submitted(runs.next()).find("a", WORK, False) is None


def test_workers_of_this_run_are_not_asked(
    runs: Runs, tmp_path: Path, worker: Callable[..., None]
) -> None:
    """They tell of themselves."""
    journal = runs.next()
    journal.submission("scan", resume=False).began("scan-1", tmp_path / "cluster")
    worker("scan-1", record("a"))
    submitted(journal, "other")
    assert [line for line in lines(runs) if "task" in line] == []


def test_worker_journal_that_is_damaged_costs_only_its_line(
    runs: Runs, tmp_path: Path, worker: Callable[..., None]
) -> None:
    begin(runs, tmp_path / "cluster", "scan-1")
    worker("scan-1", record("a"))
    (path,) = (tmp_path / "cluster").glob("*.journal")
    with open(path, "ab") as file:
        file.write(b'{"key": "x", "ended": "AAAA"}\n{"key": "y", "file": "none"}\n[]\n\xff\n')
    worker("scan-1", record("b"))
    with open(path, "ab") as file:
        file.write(b'{"key": "')
    submission = submitted(runs.next())
    assert [submission.find(name, WORK, False) for name in "ab"] == [record("a"), record("b")]


# How much it costs.


def test_reading_keeps_little_of_each_task(runs: Runs) -> None:
    number = 5000
    noted = [(WORK, record(f"task_{each:06d}", "y" * 1000)) for each in range(number)]
    submitted(runs.next()).ended(noted)
    journal = runs.next()
    gc.collect()
    tracemalloc.start()
    try:
        submission = journal.submission("scan", resume=True)
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept / number < 500
    assert submission.find("task_004999", WORK, False) == dataclasses.replace(
        noted[0][1], name="task_004999"
    )
