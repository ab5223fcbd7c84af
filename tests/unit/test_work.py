"""Same work, same digest, also in another process; other work, another digest."""

from __future__ import annotations

import ast
import functools
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ips_core.component import Component
from ips_core.pools.fingerprint import fingerprint

_DEFAULTS: dict[str, Any] = {
    "argv": (),
    "working_dir": "/scratch/run",
    "task_env": {},
    "stdin": None,
    "nproc": 1,
    "function": None,
    "args": (),
    "kwargs": {},
    "isolate": False,
}


def digest(**attributes: Any) -> str:
    """The digest of a task with these attributes."""
    task: Any = SimpleNamespace(**(_DEFAULTS | attributes))
    return fingerprint(task)


def of_call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    return digest(function=function, args=args, kwargs=kwargs)


def compiled(source: str, name: str = "f") -> Any:
    """A function from source, as the module ``physics`` has it."""
    module = ModuleType("physics")
    exec(source, module.__dict__)
    return module.__dict__[name]


# Programs.

ECHO: dict[str, Any] = {"argv": ("/bin/echo", "a b")}


@pytest.mark.parametrize(
    "other",
    [
        {"argv": ("/usr/bin/echo", "a b")},
        {"argv": ("/bin/echo", "a", "b")},
        {"working_dir": "/scratch/other"},
        {"task_env": {"A": "1"}},
        {"stdin": "input"},
        {"stdin": b"input"},
        {"nproc": 2},
    ],
)
def test_program_is_other_work(other: dict[str, Any]) -> None:
    assert digest(**ECHO) != digest(**ECHO | other)


def test_program_is_the_same_work() -> None:
    several = digest(**ECHO, task_env={"A": "1", "B": "2"})
    assert len(several) == 16
    assert int(several, 16) >= 0
    assert several == digest(**ECHO, task_env={"B": "2", "A": "1"}, kwargs={"passed": "over"})
    assert digest(**ECHO, stdin="input") != digest(**ECHO, stdin=b"input")
    assert digest(argv=("/bin/echo", "\udcff"))


# Functions.

MOVED = "import os\n\n# explained\n"
BODY = "def f(x, y=1):\n    return x + y"


@pytest.mark.parametrize(
    "other",
    [
        "def f(x, y=1):\n    return x - y",
        "def f(x, y=2):\n    return x + y",
        "def f(x, *, y=1):\n    return x + y",
        "def f(x, /, y=1):\n    return x + y",
        "def f(x, z=1):\n    return x + z",
        "def f(x, y=1):\n    return x + y + 0",
        "async def f(x, y=1):\n    return x + y",
        "def f(x, y=1):\n    return (lambda: x + y)()",
    ],
)
def test_function_is_other_work(other: str) -> None:
    assert of_call(compiled(BODY), 1) != of_call(compiled(other), 1)


def test_function_that_only_stands_elsewhere_is_the_same_work() -> None:
    moved = MOVED + BODY.replace("\n", "\n    # why\n")
    assert of_call(compiled(BODY), 1) == of_call(compiled(moved), 1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(): return 1", "def f(): return 1.0"),
        ("def f(): return 0.0", "def f(): return -0.0"),
        ("def f(x): return x in {'a', 'b'}", "def f(x): return x in {'a', 'c'}"),
        ("def f(x): return x in {'a', 'b'}", "def f(x): return x in ('a', 'b')"),
        ("def f(): return lambda: 1", "def f(): return lambda: 2"),
        ("def f(*, x=1): return x", "def f(*, x=2): return x"),
        ("def g(): return 1\ndef f(): return g()", "def g(): return 2\ndef f(): return g()"),
        (
            "def g(): return 1\ndef f(): return [g() for _ in '1']",
            "def g(): return 2\ndef f(): return [g() for _ in '1']",
        ),
    ],
)
def test_constants_and_functions_that_it_calls_make_the_work(one: str, other: str) -> None:
    assert of_call(compiled(one)) != of_call(compiled(other))
    assert of_call(compiled(one)) == of_call(compiled(one))


def test_function_that_is_defined_anew_is_seen_by_its_callers() -> None:
    caller = compiled("def g(): return 1\ndef f(): return g()")
    before = of_call(caller)
    exec("def g(): return 2", caller.__globals__)
    assert of_call(caller) != before
    exec("def g(): return 1", caller.__globals__)
    assert of_call(caller) == before


def test_functions_that_call_each_other_have_an_end() -> None:
    source = "def f(n): return n and g(n - 1)\ndef g(n): return n and f(n - 1)"
    assert of_call(compiled(source), 3) == of_call(compiled(MOVED + source), 3)


@pytest.mark.parametrize("other", [((2,), {}), ((1.0,), {}), ((1,), {"y": 1}), (("1",), {})])
def test_other_arguments_are_other_work(other: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    assert of_call(compiled(BODY), 1) != of_call(compiled(BODY), *other[0], **other[1])


def test_what_a_function_encloses_makes_the_work() -> None:
    def scaled(factor: Any) -> Callable[[int], Any]:
        return lambda x: x * factor

    assert of_call(scaled(2), 1) == of_call(scaled(2), 1)
    assert of_call(scaled(2), 1) != of_call(scaled(3), 1)
    assert of_call(functools.partial(scaled(2), 1)) != of_call(functools.partial(scaled(2), 2))
    assert of_call(map, scaled(2), [1]) != of_call(map, scaled(3), [1])


def test_function_that_encloses_itself() -> None:
    source = """
def scaled(n):
    def f(x):
        return x and n * f(x - 1)
    return f
f = scaled(2)
"""
    before = of_call(compiled(source), 3)
    assert before == of_call(compiled(MOVED + source), 3)
    assert before != of_call(compiled(source.replace("scaled(2)", "scaled(3)")), 3)


def test_builtins_and_classes() -> None:
    found = [of_call(math.sin, 1.0), of_call(math.cos, 1.0), of_call(Path, "a"), of_call(str, "a")]
    assert all(found)
    assert len(set(found)) == len(found)


def test_classes_and_modules_are_their_names() -> None:
    source = "class Grid:\n    size = 3\ndef f(x): pass"
    for arguments in ([os, "a"], ["class"], ["instance"]):
        digests = set()
        for moved in ("", MOVED):
            f = compiled(moved + source)
            grid = f.__globals__["Grid"]
            known = {"class": grid, "instance": grid()}
            digests.add(of_call(f, [known.get(str(each), each) for each in arguments]))
        assert len(digests) == 1
    assert of_call(compiled(source), os) != of_call(compiled(source), math)


def test_surroundings_count_for_a_process_only() -> None:
    function = compiled(BODY)
    assert digest(function=function) == digest(function=function, working_dir="/elsewhere")
    alone = digest(function=function, isolate=True)
    assert alone != digest(function=function)
    assert alone != digest(function=function, isolate=True, working_dir="/elsewhere")


def test_what_cannot_be_pickled_has_no_digest() -> None:
    assert of_call(compiled(BODY), threading.Lock()) == ""


def test_what_only_cloudpickle_knows_has_one() -> None:
    assert of_call(compiled(BODY), {"a": 1}.keys()) == of_call(compiled(BODY), {"a": 1}.keys())
    assert of_call(compiled(BODY), {"a": 1}.keys()) != of_call(compiled(BODY), {"b": 1}.keys())


# Methods.


class Scan(Component):
    def point(self, x: float) -> float:
        return x

    def other(self, x: float) -> float:
        return x


def test_component_is_its_attributes_whoever_calls_it() -> None:
    scan = Scan(threading.Lock(), {"SHOT": "1"})
    before = of_call(scan.point, 1)
    assert len(before) == 16
    scan._begin_call(7, "step", (1.0,), 1234.5)
    assert of_call(scan.point, 1) == before == of_call(Scan(None, {"SHOT": "1"}).point, 1)
    assert of_call(scan.other, 1) != before
    scan.SHOT = "2"  # type: ignore[attr-defined]
    assert of_call(scan.point, 1) != before


def test_plain_object_is_its_attributes_and_the_code_of_its_method() -> None:
    source = """
class Grid:
    def __init__(self, size):
        self.size = size
    def solve(self):
        return self.size + 1
"""
    grid = compiled(source, "Grid")
    before = of_call(grid(3).solve)
    assert before == of_call(compiled(MOVED + source, "Grid")(3).solve)
    assert before != of_call(grid(4).solve)
    assert before != of_call(compiled(source.replace("+ 1", "- 1"), "Grid")(3).solve)


# Another process.

_ELSEWHERE = """
from types import SimpleNamespace as Task
from ips_core.component import Component
from ips_core.pools.fingerprint import fingerprint

def near(name, known=frozenset({"a", "b", "c", "d"})):
    return name in {"east", "west", "north", "south"} or name in known

class Scan(Component):
    def point(self, x): return near(x)

surroundings = dict(working_dir="/", task_env={}, stdin=None, nproc=1, isolate=False, argv=())
scan = Scan(None, {"names": {"x", "y", "z", "u", "v", "w"}})
print([fingerprint(Task(function=function, args=args, kwargs={}, **surroundings)) for
    function, args in [
        (near, ("a",)), (scan.point, ("a",)), (near, ({frozenset({"p", "q", "r"}), "s", 1},)),
        (lambda x: x, ([{"k": {"l", "m", "n", "o"}}],)),
    ]])
"""


def test_another_process_with_another_hash_seed_agrees() -> None:
    found = []
    for seed in ("1", "2", "3"):
        done = subprocess.run(
            [sys.executable, "-c", _ELSEWHERE],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        found.append(ast.literal_eval(done.stdout))
    assert found[0] == found[1] == found[2]
    assert all(found[0])
    assert len(set(found[0])) == 4


def test_sets_are_told_apart() -> None:
    known = compiled("def f(x): return x")
    assert of_call(known, {"a", "b"}) == of_call(known, {"b", "a"})
    assert of_call(known, {"a", "b"}) != of_call(known, {"a", "c"})
    assert of_call(known, {"a"}) != of_call(known, frozenset({"a"}))
