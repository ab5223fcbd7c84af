"""Which sinks a simulation's log has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ips_core.sinks.eventlog import EventLog
from ips_core.sinks.html_table import HtmlTable
from ips_core.sinks.portal import Portal

if TYPE_CHECKING:
    from ips_core.config import SimulationConfig
    from ips_core.simulation_log import Sink

__all__ = ["log_sinks"]


def log_sinks(
    config: SimulationConfig,
    directory: Path,
    run_id: str,
    say: Callable[[str], None],
    platform: dict[str, Any] | None = None,
) -> list[Sink]:
    """Return the sinks of a simulation's log, open.

    Parameters
    ----------
    config : SimulationConfig
        USE_PORTAL, PORTAL_URL, USER_W3_DIR and HTML_DUMP_FREQ are read from it.
    directory : pathlib.Path
        ``SIM_ROOT/simulation_log``; made if it is not there.
    run_id : str
        The portal run id; also the stem of the files' names.
    say : callable
        Takes a sentence for the user; called by any thread.
    platform : dict, optional
        Values of the platform file, which count where the simulation file and the environment
        say nothing.

    Raises
    ------
    OSError
        A file cannot be opened.
    """

    def value(name: str, default: str = "") -> str:
        for source in (config.values, config.environment, platform or {}):
            if name in source:
                return str(source[name]).strip()
        return default

    directory.mkdir(parents=True, exist_ok=True)
    every = value("HTML_DUMP_FREQ")
    sinks: list[Sink] = [
        EventLog(directory / f"{run_id}.eventlog"),
        HtmlTable(
            directory / f"{run_id}.html",
            say,
            copy_to=value("USER_W3_DIR"),
            every=int(every) if every.isdecimal() else 10,
        ),
    ]
    url = value("PORTAL_URL")
    if url and value("USE_PORTAL", "true").lower() != "false":
        if url.startswith(("http://", "https://")):
            sinks.append(Portal(url, say))
        else:
            say(f"PORTAL_URL = {url}: expected http:// or https://; nothing is sent")
    return sinks
