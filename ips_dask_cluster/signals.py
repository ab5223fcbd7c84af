"""Close clusters and end the program in order on SIGTERM or the batch signal.

Slurm announces the end of a job by a signal (``sbatch --signal``) and then kills it. By default
Python dies from the signal, and runs no ``finally`` and no ``with`` block. While a cluster is open,
the signal raises ``SystemExit`` in the main thread instead, once.
"""

from __future__ import annotations

import builtins
import os
import signal
import threading
from collections.abc import Iterable
from types import FrameType
from typing import Any
from weakref import WeakSet

__all__ = ["exit_in_order_on", "numbers_of"]

_clusters: WeakSet[Any] = WeakSet()
_leaving = False


def exit_in_order_on(names: Iterable[str], cluster: Any) -> None:
    """Make signals end the program in order as long as a cluster is open.

    This changes nothing outside of the main thread, in a notebook (whose kernel survives the
    exception), and for signals that the program handles itself. The cluster is open until its
    ``status.name`` is ``"closed"``. Raises ``ValueError`` like :func:`numbers_of`.
    """
    numbers = numbers_of(names)
    in_notebook = getattr(builtins, "__IPYTHON__", False)
    if threading.current_thread() is not threading.main_thread() or in_notebook:
        return
    _clusters.add(cluster)
    for number in numbers:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _leave)


def numbers_of(names: Iterable[str]) -> list[signal.Signals]:
    """Return the signals with these names, such as ``"SIGTERM"``.

    Raises ``ValueError`` if a name is unknown or the signal cannot be handled (signal(7)).
    """
    numbers = []
    for name in names:
        if name not in signal.Signals.__members__:
            raise ValueError(
                f"close_on_signals: {name!r} is not the name of a signal, such as 'SIGUSR1'"
            )
        if name in ("SIGKILL", "SIGSTOP"):
            raise ValueError(f"close_on_signals: {name!r} cannot be handled; leave it out")
        numbers.append(signal.Signals[name])
    return numbers


def _leave(number: int, frame: FrameType | None) -> None:
    global _leaving
    if _leaving:  # only once; Slurm sends SIGKILL later anyway
        return
    if any(cluster.status.name != "closed" for cluster in _clusters):
        _leaving = True
        raise SystemExit(128 + number)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
