"""A task as a checked value: the words of a program, the arguments of a callable."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_core.errors import TaskPoolError
from ips_core.tasks.task import Task

Program = Callable[..., Path]
TEXT = st.text(st.characters(exclude_characters="\0"))


def make(binary: Any, *args: Any, nproc: Any = 1, working_dir: str = "/", **keywords: Any) -> Task:
    return Task("t", nproc, working_dir, binary, *args, **keywords)


def attributes(task: Task) -> dict[str, Any]:
    return {name: getattr(task, name) for name in Task.__slots__}


def area(width: float, height: float = 1.0, **more: Any) -> float:
    return width * height


class Worker:
    def step(self, factor: int) -> int:
        return factor

    def __call__(self, factor: int) -> int:
        return factor


# Programs.


def test_whole_task_of_a_program() -> None:
    task = Task(
        "t",
        4,
        "/usr/../bin",
        "/bin/sh",
        "-c",
        "exit 3",
        logfile=Path("logs/a.log"),
        errfile="b.err",
        stdin=Path("in.dat"),
        timeout=3,
        task_env={"A": 1, "B": "x y"},
        gpus=2,
        pin=True,
        mpi=False,
        time_request=60,
        priority=-3,
        retries=5,
        retry_failed=1,
        task_ppn=2,
    )
    assert attributes(task) == {
        "name": "t",
        "nproc": 4,
        "working_dir": "/bin",
        "argv": ("/bin/sh", "-c", "exit 3"),
        "function": None,
        "args": (),
        "kwargs": {},
        "logfile": "logs/a.log",
        "errfile": "b.err",
        "stdin": "in.dat",
        "timeout": 3.0,
        "task_env": {"A": "1", "B": "x y"},
        "isolate": False,
        "gpus": 2,
        "pin": True,
        "mpi": False,
        "time_request": 60.0,
        "priority": -3,
        "retries": 5,
        "retry_failed": 1,
        "launcher": {"task_ppn": 2},
        "program": "/bin/sh",
        "missing": "",
    }
    assert task.payload("pool") == {
        "pool": "pool",
        "name": "t",
        "argv": ["/bin/sh", "-c", "exit 3"],
        "cwd": "/bin",
        "logfile": "logs/a.log",
        "errfile": "b.err",
        "stdin": "in.dat",
        "timeout": 3.0,
        "env": {"A": "1", "B": "x y"},
        "gpus": 2,
        "pin": True,
        "slots": 4,
    }


def test_what_is_default_is_left_out() -> None:
    assert make("/bin/sh").payload("pool") == {
        "pool": "pool",
        "name": "t",
        "argv": ["/bin/sh"],
        "cwd": "/",
    }


@pytest.mark.parametrize("stdin", [b"", b"1 2", bytearray(b"1 2")])
def test_bytes_for_stdin_travel_also_if_there_are_none(stdin: Any) -> None:
    assert make("/bin/sh", stdin=stdin).payload("p")["stdin"] == bytes(stdin)


@pytest.mark.parametrize("task", [make("/bin/sh", "x", timeout=3), make(area, 2, height=3)])
def test_task_survives_pickling_and_cannot_be_changed(task: Task) -> None:
    assert pickle.loads(pickle.dumps(task)) == task
    assert attributes(pickle.loads(pickle.dumps(task))) == attributes(task)
    with pytest.raises(FrozenInstanceError):
        task.nproc = 2  # type: ignore[misc]


@given(st.lists(TEXT))
def test_every_argument_is_one_word_as_it_is(args: list[str]) -> None:
    assert make("/bin/sh", *args).argv == ("/bin/sh", *args)


def test_arguments_become_text() -> None:
    assert make("/bin/sh", 1, 0.5, Path("/a b"), None).argv == (
        *("/bin/sh", "1", "0.5", "/a b", "None"),
    )


def test_program_is_found_on_path(program: Program) -> None:
    path = program("solve")
    assert make("solve").argv == (str(path),)


@pytest.mark.parametrize("kind", [str, Path])
def test_path_with_a_blank_is_taken_whole(program: Program, kind: Callable[[Path], Any]) -> None:
    path = program("my solver")
    assert make(kind(path), "a b").argv == (str(path), "a b")
    assert make("my solver").argv == (str(path),)


@pytest.mark.parametrize(
    ("binary", "words"),
    [
        ("/bin/sh -c 'exit 3' x", ["/bin/sh", "-c", "exit 3", "x"]),
        ('/bin/sh  "a b"', ["/bin/sh", "a b"]),
    ],
)
def test_program_may_bring_arguments(binary: str, words: list[str]) -> None:
    assert make(binary, "last 'one").argv == (*words, "last 'one")


def test_program_of_a_relative_path_is_the_same_in_every_working_directory(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program("solve")
    monkeypatch.chdir(path.parent)
    task = make("./solve", working_dir="/")
    assert task.missing == ""
    assert Path(task.working_dir, task.argv[0]).resolve() == path


@pytest.mark.parametrize(
    ("binary", "argv", "missing"),
    [
        ("solve", ("solve", "x"), "solve"),
        ("solve -n 'a b'", ("solve", "-n", "a b", "x"), "solve"),
        ("/no/solve", ("/no/solve", "x"), "/no/solve"),
        ("", ("", "x"), ""),
    ],
)
def test_missing_program_is_noted(
    program: Program, binary: str, argv: tuple[str, ...], missing: str
) -> None:
    task = make(binary, "x")
    text = f"Program {missing} is not in path or is not executable"
    assert (task.argv, task.missing) == (argv, text)


def test_file_that_cannot_be_executed_is_missing(program: Program) -> None:
    program("solve").chmod(0o644)
    assert make("solve").missing == "Program solve is not in path or is not executable"


def test_missing_directory_is_noted_where_a_process_needs_it() -> None:
    text = "there is no directory /no/such/place"
    assert make("/bin/sh", working_dir="/no/such/place").missing == text
    assert make(area, 1, working_dir="/no/such/place", isolate=True).missing == text
    assert make(area, 1, working_dir="/no/such/place").missing == ""


def test_container_has_the_program_by_the_name_that_was_given(program: Program) -> None:
    path = program("solve")
    task = make("solve -n", "x", working_dir="/no/such/place")
    inside = task.for_container()
    assert (inside.argv, inside.missing) == (("solve", "-n", "x"), "")
    assert task.argv == (str(path), "-n", "x")
    assert task.missing
    callable_ = make(area, 1)
    assert callable_.for_container() == callable_


def test_program_that_appears_is_found(program: Program) -> None:
    """What is remembered of PATH is what was there."""
    assert make("solve").missing
    path = program("solve")
    assert make("solve").argv == (str(path),)


# Callables.


@pytest.mark.parametrize("function", [area, Worker().step, Worker(), len, lambda x: x])
def test_arguments_of_a_callable_stay_what_they_are(function: Callable[..., Any]) -> None:
    value = [1, 2.5]
    task = make(function, value)
    assert (task.function, task.args, task.kwargs) == (function, (value,), {})
    assert task.args[0] is value
    assert task.payload("p") == {
        "pool": "p",
        "name": "t",
        "function": function,
        "args": (value,),
        "kwargs": {},
    }


def test_keywords_that_are_not_ours_go_to_the_callable() -> None:
    task = make(area, 2, height=3, colour="red", logfile="a.log", timeout=5)
    assert task.kwargs == {"height": 3, "colour": "red"}
    assert (task.logfile, task.timeout) == ("a.log", 5.0)


@pytest.mark.parametrize(
    "keywords",
    [
        {"isolate": True},
        {"timeout": 3},
        {"task_env": {"A": "1"}},
        {"logfile": "a"},
        {"errfile": "a"},
        {"stdin": b"x"},
        {"stdin": b""},
        {"gpus": 1},
    ],
)
def test_callable_with_what_only_a_process_has_gets_one(keywords: dict[str, Any]) -> None:
    task = make(area, 1, **keywords)
    assert task.isolate
    assert task.payload("p")["isolate"] is True
    assert task.payload("p")["cwd"] == "/"


def test_callable_in_this_process_has_no_directory() -> None:
    assert not make(area, 1, pin=True, priority=3, nproc=2).isolate
    assert "cwd" not in make(area, 1).payload("p")


@pytest.mark.parametrize(
    ("keywords", "plain"),
    [
        ({}, True),
        ({"timeout": 3, "logfile": "a", "task_env": {"A": "1"}, "stdin": b"x"}, True),
        ({"retries": 0, "retry_failed": 3, "mpi": False}, True),
        ({"nproc": 2}, False),
        ({"gpus": 1}, False),
        ({"priority": -1}, False),
        ({"pin": True}, False),
        ({"mpi": True}, False),
        ({"time_request": 5}, False),
    ],
)
def test_plain_is_what_has_no_wish_of_its_own(keywords: dict[str, Any], plain: bool) -> None:
    assert make("/bin/sh", **keywords).is_plain is plain
    assert not make(area, 1, isolate=True).is_plain


def test_keyword_that_a_callable_names_itself_is_its_own() -> None:
    def solve(grid: int, timeout: float = 1.0) -> None:
        """As a solver may be written."""

    task = make(solve, 3, timeout=5, logfile="a.log")
    assert (task.kwargs, task.timeout, task.logfile) == ({"timeout": 5}, None, "a.log")


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (make("/bin/sh", "-c", "a b"), "/bin/sh -c a b"),
        (make(area, 2, height=0.5), "area(2,height=0.5)"),
        (make(Worker().step, 3), "step(3)"),
        (make(Worker(), 3), "Worker(3)"),
    ],
)
def test_task_in_words(task: Task, words: str) -> None:
    assert task.target == words


class Unspeakable:
    """An argument that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_target_is_short_and_there_whatever_the_arguments_are() -> None:
    task = make(print, Unspeakable(), list(range(100_000)), end=Unspeakable())
    assert task.target.startswith("print(<Unspeakable>,[0, 1, 2,")
    assert task.target.endswith("...,end=<Unspeakable>)")
    assert len(task.target) < 300


# What makes no sense.


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (
            ("/bin/sh",),
            {"isolate": True},
            "task t: isolate= is for callables; a program always is",
        ),
        (
            (area, 1),
            {"isolate": False, "timeout": 3},
            "task t: timeout= of a callable needs a process of its own: leave out isolate=False",
        ),
        ((area, 1), {"mpi": True}, "task t: mpi=True is for programs"),
        (
            ("/bin/sh",),
            {"logfil": "a"},
            "task t: unknown keyword logfil; did you mean logfile?",
        ),
        (
            ("/bin/sh",),
            {"time_out": 3},
            "task t: unknown keyword time_out; did you mean timeout?",
        ),
        (("/bin/sh",), {"xyzzy": 3}, "task t: unknown keyword xyzzy"),
        (
            (area,),
            {},
            "task t: area() cannot be called so: missing a required argument: 'width'",
        ),
        ((area, 1, 2, 3), {}, "task t: area() cannot be called so: too many positional arguments"),
        (
            (Worker().step, 1),
            {"factr": 2},
            "task t: step() cannot be called so: got an unexpected keyword argument 'factr'; "
            "did you mean factor?",
        ),
        ((3,), {}, "task t: expected the path of a program or a callable, found int"),
        ((None,), {}, "task t: expected the path of a program or a callable, found NoneType"),
    ],
)
def test_error_names_the_task(
    arguments: tuple[Any, ...], keywords: dict[str, Any], message: str
) -> None:
    with pytest.raises(TaskPoolError) as caught:
        make(*arguments, **keywords)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("binary", "keywords", "key"),
    [
        ("/bin/sh", {"timeout": "soon"}, "timeout = 'soon'"),
        ("/bin/sh", {"timeout": 0}, "timeout = 0: expected a number of seconds above 0"),
        ("/bin/sh", {"timeout": -1}, "timeout = -1: "),
        ("/bin/sh", {"timeout": float("inf")}, "timeout = inf: "),
        ("/bin/sh", {"timeout": float("nan")}, "timeout = nan: "),
        ("/bin/sh", {"time_request": "1h"}, "time_request = '1h'"),
        ("/bin/sh", {"nproc": "many"}, "nproc = 'many'"),
        ("/bin/sh", {"nproc": 0}, "nproc = 0: expected a whole number of 1 or more"),
        ("/bin/sh", {"nproc": 1.5}, "nproc = 1.5: "),
        ("/bin/sh", {"nproc": None}, "nproc = None: "),
        ("/bin/sh", {"gpus": -1}, "gpus = -1: expected a whole number of 0 or more"),
        ("/bin/sh", {"gpus": None}, "gpus = None: "),
        ("/bin/sh", {"pin": "yes"}, "pin = 'yes': expected True or False"),
        ("/bin/sh", {"mpi": 1}, "mpi = 1: expected True or False"),
        ("/bin/sh", {"priority": "high"}, "priority = 'high': expected a whole number"),
        ("/bin/sh", {"priority": 1.5}, "priority = 1.5: expected a whole number"),
        ("/bin/sh", {"retries": -1}, "retries = -1: "),
        ("/bin/sh", {"logfile": 3}, "logfile = 3: expected a path"),
        ("/bin/sh", {"stdin": 3}, "stdin = 3: expected a path, or bytes"),
        ("/bin/sh", {"task_env": ["A"]}, "task_env = ['A']"),
        ("/bin/sh -c 'no end", {}, "binary = "),
    ],
)
def test_parameter_that_makes_no_sense_is_an_error_that_names_it(
    binary: str, keywords: dict[str, Any], key: str
) -> None:
    with pytest.raises(TaskPoolError) as caught:
        make(binary, **keywords)
    assert str(caught.value).startswith(f"task t: {key}")


def test_keywords_of_launch_task_are_kept_for_pools_without_dask() -> None:
    names = ("task_ppn", "task_cpp", "task_gpp", "omp", "block", "tag", "whole_nodes")
    keywords = dict.fromkeys((*names, "whole_sockets"), 1) | {"launch_cmd_extra_args": "-x"}
    assert make("/bin/sh", **keywords).launcher == keywords
    assert make("/bin/sh", **keywords).payload("p") == make("/bin/sh").payload("p")
    task = make(area, 1, **keywords)
    assert (task.launcher, task.kwargs) == (keywords, {})


def test_working_directory_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    assert make("/bin/sh", working_dir="sub").working_dir == os.path.join(tmp_path, "sub")
