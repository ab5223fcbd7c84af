"""Code that is pickled by value keeps the name of its file."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ips_dask_cluster.by_value import ByValue, dump, dumps

SCRIPT = """
def outer(number):
    def inner():
        return 1 / number
    return inner

class Profile:
    def check(self):
        return outer(0)()

inner = outer(0)
made_by_a_lambda = lambda: 1 / 0
"""


@pytest.fixture
def script(tmp_path: Path) -> tuple[str, dict[str, Any]]:
    """The path of a script and what it defines; no module of that name can be imported."""
    path = str(tmp_path / "with a blank.py")
    defined: dict[str, Any] = {"__name__": "nowhere"}
    exec(compile(SCRIPT, path, "exec"), defined)
    return path, defined


def file_of(error: BaseException) -> str:
    assert error.__traceback__ is not None
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    return last.tb_frame.f_code.co_filename


@pytest.mark.parametrize("name", ["inner", "made_by_a_lambda"])
def test_functions_keep_their_file(script: Any, name: str) -> None:
    path, defined = script
    function = pickle.loads(dumps(defined[name]))
    with pytest.raises(ZeroDivisionError) as caught:
        function()
    assert file_of(caught.value) == path


def test_methods_keep_their_file(script: Any) -> None:
    path, defined = script
    with pytest.raises(ZeroDivisionError) as caught:
        pickle.loads(dumps(defined["Profile"]())).check()
    assert file_of(caught.value) == path


def test_a_second_trip_keeps_the_file(script: Any) -> None:
    """A worker sends an isolated function on to its process."""
    path, defined = script
    function = pickle.loads(dumps(pickle.loads(dumps(defined["inner"]))))
    assert function.__code__.co_filename == path


def test_dump_writes_what_dumps_returns(script: Any) -> None:
    file = io.BytesIO()
    dump(script[1]["inner"], file)
    assert file.getvalue() == dumps(script[1]["inner"])


def test_by_value_needs_no_module(script: Any) -> None:
    """Plain pickle would write a reference, which the reader could not resolve."""
    function: Callable[..., Any] = pickle.loads(pickle.dumps(ByValue(file_of)))
    assert function is not file_of
    assert function.__code__.co_filename == __file__
