"""Import dask-jobqueue without its side effects; no other module imports it.

On import, ``dask_jobqueue.runner`` (0.9.0) installs a SIGINT handler, which also fails outside of
the main thread, and ``dask_jobqueue.config`` writes ``jobqueue.yaml`` into the user's configuration
directory. This module prevents both: Ctrl-C and the user's files are left to the program.
"""

from __future__ import annotations

import signal
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

import dask
import yaml

__all__ = ["Job", "JobQueueCluster", "shipped_sections"]

_lock = threading.Lock()


def _import_core() -> Any:
    install, ensure_file = signal.signal, dask.config.ensure_file

    def install_unless_runner(number: int, handler: Any) -> Any:
        if sys._getframe(1).f_globals.get("__name__") == "dask_jobqueue.runner":
            return None
        return install(number, handler)

    def ensure_unless_config(source: str, *arguments: Any, **keywords: Any) -> None:
        if sys._getframe(1).f_globals.get("__name__") != "dask_jobqueue.config":
            ensure_file(source, *arguments, **keywords)

    with _lock:
        signal.signal = install_unless_runner  # type: ignore[assignment]
        dask.config.ensure_file = ensure_unless_config
        try:
            from dask_jobqueue import core
        finally:
            signal.signal = install
            dask.config.ensure_file = ensure_file
    return core


_core = _import_core()
Job = _core.Job
JobQueueCluster = _core.JobQueueCluster


@cache
def shipped_sections() -> dict[str, dict[str, Any]]:
    """Return the sections that dask-jobqueue itself has below ``jobqueue``, such as ``slurm``."""
    text = Path(_core.__file__).with_name("jobqueue.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["jobqueue"]
