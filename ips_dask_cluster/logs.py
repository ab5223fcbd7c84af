"""Read the log files of a cluster: one for each node and role, and one for each step."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from distributed.utils import Log, Logs

from ips_dask_cluster.errors import ClusterError

__all__ = ["end_of_file", "read_logs"]

_BYTES = 100_000


def end_of_file(path: Path, size: int) -> str:
    """Return the last ``size`` bytes of a file as text; empty if the file cannot be read."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - size))
        return file.read().decode(errors="replace")
    return ""


def read_logs(directory: Path, cluster: str, scheduler: bool, workers: bool) -> Logs:
    """Return the ends of the logs that a cluster's scheduler and workers wrote, by ``ROLE-NODE``.

    The files are named ``CLUSTER-ROLE-NODE.log``. Raises ``ClusterError`` if the directory has been
    removed.
    """
    roles = [f"{cluster}-scheduler-"] * scheduler + [f"{cluster}-worker-"] * workers
    try:
        paths = sorted(directory.iterdir())
    except OSError:
        raise ClusterError(
            f"the logs of cluster {cluster} went with its run directory when it was closed; pass "
            "log_directory= to keep them"
        ) from None
    return Logs(
        (path.stem.removeprefix(f"{cluster}-"), Log(end_of_file(path, _BYTES)))
        for path in paths
        if path.name.startswith(tuple(roles))
        and path.suffix == ".log"
        and not path.name.endswith(".step.log")
    )
