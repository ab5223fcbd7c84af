"""Show a progress bar while a component waits for a pool."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any, Protocol

__all__ = ["Progress", "is_watched", "progress"]

_TERMINAL_SECONDS, _NOTEBOOK_SECONDS = 0.1, 1.0  # least time between two drawings


class Progress(Protocol):
    """Display of how many tasks of a pool have ended."""

    def update(self, done: int, failed: int) -> None:
        """Show how many tasks have ended and how many of them failed."""
        ...


class _NoBar:
    def update(self, done: int, failed: int) -> None:
        pass


class _Bar:
    """A bar of tqdm."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def update(self, done: int, failed: int) -> None:
        if failed:
            self._bar.set_postfix(failed=failed, refresh=False)
        self._bar.update(done - self._bar.n)


class _Stderr:
    """Stderr that ignores write errors: a closed or hung-up terminal must not fail the run."""

    def __init__(self) -> None:
        self._file = sys.stderr

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # tqdm itself handles a closed file.
            self._file.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._file.flush()

    def __getattr__(self, name: str) -> Any:  # tqdm reads the encoding and the terminal's size.
        return getattr(self._file, name)


@contextlib.contextmanager
def progress(pool: str, total: int | None, interactive: bool = False) -> Iterator[Progress]:
    """Show a bar on stderr while the body waits for a pool; yield the :class:`Progress` to update.

    The bar appears if stderr is a terminal or the simulation was started from a notebook
    (``interactive``), and always ends with a whole line. It has no colours. ``TQDM_DISABLE=1``
    turns it off; https://github.com/tqdm/tqdm#parameters lists other ``TQDM_`` variables.
    """
    if not is_watched(interactive):
        yield _NoBar()
        return
    with _tqdm_bar(pool, total, _NOTEBOOK_SECONDS if interactive else _TERMINAL_SECONDS) as bar:
        yield _Bar(bar)


def is_watched(interactive: bool) -> bool:
    """Tell whether a user sees the bar: in a notebook (``interactive``) or on a terminal."""
    try:
        return interactive or sys.stderr.isatty()
    except (AttributeError, ValueError):  # stderr is None, or closed.
        return False


def _tqdm_bar(pool: str, total: int | None, seconds: float) -> Any:
    from tqdm.std import tqdm  # Imported late: batch jobs do not need it.

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # tqdm's redrawing thread would outlive the bar.

    # tqdm's default lock also serves child processes, and Python may start a process for it.
    Bar.set_lock(threading.RLock())
    return Bar(
        desc=f"pool {pool}",
        file=_Stderr(),
        total=total,
        unit=" tasks",
        mininterval=seconds,
        miniters=1,  # By default, tqdm guesses how many updates to skip.
        dynamic_ncols=True,
    )
