"""Check one task of a pool and hold it as a value."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ips_core.errors import TaskPoolError, did_you_mean

__all__ = ["Task"]

#: One object for all tasks, because pools have hundreds of thousands of them. A mappingproxy could
#: not be pickled.
_NOTHING: Mapping[str, Any] = {}
# Characters of an argument in the log, which has each argument twice per attempt.
_LONGEST_WORD = 200
#: Keywords of ``launch_task`` that only launchers of parallel programs use.
_LAUNCHER_KEYWORDS = (
    "task_ppn",
    "task_cpp",
    "task_gpp",
    "omp",
    "block",
    "tag",
    "whole_nodes",
    "whole_sockets",
    "launch_cmd_extra_args",
)


def _text(value: Any) -> str | None:
    return None if value is None else os.fspath(value)


def _stdin(value: Any) -> str | bytes | None:
    return bytes(value) if isinstance(value, (bytes, bytearray)) else _text(value)


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    seconds = float(value)
    if not 0 < seconds < math.inf:
        raise ValueError
    return seconds


def _whole(value: Any) -> int:
    number = int(value)
    if number != float(value):
        raise ValueError
    return number


def _count(value: Any) -> int:
    count = _whole(value)
    if count < 0:
        raise ValueError
    return count


def _optional_count(value: Any) -> int | None:
    return None if value is None else _count(value)


def _flag(value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise TypeError
    return value


def _environment(value: Any) -> Mapping[str, str]:
    return {str(key): str(text) for key, text in dict(value).items()} if value else _NOTHING


#: The converter of each keyword, and the expected value in words for error messages.
_KEYWORDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "logfile": (_text, "a path"),
    "errfile": (_text, "a path"),
    "stdin": (_stdin, "a path, or bytes"),
    "timeout": (_seconds, "a number of seconds above 0"),
    "task_env": (_environment, "a dict"),
    "isolate": (_flag, "True or False"),
    "gpus": (_count, "a whole number of 0 or more"),
    "pin": (_flag, "True or False"),
    "mpi": (_flag, "True or False"),
    "time_request": (_seconds, "a number of seconds above 0"),
    "priority": (_whole, "a whole number"),
    "retries": (_optional_count, "a whole number of 0 or more"),
    "retry_failed": (_optional_count, "a whole number of 0 or more"),
}
_DEFAULTS: dict[str, Any] = dict.fromkeys(_KEYWORDS) | {
    "task_env": _NOTHING,
    "gpus": 0,
    "priority": 0,
}
#: Keywords that need a process: a callable with one of them runs in a separate process.
_OF_A_PROCESS = ("timeout", "task_env", "logfile", "errfile", "stdin", "gpus")


@dataclass(frozen=True, slots=True, init=False)
class Task:
    """Describe one piece of work for a pool: a program or a Python callable.

    The parameters are those of :meth:`ServicesProxy.add_task` without the pool's name. They are
    checked here, so an instance is always valid.

    Parameters
    ----------
    task_name : str
        Name of the task, unique in its pool.
    nproc : int
        Number of cores, at least 1; for an MPI program, number of processes.
    working_dir : str
        Directory in which a program, or a callable in a separate process, runs. A relative path is
        relative to the current directory.
    binary : str or callable
        A program, a function, a coroutine function or a bound method. A str with blanks that names
        no program is split as in a shell.
    *args
        Arguments. Those of a program are converted to str.
    **keywords
        Options of the task, as for :meth:`ServicesProxy.add_task`. A callable gets all other
        keywords, and those that are among its own parameters.

    Attributes
    ----------
    name : str
        Name of the task.
    nproc : int
        Number of cores; for an MPI program, number of processes.
    working_dir : str
        Absolute path of the directory in which a program, or a callable in a separate process,
        runs.
    argv : tuple of str
        The program and its arguments; empty for a callable.
    function : callable or None
        The callable; None for a program.
    args, kwargs : tuple, mapping
        Arguments of the callable; empty for a program.
    logfile, errfile : str or None
        Files for stdout and stderr, relative to ``working_dir``. Default: None, the worker's output
        for stdout, and for stderr the target of stdout.
    stdin : str, bytes or None
        A file, relative to ``working_dir``, or bytes that the task reads. Default: None, nothing.
    timeout : float or None
        Seconds after which the task's processes are ended. Default: None, no limit.
    task_env : mapping of str to str
        Environment variables in addition to the worker's. Default: empty.
    isolate : bool
        True if a callable runs in a separate process. Default: True for a callable with
        ``timeout``, ``task_env``, ``logfile``, ``errfile``, ``stdin`` or ``gpus``; False for a
        program.
    gpus : int
        Number of GPUs that no other task uses; for an MPI program, GPUs of each process. Default:
        0.
    pin : bool
        True if the task is bound to cores that no other pinned task uses. Default: False.
    mpi : bool or None
        True: ``nproc`` processes, started by a launcher. False: one process with ``nproc`` cores.
        Default: None, which on Dask means True for a program that needs more cores than a worker
        has, and without Dask True for a program.
    time_request : float or None
        Seconds that the allocation must still last for the task to start. Default: None, as for the
        pool.
    priority : int
        Tasks with a higher priority start first. Default: 0.
    retries, retry_failed : int or None
        Limits on further attempts after the loss of a worker and after a failure. Default: None, as
        for the pool.
    launcher : mapping
        Keywords of :meth:`ServicesProxy.launch_task` that only launchers of parallel programs use.
    program : str
        The program as the user wrote it; empty for a callable.
    missing : str
        A sentence that names the program or directory that this host lacks; empty if it lacks none.

    Raises
    ------
    TaskPoolError
        A keyword is unknown, a value is invalid, ``binary`` is neither a path nor callable, or the
        callable cannot be called with these arguments. A missing program or directory does not
        raise; see ``missing``.
    """

    name: str
    nproc: int
    working_dir: str
    argv: tuple[str, ...]
    function: Callable[..., Any] | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    logfile: str | None
    errfile: str | None
    stdin: str | bytes | None
    timeout: float | None
    task_env: Mapping[str, str]
    isolate: bool
    gpus: int
    pin: bool
    mpi: bool | None
    time_request: float | None
    priority: int
    retries: int | None
    retry_failed: int | None
    launcher: Mapping[str, Any]
    program: str
    missing: str

    def __init__(
        self,
        task_name: str,
        nproc: int,
        working_dir: str,
        binary: str | Callable[..., Any],
        *args: Any,
        **keywords: Any,
    ) -> None:
        values: dict[str, Any] = {
            "name": task_name,
            "nproc": _checked(task_name, "nproc", nproc, _nproc, "a whole number of 1 or more"),
            "working_dir": _directory(os.fspath(working_dir)),
        }
        if callable(binary):
            values |= _callable(task_name, binary, args, keywords)
        elif isinstance(binary, (str, os.PathLike)):
            values |= _program(task_name, os.fspath(binary), args, keywords)
        else:
            raise TaskPoolError(
                f"task {task_name}: expected the path of a program or a callable, "
                f"found {type(binary).__name__}"
            )
        if not values["missing"] and (values["argv"] or values["isolate"]):
            values["missing"] = _missing_directory(values["working_dir"])
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)

    def for_container(self) -> Task:
        """Return a copy for a container, where this host's paths do not count."""
        changed = copy.copy(self)
        if self.argv:
            object.__setattr__(changed, "argv", (self.program, *self.argv[1:]))
        object.__setattr__(changed, "missing", "")
        return changed

    @property
    def is_plain(self) -> bool:
        """True if the task may travel in a chunk: one core and no other requirement."""
        wishes = self.gpus or self.priority or self.isolate or self.pin or self.mpi
        return self.nproc == 1 and not wishes and self.time_request is None

    def launcher_number(self, keyword: str) -> int:
        """Return a numeric keyword of ``launch_task``, such as ``task_ppn``; 0 if it was not given.

        Raises TypeError or ValueError if the value is not a number.
        """
        return int(self.launcher.get(keyword) or 0)

    @property
    def launcher_arguments(self) -> tuple[str, ...]:
        """Further arguments of the launcher; a string is split as in a shell.

        Raises ValueError if a quote is not closed.
        """
        given = self.launcher.get("launch_cmd_extra_args") or ()
        return tuple(shlex.split(given) if isinstance(given, str) else given)

    @property
    def target(self) -> str:
        """The command line or the call, as the simulation log shows it."""
        if self.function is None:
            return " ".join(self.argv)
        name = getattr(self.function, "__name__", type(self.function).__name__)
        words = [_word(arg) for arg in self.args]
        words += [f"{key}={_word(value)}" for key, value in self.kwargs.items()]
        return f"{name}({','.join(words)})"

    def payload(self, pool: str) -> dict[str, Any]:
        """Return the task as ``tasks.runner.Runner.run`` takes it, without default values."""
        found: dict[str, Any] = {"pool": pool, "name": self.name}
        if self.function is None:
            found["argv"] = list(self.argv)
        else:
            found |= {"function": self.function, "args": self.args, "kwargs": dict(self.kwargs)}
        if self.function is None or self.isolate:
            found["cwd"] = self.working_dir
        for key in ("isolate", "logfile", "errfile", "timeout", "gpus", "pin"):
            if value := getattr(self, key):
                found[key] = value
        if self.task_env:
            found["env"] = dict(self.task_env)
        if self.stdin is not None:
            found["stdin"] = self.stdin
        if self.nproc > 1:
            found["slots"] = self.nproc
        return found


def _word(value: Any) -> str:
    """Return an argument as short text for the log; never raises."""
    try:
        text = str(value)
    except Exception:  # ``__str__`` of a user's class may raise anything.
        return f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST_WORD else f"{text[:_LONGEST_WORD]}..."


def _nproc(value: Any) -> int:
    count = _count(value)
    if count < 1:
        raise ValueError
    return count


def _program(
    name: str, binary: str, args: Sequence[Any], keywords: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the attributes of a task that runs a program."""
    known = [*_KEYWORDS, *_LAUNCHER_KEYWORDS]
    for key in keywords:
        if key not in known:
            raise TaskPoolError(f"task {name}: unknown keyword {key}{did_you_mean(key, known)}")
    values = _read(name, keywords)
    if values["isolate"] is not None:
        raise TaskPoolError(f"task {name}: isolate= is for callables; a program always is")
    words, found = _checked(name, "binary", binary, _find_program, "each quote to be closed")
    return values | {
        "argv": (found or words[0], *words[1:], *(str(arg) for arg in args)),
        "function": None,
        "args": (),
        "kwargs": _NOTHING,
        "isolate": False,
        "program": words[0],
        "missing": "" if found else f"Program {words[0]} is not in path or is not executable",
    }


def _callable(
    name: str, function: Callable[..., Any], args: tuple[Any, ...], keywords: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the attributes of a task that calls a function."""
    signature = _signature(function)
    # A callable's own parameter wins over an option of the task with the same name.
    own = signature.parameters if signature else ()
    ours = {*_KEYWORDS, *_LAUNCHER_KEYWORDS} - set(own)
    kwargs = {key: value for key, value in keywords.items() if key not in ours}
    values = _read(name, {key: value for key, value in keywords.items() if key in ours})
    if signature is not None:
        _check_arguments(name, function, signature, args, kwargs)
    if values["mpi"]:
        raise TaskPoolError(f"task {name}: mpi=True is for programs")
    needs = [key for key in _OF_A_PROCESS if values[key] != _DEFAULTS[key]]
    if needs and values["isolate"] is False:
        raise TaskPoolError(
            f"task {name}: {needs[0]}= of a callable needs a process of its own: leave out "
            "isolate=False"
        )
    return values | {
        "argv": (),
        "function": function,
        "args": args,
        "kwargs": kwargs or _NOTHING,
        "isolate": bool(values["isolate"] or needs),
        "program": "",
        "missing": "",
    }


def _read(name: str, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a task as attributes."""
    values = dict(_DEFAULTS)
    for key, value in keywords.items():
        if key in _KEYWORDS:
            convert, what = _KEYWORDS[key]
            values[key] = _checked(name, key, value, convert, what)
    values["pin"] = bool(values["pin"])
    launcher = {key: value for key, value in keywords.items() if key in _LAUNCHER_KEYWORDS}
    return values | {"launcher": launcher or _NOTHING}


def _checked(name: str, key: str, value: Any, convert: Callable[[Any], Any], what: str) -> Any:
    try:
        return convert(value)
    except (TypeError, ValueError, OverflowError):
        message = f"task {name}: {key} = {value!r}: expected {what}"
        raise TaskPoolError(message) from None


def _signature(function: Any) -> inspect.Signature | None:
    """Return a callable's signature; None for a builtin without one."""
    try:
        # Cached per function; all bound methods of a function share one entry.
        if inspect.isfunction(function):
            return _signature_of(function)
        if inspect.ismethod(function) and inspect.isfunction(function.__func__):
            signature = _signature_of(function.__func__)
            return signature.replace(parameters=list(signature.parameters.values())[1:])
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


@functools.lru_cache(maxsize=128)
def _signature_of(function: Any) -> inspect.Signature:
    return inspect.signature(function)


def _check_arguments(
    name: str,
    function: Callable[..., Any],
    signature: inspect.Signature,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> None:
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        called = getattr(function, "__name__", function)
        known = [*signature.parameters, *_KEYWORDS, *_LAUNCHER_KEYWORDS]
        unexpected = [key for key in kwargs if str(error).endswith(f"argument '{key}'")]
        hint = "".join(did_you_mean(key, known) for key in unexpected)
        raise TaskPoolError(f"task {name}: {called}() cannot be called so: {error}{hint}") from None


def _find_program(binary: str) -> tuple[list[str], str]:
    """Return the words of a program as the user wrote it, and its path here, empty if not found.

    A name that exists is taken whole, even with blanks; any other name may hold arguments.
    """
    words = [binary]
    found = _which(binary)
    if not found:
        words = shlex.split(binary) or words
        found = _which(words[0])
    return words, found


def _which(program: str) -> str:
    """Return the absolute path of a program on this host; empty if it is not found.

    The path is absolute because the task starts in another directory.
    """
    if os.path.dirname(program):
        found = shutil.which(program)
        return os.path.abspath(found) if found else ""
    try:
        return _which_on_path(program, os.environ.get("PATH"), os.getcwd(), int(time.monotonic()))
    except FileNotFoundError:
        return ""


@functools.lru_cache(maxsize=128)
def _which_on_path(program: str, path: str | None, directory: str, second: int) -> str:
    """Return the absolute path of a program on PATH, or raise FileNotFoundError.

    ``second`` is part of the cache key: a slow shared file system is searched at most once a second
    for each program that is found. A program that is not found is not cached.
    """
    found = shutil.which(program, path=path)
    if found is None:
        raise FileNotFoundError(program)
    return os.path.abspath(found)


def _directory(path: str) -> str:
    """Return a directory's absolute path; equal paths are one object, to save memory."""
    return sys.intern(os.path.abspath(path))


def _missing_directory(path: str) -> str:
    return "" if os.path.isdir(path) else f"there is no directory {path}"
