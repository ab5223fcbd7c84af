"""A task as a checked value: the words of a program, the arguments of a callable."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_core.errors import TaskPoolError
from ips_core.pools.task import Task, make_task

Program = Callable[..., Path]
TEXT = st.text(st.characters(exclude_characters="\0"))


def make(binary: Any, *args: Any, nproc: int = 1, working_dir: str = "/w", **keywords: Any) -> Task:
    return make_task("t", nproc, working_dir, binary, args, keywords)


def area(width: float, height: float = 1.0, **more: Any) -> float:
    return width * height


class Worker:
    def step(self, factor: int) -> int:
        return factor

    def __call__(self, factor: int) -> int:
        return factor


# Programs.


def test_whole_task_of_a_program() -> None:
    task = make(
        "/bin/sh",
        "-c",
        "exit 3",
        working_dir="/w/../x",
        logfile=Path("logs/a.log"),
        errfile="b.err",
        timeout=3,
        task_env={"A": 1, "B": "x y"},
    )
    assert task == Task(
        "t",
        "/x",
        ("/bin/sh", "-c", "exit 3"),
        logfile="logs/a.log",
        errfile="b.err",
        timeout=3.0,
        env={"A": "1", "B": "x y"},
    )
    assert task.payload("pool") == {
        "pool": "pool",
        "name": "t",
        "argv": ["/bin/sh", "-c", "exit 3"],
        "cwd": "/x",
        "logfile": "logs/a.log",
        "errfile": "b.err",
        "timeout": 3.0,
        "env": {"A": "1", "B": "x y"},
    }


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
    assert make(kind(path), "a b") == Task("t", "/w", (str(path), "a b"))
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
    assert (task.argv, task.missing) == (argv, missing)


def test_file_that_cannot_be_executed_is_missing(program: Program) -> None:
    program("solve").chmod(0o644)
    assert make("solve").missing == "solve"


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


# What makes no sense.

NPROC = (
    "task t: nproc = 2, but tasks of a Dask pool have one process; "
    "use launch_task for a program that is parallel itself"
)


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (("/bin/sh",), {"nproc": 2}, NPROC),
        ((area, 1), {"nproc": 2}, NPROC),
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
            "task t: step() cannot be called so: got an unexpected keyword argument 'factr'",
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
        ("/bin/sh", {"nproc": "many"}, "nproc = 'many'"),
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


def test_keywords_of_launch_task_are_accepted(tmp_path: Path) -> None:
    keywords = dict.fromkeys(
        ("task_ppn", "task_cpp", "task_gpp", "omp", "block", "tag", "whole_nodes", "whole_sockets"),
        1,
    )
    assert make("/bin/sh", **keywords, launch_cmd_extra_args="-x") == make("/bin/sh")


def test_working_directory_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert make("/bin/sh", working_dir="sub").working_dir == os.path.join(tmp_path, "sub")
