"""The one place that imports dask-jobqueue, without its side effect.

``dask_jobqueue.runner`` (0.9.0) installs a SIGINT handler when it is imported, which also fails
outside of the main thread. Ctrl-C stays the program's own business here.
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

__all__ = ["Job", "JobQueueCluster"]

_lock = threading.Lock()


def _import_core() -> Any:
    install = signal.signal

    def install_unless_runner(number: int, handler: Any) -> Any:
        if sys._getframe(1).f_globals.get("__name__") == "dask_jobqueue.runner":
            return None
        return install(number, handler)

    with _lock:
        signal.signal = install_unless_runner  # type: ignore[assignment]
        try:
            from dask_jobqueue import core
        finally:
            signal.signal = install
    return core


_core = _import_core()
Job = _core.Job
JobQueueCluster = _core.JobQueueCluster
