"""Write and read the simulation log.

The log has one JSON object a line, appended and flushed at once, so that it can be read while the
simulation runs and is complete after any kind of crash. The framework is its only writer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ips_core.log.appender import Appender
from ips_core.log.events import as_json

__all__ = ["Sink", "SimulationLog", "read_log"]


class Sink(Protocol):
    """A receiver of events besides the log; it never raises, and only :meth:`close` may block."""

    def write(self, events: Sequence[dict[str, Any]]) -> None:
        """Take events as the log has them, in the order of the log."""

    def end(self) -> None:
        """Finish: no more events follow."""

    def close(self) -> None:
        """Release everything; wait at most a few seconds for pending work."""


class SimulationLog:
    """The log of one simulation, open for writing: ``run_id.json`` in `directory`.

    The directory is created if it is missing. `sinks` get every event, too, and end and close with
    the log.
    """

    def __init__(
        self, directory: Path, run_id: str, simulation: str, sinks: Sequence[Sink] = ()
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / f"{run_id}.json"
        self._run_id = run_id
        self._trace_id = hashlib.md5(run_id.encode(), usedforsecurity=False).hexdigest()
        self._simulation = simulation
        self._sinks = tuple(sinks)
        self._count = 0
        self._phystimestamp: Any = -1
        self._vizurl = ""
        self._file = Appender(self.path)

    def write(self, event: dict[str, Any]) -> None:
        """Append an event, completed with the fields that only the log knows.

        The ``phystimestamp`` or ``vizurl`` of an event applies to later events, too.
        """
        self.write_all([event])

    def write_all(self, events: Iterable[dict[str, Any]], simulation: str | None = None) -> None:
        """Append several events with one write.

        `simulation` names the sub-workflow of the events. Default: the simulation of the log.
        """
        name = simulation or self._simulation
        completed = [self._completed(event, name) for event in events]
        self._file.write("".join(f"{as_json(event)}\n" for event in completed).encode())
        for sink in self._sinks:
            sink.write(completed)

    def _completed(self, event: dict[str, Any], simulation: str) -> dict[str, Any]:
        if "trace" in event:
            event = event | {"trace": event["trace"] | {"traceId": self._trace_id}}
        if "phystimestamp" in event:
            self._phystimestamp = event["phystimestamp"]
            event = {name: value for name, value in event.items() if name != "phystimestamp"}
        if "vizurl" in event:
            self._vizurl = event["vizurl"]
        elif self._vizurl:
            event = event | {"vizurl": self._vizurl}
        number = self._count
        self._count += 1
        return event | {
            "sim_name": simulation,
            "phystimestamp": self._phystimestamp,
            "portal_runid": self._run_id,
            "seqnum": number,
        }

    def end(self) -> None:
        """Close the file; sinks continue their pending work until :meth:`close`."""
        self._file.close()
        for sink in self._sinks:
            sink.end()

    def close(self) -> None:
        """Close the sinks, which takes at most a few seconds; call :meth:`end` before."""
        for sink in self._sinks:
            sink.close()


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Return the events of a simulation log, also while the simulation writes it.

    Parameters
    ----------
    path : str or pathlib.Path
        A ``.json`` file in ``simulation_log/``, or that folder, which stands for its newest log.

    Returns
    -------
    list of dict
        One dict for each complete line, in the order of the file.

    Raises
    ------
    FileNotFoundError
        The file does not exist, or the folder has no log.
    ValueError
        A complete line is not valid JSON.

    Examples
    --------
    >>> import pandas  # doctest: +SKIP
    >>> pandas.DataFrame(read_log("dask_sim/simulation_log"))  # doctest: +SKIP
    """
    path = Path(path)
    if path.is_dir():
        logs = list(path.glob("*.json"))
        if not logs:
            raise FileNotFoundError(f"there is no simulation log in {path}")
        path = max(logs, key=lambda file: file.stat().st_mtime)
    # A last line without a line end is still being written.
    lines = path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
    return [json.loads(line) for line in lines]
