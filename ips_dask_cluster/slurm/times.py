"""Parse the times that Slurm prints; ``commands`` asks for them in UTC."""

from __future__ import annotations

import datetime

__all__ = ["end_time"]

# Slurm ends a job without a limit after a year, and some versions print that end
_FAR_AWAY = datetime.timedelta(days=365)


def end_time(limit: str, start: str, end: str) -> datetime.datetime | None:
    """Return when a job ends, in local time; None when it has no end or the end is unknown.

    The arguments are ``TimeLimit``, ``StartTime`` and ``EndTime`` as Slurm prints them.
    """
    found, begin = _time(end), _time(start)
    if found is None or limit in ("UNLIMITED", "INVALID"):
        return None
    if begin is not None and found - begin >= _FAR_AWAY:
        return None
    # Through seconds since the epoch, which resolve the hour that occurs twice in autumn (fold)
    return datetime.datetime.fromtimestamp(found.timestamp())


def _time(text: str) -> datetime.datetime | None:
    try:
        found = datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S")
    except ValueError:  # Unknown, N/A, NONE
        return None
    return found.replace(tzinfo=datetime.UTC)
