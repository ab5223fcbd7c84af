"""Call a function that is a task, in this process or in a separate one.

This module needs only the standard library and cloudpickle, because Dask workers get it by value
(see ``tasks.runner.BY_VALUE``).
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

#: Program of a callable's separate process, run as ``python -c BOOT READ WRITE``: it reads the
#: request from one descriptor and writes the answer to the other. Empty entries of sys.path, which
#: mean the working directory, move to the end, so that no file there hides a module of Python.
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
    """Call a function, run a coroutine that it returns to its end, and return the outcome.

    The outcome has ``status``, ``exit_status``, and ``value`` or ``error`` and ``traceback``, as in
    a record.
    """
    try:
        value = function(*args, **kwargs)
        if inspect.iscoroutine(value):
            import asyncio

            value = asyncio.run(value)
    except BaseException as error:  # SystemExit, too: a task must not end its worker.
        return _failed(describe(error), error)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
    return {"status": "finished", "exit_status": 0, "value": value}


def describe(error: BaseException) -> str:
    """Return an exception as text, even if its own ``__str__`` raises."""
    try:
        return _shortened(f"{type(error).__name__}: {error}", _LONGEST_ERROR)
    except BaseException:  # ``__str__`` raised.
        return type(error).__name__


def _traceback(error: BaseException) -> str:
    try:
        found = error.__traceback__
        found = found and (found.tb_next or found)  # Without the frame of `call`.
        lines = traceback.format_exception(type(error), error, found)
        return _shortened("".join(lines), _LONGEST_TRACEBACK)
    except BaseException:  # Memory ran out, or the recursion is still too deep.
        return ""


def _shortened(text: str, most: int) -> str:
    """Return a text, or the beginning and the end of one longer than ``most`` characters."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}\n[{len(text) - most} characters]\n{text[-(most // 2) :]}"


def request(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """Return the bytes that ``BOOT`` reads: search paths, the function `_answer`, and the call.

    Raises whatever pickling the function or its arguments raises.
    """
    places = [path for path in sys.path if path]
    with contextlib.suppress(OSError):  # The working directory may have been removed.
        places += [os.getcwd()] if "" in sys.path else []
    parts = (places, _answer, (function, tuple(args), dict(kwargs)))
    return b"".join(dumps(part) for part in parts)


def _answer(source: IO[bytes], descriptor: int) -> None:
    """Read a call, make it, and write its outcome to a descriptor; ``BOOT`` runs this."""
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
    """Return the outcome of a callable in a separate process.

    ``ended`` is the outcome of the process, as for a program, always with ``output``; ``answer`` is
    what the process wrote to its descriptor.
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
