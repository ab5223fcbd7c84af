"""Pickle functions and classes by value, for processes that lack the module that defines them.

It needs only cloudpickle, so that ``ips_core`` can use it in every process, and workers receive it
by value as well.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from types import CodeType
from typing import IO, Any

import cloudpickle

__all__ = ["ByValue", "dump", "dumps"]

#: cloudpickle 3.1.3 and later write this instead of a file name, so that the pickle of a notebook's
#: cell is reproducible (see ``_code_reduce`` there).
_NO_FILE = "<dynamic-code>"


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle is untyped
    """A pickler that keeps the file names of code, without which tracebacks show no source."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, CodeType):
            constructor, arguments = self.dispatch_table[CodeType](value)
            named = (value.co_filename if each == _NO_FILE else each for each in arguments)
            return constructor, tuple(named)
        # No super(): this class is pickled by value itself.
        return cloudpickle.Pickler.reducer_override(self, value)


def dump(value: Any, file: IO[bytes]) -> None:
    """Write a value to a file, for ``cloudpickle.load`` or ``pickle.load``."""
    _Pickler(file).dump(value)


def dumps(value: Any) -> bytes:
    """Return a value as bytes, for ``cloudpickle.loads`` or ``pickle.loads``."""
    file = io.BytesIO()
    dump(value, file)
    return file.getvalue()


class ByValue:
    """A function or class of this project that every pickler pickles by value.

    ``cloudpickle.register_pickle_by_value`` alone is not enough: distributed tries plain pickle
    first, which writes a reference (https://github.com/dask/distributed/issues/8607).
    """

    def __init__(self, thing: Callable[..., Any]) -> None:
        package = sys.modules[thing.__module__.partition(".")[0]]
        registered = package.__name__ in cloudpickle.list_registry_pickle_by_value()
        cloudpickle.register_pickle_by_value(package)
        try:
            self._pickled = dumps(thing)
        finally:
            if not registered:
                cloudpickle.unregister_pickle_by_value(package)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[bytes]]:
        return cloudpickle.loads, (self._pickled,)

    def __call__(self, *args: Any) -> Any:
        """Call the function here; the first part of a reduce value must be callable for pickle."""
        return cloudpickle.loads(self._pickled)(*args)
