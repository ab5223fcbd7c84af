"""The cut of the project, on the syntax tree: who imports whom, what is public, how long it is."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import ips_core
import ips_dask_cluster

PACKAGES = ("ips_core", "ips_dask_cluster")
_MOST_LINES = 350
#: The top-level modules and packages: each imports only itself and those before it.
ROOMS = {
    "ips_core": (
        *("errors", "version", "component", "config", "compat", "log", "ipc"),
        *("resources", "tasks", "files", "pools", "services", "framework"),
        *("cli", "commands", "__main__"),
    ),
    "ips_dask_cluster": (
        *("errors", "by_value", "scripts", "versions", "devices", "tls_errors", "slurm"),
        *("logs", "containers", "orphans", "jobqueue", "configuration", "tls", "settings"),
        *("steps", "reports", "end_watch", "dask", "file_trees", "plugins", "signals"),
        *("dashboard", "display", "views", "cluster", "testing"),
    ),
}
#: Modules of the cluster that ``ips_core`` may import anywhere, since they bring nothing along.
CLUSTER_LEAVES = {
    "ips_dask_cluster.by_value",
    "ips_dask_cluster.devices",
    "ips_dask_cluster.errors",
    "ips_dask_cluster.slurm.commands",
    "ips_dask_cluster.slurm.gres",
    "ips_dask_cluster.slurm.times",
    "ips_dask_cluster.slurm.variables",
}
_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


@cache
def sources() -> dict[str, Path]:
    """Every module of the two packages by name."""
    found = {}
    for package in (ips_core, ips_dask_cluster):
        top = Path(package.__file__).parent
        for path in top.rglob("*.py"):
            parts = path.relative_to(top.parent).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = sorted(sources())


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(sources()[module].read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Import:
    """A module of ours that is imported, the names taken from it, and whether at once."""

    module: str
    names: tuple[str, ...]
    lazy: bool


def statements(node: ast.AST, lazy: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """The import statements below a node, and whether each is inside a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, lazy
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from statements(child, lazy or inside)


def imports(module: str) -> Iterator[Import]:
    """What a module imports of ours; ``from package import module`` is an import of the module."""
    for statement, lazy in statements(tree(module)):
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                if alias.name.partition(".")[0] in PACKAGES:
                    yield Import(alias.name, (), lazy)
            continue
        assert statement.level == 0, f"{module}: relative import"
        base = statement.module or ""
        if base.partition(".")[0] in PACKAGES:
            names = [alias.name for alias in statement.names]
            for name in names:
                if f"{base}.{name}" in sources():
                    yield Import(f"{base}.{name}", (), lazy)
            others = tuple(name for name in names if f"{base}.{name}" not in sources())
            if others:
                yield Import(base, others, lazy)


def test_the_parser_of_imports_sees_all_there_is() -> None:
    """Else the tests below would hold for nothing."""
    assert Import("ips_dask_cluster.slurm.lookup", (), True) in set(
        imports("ips_core.pools.dask.cluster_adapter")
    )
    assert Import("ips_core.framework", ("Framework",), False) in set(imports("ips_core"))
    assert len(MODULES) > 30


# Who imports whom.


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("ips_dask")])
def test_the_cluster_knows_nothing_of_ips(module: str) -> None:
    assert [found for found in imports(module) if found.module.startswith("ips_core")] == []


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("ips_core")])
def test_one_module_asks_the_cluster_and_only_when_called(module: str) -> None:
    found = [
        each
        for each in imports(module)
        if each.module.startswith("ips_dask_cluster") and each.module not in CLUSTER_LEAVES
    ]
    allowed = module == "ips_core.pools.dask.cluster_adapter"
    assert [each for each in found if not (allowed and each.lazy)] == []


@pytest.mark.parametrize("module", sorted(CLUSTER_LEAVES))
def test_leaves_import_only_the_standard_library_cloudpickle_and_leaves(module: str) -> None:
    """Importing one costs no component any time, and no worker a package that it lacks."""
    names: set[str] = set()
    for statement, _ in statements(tree(module)):
        if isinstance(statement, ast.ImportFrom):
            names.add((statement.module or "").partition(".")[0])
        else:
            names |= {alias.name.partition(".")[0] for alias in statement.names}
    assert names - sys.stdlib_module_names <= {"cloudpickle", "ips_dask_cluster"}
    assert {found.module for found in imports(module)} <= CLUSTER_LEAVES


def test_one_module_runs_the_programs_that_ask_slurm() -> None:
    """The others would ask without its clean environment."""
    programs = {"scontrol", "squeue", "scancel"}
    callers = {
        module
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Constant) and node.value in programs
    }
    assert callers == {
        "ips_dask_cluster.slurm.commands",
        "ips_dask_cluster.testing.local_slurm",  # a Slurm of its own
        "ips_dask_cluster.dask.spec",  # an attribute of dask-jobqueue's, which is never run
    }


@pytest.mark.parametrize("module", [name for name in MODULES if name.count(".")])
def test_no_import_goes_up(module: str) -> None:
    """Neither at once, nor hidden in a function or behind ``TYPE_CHECKING``."""
    package, room = module.split(".")[:2]
    rooms = ROOMS[package]
    below = rooms[: rooms.index(room) + 1]
    for found in imports(module):
        if found.module.startswith(f"{package}."):
            assert found.module.split(".")[1] in below, f"{module} imports {found.module}"


def test_no_circular_imports() -> None:
    """Nor hidden behind ``TYPE_CHECKING``."""
    graph = {
        module: {found.module for found in imports(module) if not found.lazy} for module in MODULES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" is imported by ".join(error.args[1]), pytrace=False)


# What is public.


def public_definitions(module: str) -> set[str]:
    """Functions and classes that a module defines without an underscore."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = {node.name for node in tree(module).body if isinstance(node, kinds)}
    return {name for name in names if not name.startswith("_")}


def is_private(module: str) -> bool:
    return module.rpartition(".")[2].startswith("_")


PUBLIC = [name for name in MODULES if not is_private(name)]


@pytest.mark.parametrize("module", PUBLIC)
def test_all_names_exist_and_nothing_public_is_left_out(module: str) -> None:
    loaded = import_module(module)
    listed = loaded.__all__
    assert [name for name in listed if not hasattr(loaded, name)] == []
    assert len(listed) == len(set(listed))
    assert public_definitions(module) <= set(listed)


@pytest.mark.parametrize("module", MODULES)
def test_only_public_names_are_imported_from_another_module(module: str) -> None:
    taken = [
        (found.module, name)
        for found in imports(module)
        for name in found.names
        if not is_private(found.module)
    ]
    assert [
        f"{name} of {other}" for other, name in taken if name not in import_module(other).__all__
    ] == []


# How long it is.


def docstring_lines(module: str) -> set[int]:
    """Lines of strings that are statements of their own."""
    lines: set[int] = set()
    for node in ast.walk(tree(module)):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def code_lines(module: str) -> int:
    """Lines of code; docstrings, comments and blank lines do not count."""
    text = sources()[module].read_text(encoding="utf-8")
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstring_lines(module))


@pytest.mark.parametrize("module", MODULES)
def test_module_is_not_too_long(module: str) -> None:
    assert code_lines(module) <= _MOST_LINES


# What an import costs, and what it changes.


def python(code: str) -> str:
    """What a fresh Python prints that sees our packages."""
    root = Path(ips_core.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_light_parts_do_not_import_dask() -> None:
    code = """
import sys
import ips_core, ips_core.framework, ips_dask_cluster
print(sorted({"dask", "distributed", "dask_jobqueue"} & set(sys.modules)))
"""
    assert python(code) == "[]\n"


def test_cluster_is_imported_in_any_thread_and_leaves_ctrl_c_alone() -> None:
    code = """
import signal, threading
def handler(number, frame): pass
signal.signal(signal.SIGINT, handler)
install = signal.signal
def load():
    from ips_dask_cluster import SlurmAllocationCluster
    print(SlurmAllocationCluster.__module__)
thread = threading.Thread(target=load)
thread.start()
thread.join()
print(signal.getsignal(signal.SIGINT) is handler, signal.signal is install)
"""
    assert python(code) == "ips_dask_cluster.cluster\nTrue True\n"


@pytest.mark.parametrize("package", [ips_core, ips_dask_cluster])
def test_name_that_a_package_has_not_is_an_attribute_error(package: object) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        package.nope  # noqa: B018
