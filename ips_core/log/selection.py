"""Which sinks a simulation's log has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ips_core.log.eventlog import EventLog
from ips_core.log.html_table import HtmlTable
from ips_core.log.portal import Portal

if TYPE_CHECKING:
    from ips_core.config import SimulationConfig
    from ips_core.log.simulation_log import Sink

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
        Whether there is a portal, and its address; USER_W3_DIR and HTML_DUMP_FREQ.
    directory : pathlib.Path
        ``SIM_ROOT/simulation_log``; made if it is not there.
    run_id : str
        The portal run id; also the stem of the files' names.
    say : callable
        Takes a sentence for the user; called by any thread.
    platform : dict, optional
        Values of the platform file; USER_W3_DIR and HTML_DUMP_FREQ may stand there, too.

    Raises
    ------
    OSError
        A file cannot be opened.
    """

    seen = (platform or {}) | config.environment | config.values
    directory.mkdir(parents=True, exist_ok=True)
    every = str(seen.get("HTML_DUMP_FREQ", "")).strip()
    sinks: list[Sink] = [
        EventLog(directory / f"{run_id}.eventlog"),
        HtmlTable(
            directory / f"{run_id}.html",
            say,
            copy_to=str(seen.get("USER_W3_DIR", "")).strip(),
            every=int(every) if every.isdecimal() else 10,
        ),
    ]
    if config.use_portal and (url := config.portal_url.strip()):
        if url.startswith(("http://", "https://")):
            sinks.append(Portal(url, say))
        else:
            say(f"PORTAL_URL = {url}: expected http:// or https://; nothing is sent")
    return sinks
