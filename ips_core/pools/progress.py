"""A progress bar for those who watch a pool."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any, Protocol

__all__ = ["Progress", "is_watched", "progress"]

_TERMINAL_SECONDS, _NOTEBOOK_SECONDS = 0.1, 1.0  # between two drawings, at least


class Progress(Protocol):
    """Shows how far a pool is."""

    def update(self, done: int, failed: int) -> None:
        """Tell how many tasks have ended, and how many of them without success."""
        ...


class _NoBar:
    def update(self, done: int, failed: int) -> None:
        pass


class _Bar:
    """A bar of tqdm's."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def update(self, done: int, failed: int) -> None:
        if failed:
            self._bar.set_postfix(failed=failed, refresh=False)
        self._bar.update(done - self._bar.n)


class _Stderr:
    """Stderr, which may be closed, or hung up: a bar that nobody sees is no error."""

    def __init__(self) -> None:
        self._file = sys.stderr

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # tqdm sees to a closed one
            self._file.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):  # tqdm sees to a closed one
            self._file.flush()

    def __getattr__(self, name: str) -> Any:  # its encoding and size
        return getattr(self._file, name)


@contextlib.contextmanager
def progress(pool: str, total: int | None, interactive: bool = False) -> Iterator[Progress]:
    """Show a bar on stderr while a pool is waited for.

    It is drawn if stderr is a terminal or somebody watches in a notebook, and ends with a whole
    line, however the wait ends. The environment variable ``TQDM_DISABLE=1`` turns it off, like any
    bar of tqdm's; https://github.com/tqdm/tqdm#parameters has other ``TQDM_`` ones. It has no
    colours.

    Parameters
    ----------
    pool : str
        Name of the pool.
    total : int or None
        Number of tasks; None if that is not known.
    interactive : bool
        True if the simulation was started from a notebook.

    Yields
    ------
    Progress
        What is to be told how far the pool is.
    """
    if not is_watched(interactive):
        yield _NoBar()
        return
    with _tqdm_bar(pool, total, _NOTEBOOK_SECONDS if interactive else _TERMINAL_SECONDS) as bar:
        yield _Bar(bar)


def is_watched(interactive: bool) -> bool:
    """Tell whether anybody sees a bar; ``interactive`` as for :func:`progress`."""
    try:
        return interactive or sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def _tqdm_bar(pool: str, total: int | None, seconds: float) -> Any:
    from tqdm.std import tqdm  # here: a batch job has no use for it

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # no thread that redraws: it would outlive the bar

    # of threads only: tqdm's own is shared with child processes, for which Python may start one
    Bar.set_lock(threading.RLock())
    return Bar(
        desc=f"pool {pool}",
        file=_Stderr(),
        total=total,
        unit=" tasks",
        mininterval=seconds,
        miniters=1,  # else tqdm guesses how many updates to pass over
        dynamic_ncols=True,
    )
