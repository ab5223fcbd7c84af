"""The simulation log: its only writer, and its reader.

One JSON object a line, appended and flushed at once, so that it can be read while the simulation
goes on and is whole after any kind of death.
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
    """Where events go besides the log itself; it never raises, and only :meth:`close` waits."""

    def write(self, events: Sequence[dict[str, Any]]) -> None:
        """Take events, as they stand in the log, in its order."""

    def end(self) -> None:
        """Take note that no more follow."""

    def close(self) -> None:
        """Let go of everything; wait a few seconds at most for what is under way."""


class SimulationLog:
    """The log of one simulation, open for writing.

    Parameters
    ----------
    directory : pathlib.Path
        ``SIM_ROOT/simulation_log``; made if it is not there.
    run_id : str
        The portal run id; also the stem of the file's name.
    simulation : str
        Name of the simulation.
    sinks : sequence of Sink
        Who gets the events, too; closed with the log.
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
        """Append an event, completed by what only the writer knows.

        A ``phystimestamp`` or a ``vizurl`` that an event brings holds for those after it, too.
        """
        self.write_all([event])

    def write_all(self, events: Iterable[dict[str, Any]], simulation: str | None = None) -> None:
        """Append several events with one write.

        Parameters
        ----------
        events : iterable of dict
            As ``events`` makes them.
        simulation : str, optional
            Whose they are, if they are a sub-workflow's. Default: the log's simulation.
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
        """Write no more; what sinks have under way goes on until :meth:`close`."""
        self._file.close()
        for sink in self._sinks:
            sink.end()

    def close(self) -> None:
        """Close the sinks, which takes a few seconds at most; :meth:`end` comes first."""
        for sink in self._sinks:
            sink.close()


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Return the events of a simulation log, also of one that is still being written.

    Parameters
    ----------
    path : str or pathlib.Path
        A ``.json`` file of ``simulation_log/``, or that folder: its newest log then.

    Raises
    ------
    FileNotFoundError
        There is no such file, or no log in the folder.

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
    # a last line without its end is just being written
    lines = path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
    return [json.loads(line) for line in lines]
