"""What an event of the simulation log is: pure functions that make one.

Names, comments and fields are IPS's; ``docs/simulation_log.md`` has the schema.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "as_json",
    "call_target",
    "clock",
    "component_event",
    "framework_event",
    "root_target",
    "simulation_fields",
    "span_id",
    "trace",
]


#: Of a call's arguments in the log, which has them in both of its events, and in each twice.
_LONGEST_ARGUMENTS = 500

_as_json = json.JSONEncoder(default=str, allow_nan=False).encode  # made once, not for each event


def as_json(event: Mapping[str, Any]) -> str:
    """Return an event as JSON; a value that JSON does not know becomes text, and costs no line."""
    with contextlib.suppress(Exception):
        return _as_json(event)
    return json.dumps({str(name): _as_text(value) for name, value in event.items()})


def _as_text(value: Any) -> Any:
    for known in (lambda: json.loads(json.dumps(value, allow_nan=False)), lambda: str(value)):
        with contextlib.suppress(Exception):
            return known()
    return f"<{type(value).__name__}>"


def clock(at: float) -> str:
    """Return a moment, in seconds since the epoch, as events write it: local time and zone."""
    return _clock_of(int(at))


@functools.lru_cache(maxsize=64)  # thousands of events have the same
def _clock_of(second: int) -> str:
    return time.strftime("%Y-%m-%d|%H:%M:%S%Z", time.localtime(second))


def framework_event(
    eventtype: str, comment: str, *, at: float, started: float, ok: bool = True, **fields: Any
) -> dict[str, Any]:
    """Return an event of the framework.

    Parameters
    ----------
    eventtype, comment : str
        What happened, in IPS's words.
    at, started : float
        When it happened and when the framework started, in seconds since the epoch.
    ok : bool
        Whether it went well.
    **fields
        Further fields.
    """
    event = {
        "code": "Framework",
        "eventtype": eventtype,
        "ok": ok,
        "comment": comment,
        "walltime": f"{at - started:.2f}",
        "time": clock(at),
    }
    return event | fields


def component_event(
    code: str,
    eventtype: str,
    comment: str,
    *,
    at: float,
    started: float,
    ok: bool = True,
    trace: dict[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Return an event of a component.

    Parameters
    ----------
    code : str
        The component, ``CLASS_SUBCLASS_NAME``.
    eventtype, comment, at, started, ok, **fields
        As for :func:`framework_event`.
    trace : dict, optional
        Of :func:`trace`, for the end of something.
    """
    event: dict[str, Any] = {
        "code": code,
        "eventtype": eventtype,
        "ok": ok,
        "walltime": f"{at - started:.2f}",
        "time": clock(at),
    }
    if trace is not None:
        event["trace"] = trace
    return event | {"state": "Running", "comment": comment} | fields


def simulation_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what IPS_START tells of a simulation, from its file's top level."""
    named = {
        "outputprefix": "OUTPUT_PREFIX",
        "tag": "TAG",
        "tokamak": "TOKAMAK_ID",
        "shotno": "SHOT_NUMBER",
        "sim_runid": "RUN_ID",
    }
    comment = values.get("RUN_COMMENT") or values.get("SIMULATION_DESCRIPTION")
    found = {field: values[key] for field, key in named.items() if values.get(key)}
    return {"rcomment": comment or "SWIM simulation run", **found}


def root_target(simulation: str) -> str:
    """Return the target of a simulation's outermost span, also for one of its sub-workflows."""
    return f"{simulation.partition('::')[0]}@FRAMEWORK@Framework@0"


def span_id(target: str, operation: str = "", call_id: object = "") -> str:
    """Return the id of a span of a trace (16 hexadecimal digits, as Zipkin wants them)."""
    text = f"{target}:{operation}:{call_id}" if operation or call_id else target
    return hashlib.md5(text.encode(errors="surrogateescape"), usedforsecurity=False).hexdigest()[
        :16
    ]


def trace(
    target: str,
    operation: str,
    *,
    span: str,
    begin: float,
    end: float,
    parent: str | None = None,
    **tags: object,
) -> dict[str, Any]:
    """Return the Zipkin span of something that has ended.

    Parameters
    ----------
    target, operation : str
        Who did what.
    span, parent : str
        Ids of this span and of the one around it.
    begin, end : float
        Seconds since the epoch.
    **tags
        Kept as text.
    """
    found: dict[str, Any] = {
        "timestamp": int(begin * 1e6),
        "duration": int((end - begin) * 1e6),
        "localEndpoint": {"serviceName": target},
        "name": operation,
        "id": span,
    }
    if parent:
        found["parentId"] = parent
    if tags:
        found["tags"] = {name: str(value) for name, value in tags.items()}
    return found


def call_target(
    component_id: object, method: str, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[str, str]:
    """Return target and operation of a call, such as ``("sim@Worker@2", "step(0.000)")``.

    Of the arguments, the first 500 characters are there.
    """

    def text(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    words = [text(value) for value in args] + [f"{k}={text(v)}" for k, v in kwargs.items()]
    shown = " ,".join(words)
    if len(shown) > _LONGEST_ARGUMENTS:
        shown = f"{shown[:_LONGEST_ARGUMENTS]}..."
    return str(component_id), f"{method}({shown})"
