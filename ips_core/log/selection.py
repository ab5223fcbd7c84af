"""Choose the sinks of a simulation's log."""

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
    """Return the open sinks of a simulation's log in `directory`, which is created if missing.

    `run_id` is the stem of the files' names. USER_W3_DIR and HTML_DUMP_FREQ come from the
    simulation file, the environment or the values of the platform file. `say` gets messages for the
    user from any thread. Raise OSError if a file cannot be opened.
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
