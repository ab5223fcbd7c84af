"""Fingerprint the work of tasks, to recognize it in a later run of the simulation."""

from __future__ import annotations

import hashlib
import io
import pickle
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import cloudpickle

from ips_core.component import Component
from ips_core.tasks.task import Task

__all__ = ["fingerprint"]

_PROTOCOL = 4  # Fixed, since another protocol makes other bytes of the same value.
_SET_OPCODES = b"\x8f", b"\x91"  # EMPTY_SET and FROZENSET of pickletools
#: Attributes that differ between calls of a component's method, whatever its work is.
_OF_THE_CALL = ("_Component__services", "_Component__start_time", "_Component__call")
_REMEMBERED = 1000

#: Digests by module and code, each with the module's functions that are part of the digest.
_code_digests: dict[tuple[str, CodeType], tuple[str, dict[str, CodeType]]] = {}


def fingerprint(task: Task) -> str:
    """Return 16 hexadecimal digits that identify the work of a task, empty if it cannot be pickled.

    Two programs are the same work if path and arguments, working directory, environment, ``stdin``
    (the path or the bytes) and ``nproc`` are equal. Two callables are the same work if module and
    name, their code and that of the functions of the module that they name, defaults, closures and
    arguments are equal, and for a bound method the state of the object. In a process of its own, a
    callable's working directory, environment and ``stdin`` count, too. The contents of files and of
    other modules do not count.

    The digits are the same in every process with the same version of Python, whatever its hash
    seed.
    """
    if task.function is None:
        nproc = getattr(task, "nproc", 1)
        return _digest(repr(("program", task.argv, nproc, _surroundings(task))))
    surroundings = _surroundings(task) if getattr(task, "isolate", False) else None
    work = (task.function, task.args, dict(task.kwargs), surroundings)
    for pickled in (_pickled, _pickled_by_value):
        try:
            return _digest(pickled(work))
        except Exception:  # A user's class may raise anything while it is pickled.
            continue
    return ""


def _surroundings(task: Task) -> tuple[Any, ...]:
    env = getattr(task, "task_env", None) or getattr(task, "env", {})
    return task.working_dir, sorted(env.items()), getattr(task, "stdin", None)


def _digest(content: str | bytes) -> str:
    if isinstance(content, str):
        content = content.encode()
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _pickled(value: Any) -> bytes:
    content = _dump(_WorkPickler, value)
    if any(opcode in content for opcode in _SET_OPCODES):
        return _dump(_SortingPickler, value)
    return content


def _pickled_by_value(value: Any) -> bytes:
    return cloudpickle.dumps(value, protocol=_PROTOCOL)


def _dump(pickler: type[pickle.Pickler], value: Any) -> bytes:
    file = io.BytesIO()
    pickler(file, _PROTOCOL).dump(value)
    return file.getvalue()


class _WorkPickler(pickle.Pickler):
    """Pickler of what defines the work; the result is never unpickled.

    Functions are written as their code, since a changed function keeps its name; classes and
    modules as their names, even if they cannot be imported.
    """

    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self._functions: set[int] = set()

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, FunctionType):
            return tuple, (self._function(value),)
        if isinstance(value, MethodType):
            return tuple, ((value.__func__, value.__self__),)
        if isinstance(value, type):
            name = f"{value.__module__}.{value.__qualname__}"
            return NotImplemented if value.__module__ == "builtins" else (str, (name,))
        if isinstance(value, ModuleType):
            return str, (value.__name__,)
        if isinstance(value, Component):
            return tuple, ((type(value), _state(value)),)
        return NotImplemented

    def _function(self, function: FunctionType) -> tuple[Any, ...]:
        names = function.__module__, function.__qualname__
        if id(function) in self._functions:  # A function that encloses itself would recurse.
            return names
        self._functions.add(id(function))
        return (
            *names,
            _function_code(function),
            function.__defaults__,
            function.__kwdefaults__,
            [_content(cell) for cell in function.__closure__ or ()],
        )


class _SortingPickler(_WorkPickler):
    """Pickler that sorts sets, which is slower, so that the hash seed does not matter."""

    def persistent_id(self, value: Any) -> Any:
        if type(value) not in (set, frozenset):
            return None
        return type(value).__name__, sorted(_digest(_pickled(each)) for each in value)


def _state(component: Component) -> Any:
    state = component.__getstate__()
    if not isinstance(state, dict):
        return state
    return {name: value for name, value in state.items() if name not in _OF_THE_CALL}


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # The variable is not assigned yet.
        return None


def _function_code(function: FunctionType) -> str:
    """Return the digest of a function's code and that of the module's functions that it names."""
    key = function.__module__, function.__code__
    digest, helpers = _code_digests.get(key, ("", {}))
    # A notebook cell may have redefined a helper.
    if not digest or any(_helper(function, name) is not code for name, code in helpers.items()):
        helpers = {}
        _find_helpers(function, function.__code__, helpers)
        codes = [function.__code__, *(helpers[name] for name in sorted(helpers))]
        digest = _digest(repr([_code_text(code) for code in codes]))
        if len(_code_digests) >= _REMEMBERED:
            _code_digests.clear()
        _code_digests[key] = digest, helpers
    return digest


def _find_helpers(function: FunctionType, code: CodeType, found: dict[str, CodeType]) -> None:
    for name in _names(code):
        helper = _helper(function, name)
        if helper is not None and name not in found:
            found[name] = helper
            _find_helpers(function, helper, found)


def _helper(function: FunctionType, name: str) -> CodeType | None:
    """Return the code of a function of the same module, None if the name is not one's."""
    found = function.__globals__.get(name)
    if isinstance(found, FunctionType) and found.__module__ == function.__module__:
        return found.__code__
    return None


def _names(code: CodeType) -> list[str]:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return [*code.co_names, *(name for each in inner for name in _names(each))]


def _code_text(code: CodeType) -> str:
    """Return all that defines a code object, without file name and line numbers."""
    return repr(
        (
            code.co_code,
            *(code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars),
            *(code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags),
            code.co_exceptiontable,
            [_constant_text(constant) for constant in code.co_consts],
        )
    )


def _constant_text(constant: Any) -> str:
    if isinstance(constant, CodeType):
        return _code_text(constant)
    if isinstance(constant, tuple):
        return f"({','.join(map(_constant_text, constant))})"
    if isinstance(constant, frozenset):  # The order depends on the hash seed.
        return f"{{{','.join(sorted(map(_constant_text, constant)))}}}"
    return repr(constant)
