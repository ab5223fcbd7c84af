"""The simulation log: its only writer, and its reader.

One JSON object a line, appended and flushed at once, so that it can be read while the simulation
goes on and is whole after any kind of death.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Sink", "SimulationLog", "read_log"]

_as_json = json.JSONEncoder(default=str, allow_nan=False).encode  # made once, not for each event


class Sink(Protocol):
    """Where events go besides the log itself; it never blocks and never raises."""

    def write(self, events: Sequence[dict[str, Any]]) -> None:
        """Take events, as they stand in the log, in its order."""

    def close(self) -> None:
        """Take note that no more follow."""


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
        self._unwritten = b""
        self._complained = False
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115  # closed by close()

    def write(self, event: dict[str, Any]) -> None:
        """Append an event, completed by what only the writer knows."""
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
        self._unwritten += "".join(f"{_line(event)}\n" for event in completed).encode()
        self._flush()
        for sink in self._sinks:
            sink.write(completed)

    def _completed(self, event: dict[str, Any], simulation: str) -> dict[str, Any]:
        if "trace" in event:
            event = event | {"trace": event["trace"] | {"traceId": self._trace_id}}
        number = self._count
        self._count += 1
        return event | {
            "sim_name": simulation,
            "phystimestamp": -1,
            "portal_runid": self._run_id,
            "seqnum": number,
        }

    def _flush(self) -> None:
        """Write what is there; on a full disk keep it for the next time."""
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]
        except OSError as error:
            if not self._complained:
                self._complained = True
                print(f"{self.path}: {error.strerror}; trying again later", file=sys.stderr)

    def close(self) -> None:
        """Close the file and the sinks."""
        self._file.close()
        for sink in self._sinks:
            sink.close()


def _line(event: dict[str, Any]) -> str:
    """Return an event as JSON; a value that JSON does not know becomes text, and costs no line."""
    with contextlib.suppress(Exception):
        return _as_json(event)
    return json.dumps({str(name): _as_text(value) for name, value in event.items()})


def _as_text(value: Any) -> Any:
    for known in (lambda: json.loads(json.dumps(value, allow_nan=False)), lambda: str(value)):
        with contextlib.suppress(Exception):
            return known()
    return f"<{type(value).__name__}>"


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
