"""Wrap worker plugins on the worker: report their failures, and limit the time of their teardown.

The driver's side is in ``worker_plugins``. The code here is pickled by value and runs on workers
that need no package other than distributed and its dependencies.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any

import cloudpickle
from distributed.diagnostics.plugin import WorkerPlugin

__all__ = ["STOP_SECONDS", "TOPIC", "guard", "report", "set_up", "tear_down"]

#: Topic of ``Client.get_events`` and ``Client.subscribe_topic`` under which trouble is reported.
TOPIC = "ips-dask-plugins"
#: Seconds that a plugin gets to react to a request to stop.
STOP_SECONDS = 3.0

_REPORT_SECONDS = 5.0

# Below distributed's logger, whose messages are in the worker's log
logger = logging.getLogger("distributed.ips_dask_plugins")


async def report(worker: Any, plugin: str, action: str, problem: str) -> None:
    """Report a plugin's failure to the driver, through the scheduler, and to the worker's log.

    ``action`` is what failed, such as ``"teardown"``; ``problem`` is one sentence. When this
    returns, the scheduler has the report, unless it did not answer: a worker that ends right then
    loses nothing.
    """
    message = {"plugin": plugin, "worker": str(worker.name), "action": action, "problem": problem}
    logger.warning("worker plugin %r, %s: %s", plugin, action, problem)
    with contextlib.suppress(OSError, asyncio.TimeoutError):  # the log has the problem anyway
        told = worker.scheduler.log_event(topic=TOPIC, msg=message)
        await asyncio.wait_for(told, _REPORT_SECONDS)


def _describe(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text.encode(errors="backslashreplace").decode()


class _Unloadable(WorkerPlugin):
    """A substitute for a plugin that cannot be unpickled on a worker; setup raises the reason."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def setup(self, worker: Any) -> None:
        raise self.error


def guard(pickled: bytes, name: str, seconds: float) -> WorkerPlugin:
    """Return the unpickled plugin, with a setup and a teardown that report failures to the driver.

    An asynchronous teardown is cancelled after ``seconds``. The plugin stays the user's own object,
    since tasks look it up in ``Worker.plugins``. If it cannot be unpickled, the result is a plugin
    whose ``setup`` raises the reason.
    """
    plugin: Any
    try:
        plugin = cloudpickle.loads(pickled)
    except Exception as error:
        plugin = _Unloadable(error)
    inner_setup, inner_teardown = plugin.setup, plugin.teardown

    async def run(worker: Any, action: str, function: Callable[..., Any], limit: Any) -> str:
        try:
            result = function(worker=worker)
            if isawaitable(result):
                await _in_time(result, limit)
        except Exception as error:
            problem = _describe(error)
            await report(worker, name, action, problem)
            vars(plugin)["_ips_dask_setup"] = problem
            raise
        return ""

    async def setup(worker: Any) -> None:
        vars(plugin)["_ips_dask_setup"] = await run(worker, "setup", inner_setup, None)

    async def teardown(worker: Any) -> None:
        await run(worker, "teardown", inner_teardown, seconds)

    # Into the instance's dict, since a frozen class has a __setattr__ that raises
    vars(plugin).update(setup=setup, teardown=teardown)
    return plugin


async def _in_time(awaitable: Awaitable[Any], seconds: float | None) -> None:
    task = asyncio.ensure_future(awaitable)
    await asyncio.wait({task}, timeout=seconds)
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=2 * STOP_SECONDS)
        raise TimeoutError(f"it was not done after {seconds:g} s and was cancelled")
    task.result()


async def set_up(names: list[str], seconds: float, dask_worker: Any = None) -> dict[str, str]:
    """Wait on a worker until plugins are set up, and return the problem of each that is not.

    The wait ends after ``seconds``, or early when no plugin is pending. The names are those of
    plugins that :func:`guard` returned.
    """
    end = asyncio.get_running_loop().time() + seconds
    while True:
        plugins = {name: vars(dask_worker.plugins.get(name, _Unloadable)) for name in names}
        states = {name: state.get("_ips_dask_setup") for name, state in plugins.items()}
        late = asyncio.get_running_loop().time() > end
        if late or None not in states.values():
            slow = f"setup was not done after {seconds:g} s"
            return {n: slow if s is None else s for n, s in states.items() if s != ""}
        await asyncio.sleep(0.02)


async def tear_down(names: list[str], dask_worker: Any = None) -> None:
    """Remove plugins from a worker that is about to leave; it takes no new task from here on.

    The names are those of plugins that :func:`guard` returned.
    """
    from distributed.core import Status

    dask_worker.status = Status.closing_gracefully
    here = [name for name in names if name in dask_worker.plugins]
    await asyncio.gather(*(dask_worker.plugin_remove(name) for name in here))
