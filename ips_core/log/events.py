"""Build the events of the simulation log.

All functions are pure. Names, comments and fields are those of IPS; ``docs/simulation_log.md`` has
the schema.
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


#: Most characters of a call's arguments: both events of a call have them, and each has them twice.
_LONGEST_ARGUMENTS = 500

# json.dumps would make an encoder for each event.
_as_json = json.JSONEncoder(default=str, allow_nan=False).encode


def as_json(event: Mapping[str, Any]) -> str:
    """Return an event as JSON; a value that JSON cannot represent becomes text."""
    with contextlib.suppress(Exception):
        return _as_json(event)
    return json.dumps({str(name): _as_text(value) for name, value in event.items()})


def _as_text(value: Any) -> Any:
    for known in (lambda: json.loads(json.dumps(value, allow_nan=False)), lambda: str(value)):
        with contextlib.suppress(Exception):
            return known()
    return f"<{type(value).__name__}>"


def clock(at: float) -> str:
    """Return a time in seconds since the epoch as events write it: local time and zone."""
    return _clock_of(int(at))


@functools.lru_cache(maxsize=64)  # thousands of events share a second
def _clock_of(second: int) -> str:
    return time.strftime("%Y-%m-%d|%H:%M:%S%Z", time.localtime(second))


def framework_event(
    eventtype: str, comment: str, *, at: float, started: float, ok: bool = True, **fields: Any
) -> dict[str, Any]:
    """Return an event of the framework.

    `at` is the time of the event and `started` the start of the framework, in seconds since the
    epoch.
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
    """Return an event of the component `code`; times are as for :func:`framework_event`.

    `trace`, made by :func:`trace`, belongs to an event that ends an operation.
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
    """Return the fields of IPS_START that come from the simulation file's top level."""
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
    """Return the target of a simulation's outermost span, which its sub-workflows share."""
    return f"{simulation.partition('::')[0]}@FRAMEWORK@Framework@0"


def span_id(target: str, operation: str = "", call_id: object = "") -> str:
    """Return the id of a span: 16 hexadecimal digits, as Zipkin requires."""
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
    """Return the Zipkin span of an operation that has ended.

    `begin` and `end` are in seconds since the epoch; tags become text.
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

    The operation has at most the first 500 characters of the arguments.
    """

    def text(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    words = [text(value) for value in args] + [f"{k}={text(v)}" for k, v in kwargs.items()]
    shown = " ,".join(words)
    if len(shown) > _LONGEST_ARGUMENTS:
        shown = f"{shown[:_LONGEST_ARGUMENTS]}..."
    return str(component_id), f"{method}({shown})"
