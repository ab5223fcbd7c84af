"""One task of a pool, as a checked value."""

from __future__ import annotations

import difflib
import inspect
import os
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ips_core.errors import TaskPoolError

__all__ = ["Task", "make_task"]

_KEYWORDS = (
    "logfile",
    "errfile",
    "timeout",
    "task_env",
    # of launch_task; they concern launchers other than a Dask worker
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


@dataclass(frozen=True)
class Task:
    """One piece of work.

    Parameters
    ----------
    name : str
        Its name, unique in the pool.
    working_dir : str
        Where a binary runs.
    argv : tuple of str
        A binary and its arguments; empty for a callable.
    function : callable or None
        A function or bound method; None for a binary.
    args, kwargs : tuple, dict
        Of the callable.
    logfile, errfile : str or None
        Where a binary's output goes, relative to ``working_dir``.
    timeout : float or None
        Seconds that a binary may take.
    env : dict of str to str
        Environment variables of a binary, on top of the worker's.
    program : str
        Name of the program as it was given.
    missing : str
        Name of a program that this host does not have.
    """

    name: str
    working_dir: str
    argv: tuple[str, ...] = ()
    function: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    logfile: str | None = None
    errfile: str | None = None
    timeout: float | None = None
    env: dict[str, str] = field(default_factory=dict)
    program: str = field(default="", compare=False)
    missing: str = ""

    def for_container(self) -> Task:
        """Return the task as a container is to run it: this host's paths are nothing to that."""
        return replace(self, argv=(self.program, *self.argv[1:])) if self.argv else self

    @property
    def target(self) -> str:
        """The work in words, as the simulation log has it."""
        if self.function is None:
            return " ".join(self.argv)
        name = getattr(self.function, "__name__", type(self.function).__name__)
        words = [str(arg) for arg in self.args] + [f"{k}={v}" for k, v in self.kwargs.items()]
        return f"{name}({','.join(words)})"

    def payload(self, pool: str) -> dict[str, Any]:
        """Return the task as ``task_runner.Runner.run`` takes it."""
        common = {"pool": pool, "name": self.name}
        if self.function is not None:
            return common | {"function": self.function, "args": self.args, "kwargs": self.kwargs}
        return common | {
            "argv": list(self.argv),
            "cwd": self.working_dir,
            "logfile": self.logfile,
            "errfile": self.errfile,
            "timeout": self.timeout,
            "env": self.env,
        }


def make_task(
    name: str,
    nproc: int,
    working_dir: str,
    binary: str | Callable[..., Any],
    args: Sequence[Any],
    keywords: Mapping[str, Any],
) -> Task:
    """Return a task, checked.

    Parameters
    ----------
    name, nproc, working_dir, binary, args, keywords
        As for ``ServicesProxy.add_task``.

    Raises
    ------
    TaskPoolError
        The binary is not there, or a parameter makes no sense; the message names the task.
    """
    if _checked(name, "nproc", nproc, int, "a number") != 1:
        raise TaskPoolError(
            f"task {name}: nproc = {nproc}, but tasks of a Dask pool have one process; "
            "use launch_task for a program that is parallel itself"
        )
    signature = _signature(binary)
    # a callable's own parameter of such a name is its own
    ours = set(_KEYWORDS) - set(signature.parameters if signature else ())
    task_keywords = {key: value for key, value in keywords.items() if key in ours}
    others = {key: value for key, value in keywords.items() if key not in ours}
    logfile, errfile = task_keywords.get("logfile"), task_keywords.get("errfile")
    timeout, env = task_keywords.get("timeout"), task_keywords.get("task_env") or {}
    env = _checked(name, "task_env", env, dict, "a dict")
    common: dict[str, Any] = {
        "logfile": None if logfile is None else os.fspath(logfile),
        "errfile": None if errfile is None else os.fspath(errfile),
        "timeout": None
        if timeout is None
        else _checked(name, "timeout", timeout, float, "a number of seconds"),
        "env": {str(key): str(value) for key, value in env.items()},
    }
    working_dir = os.path.abspath(working_dir)
    if callable(binary):
        if signature is not None:
            _check_arguments(name, binary, signature, args, others)
        return Task(name, working_dir, (), binary, tuple(args), others, **common)
    if not isinstance(binary, (str, os.PathLike)):
        raise TaskPoolError(
            f"task {name}: expected the path of a program or a callable, "
            f"found {type(binary).__name__}"
        )
    for key in others:
        close = difflib.get_close_matches(key, _KEYWORDS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise TaskPoolError(f"task {name}: unknown keyword {key}{hint}")
    binary = os.fspath(binary)
    program, found = _checked(name, "binary", binary, _find_program, "each quote to be closed")
    argv = (found or program[0], *program[1:], *(str(arg) for arg in args))
    missing = "" if found else program[0]
    return Task(name, working_dir, argv, program=program[0], missing=missing, **common)


def _checked(name: str, key: str, value: Any, convert: Callable[[Any], Any], what: str) -> Any:
    try:
        return convert(value)
    except (TypeError, ValueError):
        message = f"task {name}: {key} = {value!r}: expected {what}"
        raise TaskPoolError(message) from None


def _signature(function: Any) -> inspect.Signature | None:
    """Return a callable's signature; None for a program, or a builtin without one."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


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
        raise TaskPoolError(f"task {name}: {called}() cannot be called so: {error}") from None


def _find_program(binary: str) -> tuple[list[str], str]:
    """Return the words of a program as they are given, and its path on this host, if it is here.

    A name that exists is taken whole, blanks and all; else it may hold arguments.
    """
    words = [binary]
    found = shutil.which(binary)
    if found is None:
        words = shlex.split(binary) or words
        found = shutil.which(words[0])
    # absolute, since it is started in another directory than it was found from
    return words, os.path.abspath(found) if found else ""
