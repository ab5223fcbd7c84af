"""Calls a function that is a task: in this process, or in one of its own.

Needs the standard library and cloudpickle; Dask workers get it by value, see ``runner.BY_VALUE``.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from ips_dask_cluster.by_value import dumps

__all__ = ["BOOT", "call", "describe", "request", "result"]

_LONGEST_ERROR = 4096
_LONGEST_TRACEBACK = 16384

#: What a callable's own process runs: ``python -c BOOT`` with two descriptors, one to read the
#: request from and one to write the answer to. The working directory hides no module of Python's.
BOOT = """
import sys
sys.path[:] = filter(None, sys.path)
import pickle
source = open(int(sys.argv[1]), "rb")
sys.path += [path for path in pickle.load(source) if path not in sys.path] + [""]
pickle.load(source)(source, int(sys.argv[2]))
"""


def call(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Call a function, and run the coroutine to its end if it returns one.

    Returns
    -------
    dict
        ``status``, ``exit_status``, and ``value`` or ``error`` and ``traceback``, as in a record.
    """
    try:
        value = function(*args, **kwargs)
        if inspect.iscoroutine(value):
            import asyncio

            value = asyncio.run(value)
    except BaseException as error:  # also SystemExit: a task never ends its worker
        return _failed(describe(error), error)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
    return {"status": "finished", "exit_status": 0, "value": value}


def describe(error: BaseException) -> str:
    """Return an exception in words, also one that cannot say what it is."""
    try:
        return _shortened(f"{type(error).__name__}: {error}", _LONGEST_ERROR)
    except BaseException:  # not even that
        return type(error).__name__


def _traceback(error: BaseException) -> str:
    try:
        found = error.__traceback__
        found = found and (found.tb_next or found)  # not the line above
        lines = traceback.format_exception(type(error), error, found)
        return _shortened("".join(lines), _LONGEST_TRACEBACK)
    except BaseException:  # no memory, or too deep still
        return ""


def _shortened(text: str, most: int) -> str:
    """Return the beginning and the end of a text that is too long."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}\n[{len(text) - most} characters]\n{text[-(most // 2) :]}"


def request(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """Return what ``BOOT`` reads: where modules are, what answers it, and what to call.

    Raises
    ------
    Exception
        One of them cannot be pickled.
    """
    places = [path for path in sys.path if path]
    with contextlib.suppress(OSError):  # this directory may be gone
        places += [os.getcwd()] if "" in sys.path else []
    parts = (places, _answer, (function, tuple(args), dict(kwargs)))
    return b"".join(dumps(part) for part in parts)


def _answer(source: IO[bytes], descriptor: int) -> None:
    """Do what is asked; this is run by ``BOOT``."""
    os.set_inheritable(descriptor, False)
    del sys.argv[1:]
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        with source:
            function, args, kwargs = pickle.load(source)
    except BaseException as error:
        outcome = _failed(f"it cannot be loaded in its process: {describe(error)}", error)
    else:
        outcome = call(function, args, kwargs)
    try:
        text = dumps(outcome)
    except BaseException as error:
        outcome = _failed(f"its result cannot be pickled: {describe(error)}", error)
        text = dumps(outcome)
    with contextlib.suppress(OSError), open(descriptor, "wb") as answer:
        answer.write(text)


def _failed(text: str, error: BaseException) -> dict[str, Any]:
    trace = _traceback(error)
    return {"status": "failed", "exit_status": 1, "error": text, "traceback": trace}


def result(ended: Mapping[str, Any], answer: bytes) -> dict[str, Any]:
    """Return what became of a callable in its own process.

    Parameters
    ----------
    ended : mapping
        What became of the process, as for a program, always with its ``output``.
    answer : bytes
        What it has answered before.
    """
    outcome = dict(ended)
    if outcome["status"] not in ("finished", "failed"):
        return outcome
    died = outcome["status"] == "failed"
    try:
        told = pickle.loads(answer) if answer else None
    except BaseException as error:
        if not died:
            return outcome | _failed(f"its result cannot be loaded: {describe(error)}", error)
        told = None
    if told is None:
        nothing = {"status": "failed", "exit_status": 1, "error": "it ended without a result"}
        return outcome if died else outcome | nothing
    if told["status"] == "failed":
        return outcome | told
    if died:
        return outcome | {"error": f"{outcome['error']}, after it had returned"}
    return told
