"""Check the classes of components without running user code."""

from __future__ import annotations

import ast
import importlib.util
import os
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder

from ips_core.config import ComponentConfig

__all__ = ["class_problem"]


def class_problem(component: ComponentConfig) -> str:
    """Return why a component's class could not be loaded, or "" if no problem is found.

    Its SCRIPT, else its MODULE, is read but not run.
    """
    where = f"[{component.section}] "
    file = component.script
    if not file:
        spec = _find_module(component.module)
        if spec is None:
            return f"{where}MODULE = {component.module}: Python finds no such module"
        file = spec.origin or ""
    if not file.endswith(".py") and not component.script:
        return ""  # a compiled module cannot be read
    problem = _problem_of_file(file, component.name)
    return problem and f"{where}{problem}"


def _problem_of_file(file: str, name: str) -> str:
    try:
        with open(file, "rb") as source:
            tree = ast.parse(source.read(), file)
    except OSError as error:
        return f"cannot read {file}: {error.strerror}"
    except SyntaxError as error:
        return f"{file}, line {error.lineno}: {error.msg}"
    except ValueError as error:
        return f"{file}: {error}"
    for definition in _definitions(tree.body):
        if isinstance(definition, ast.ClassDef):
            if definition.name == name:
                derived = definition.bases or definition.decorator_list
                return "" if derived else f"{file}: the class {name} is not derived from Component"
        elif definition in (name, "*"):
            return ""
    return f"{file}: there is no class {name}, which is the component's NAME"


def _definitions(body: list[ast.stmt]) -> Iterator[ast.ClassDef | str]:
    """Yield the classes and other names that a module defines, from its last line on."""
    for statement in reversed(body):
        if isinstance(statement, ast.ClassDef):
            yield statement
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in statement.names)
        elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            # A module's __getattr__ may provide any name.
            yield "*" if statement.name == "__getattr__" else statement.name
        else:
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id
            for part in ("body", "orelse", "finalbody"):
                yield from _definitions(getattr(statement, part, []))
            for handler in getattr(statement, "handlers", []):
                yield from _definitions(handler.body)


def _find_module(name: str) -> ModuleSpec | None:
    """Find a module without importing its packages; return None if there is none."""
    top, *rest = name.split(".")
    try:
        # Components also search the launch directory.
        spec = importlib.util.find_spec(top) or PathFinder.find_spec(top, [os.getcwd()])
    except (ImportError, ValueError):
        return None
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(f"{spec.name}.{part}", spec.submodule_search_locations)
    return spec
