"""Give worker plugins to a cluster before its workers connect, and log what they report.

This is the driver's side; the code that runs on the workers is in ``plugin_guard``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distributed.core import rpc
from distributed.diagnostics.plugin import NannyPlugin, SchedulerPlugin, WorkerPlugin

from ips_dask_cluster.by_value import ByValue, dumps
from ips_dask_cluster.dask.broadcast import run_on_workers
from ips_dask_cluster.dask.plugin_guard import TOPIC, guard, set_up, tear_down
from ips_dask_cluster.errors import WorkerPluginError
from ips_dask_cluster.tls_errors import isolating_plugin

__all__ = ["ClusterPlugins", "named", "sentences"]

logger = logging.getLogger("ips_dask_cluster")

_ISOLATING = "ips-dask-tls-errors"
_NAMED_WORKERS = 3
_SECONDS_BETWEEN_REPORTS = 2
#: Seconds beyond the plugins' own deadline in which their workers must answer.
_ANSWER_SECONDS = 10


def named(plugins: Sequence[WorkerPlugin]) -> dict[str, WorkerPlugin]:
    """Return plugins by name; a plugin without a name gets that of its class.

    Raises ``TypeError`` if an element is not an instance of ``WorkerPlugin``, and ``ValueError`` if
    two have the same name.
    """
    if isinstance(plugins, (WorkerPlugin, str)) or not isinstance(plugins, Iterable):
        raise TypeError(f"worker_plugins: a list of plugins is needed, not {plugins!r}")
    for plugin in plugins:
        if not isinstance(plugin, WorkerPlugin):
            raise TypeError(f"worker_plugins: {_why_not(plugin)}")
    given = Counter(str(plugin.name) for plugin in plugins if hasattr(plugin, "name"))
    twice = [name for name, count in given.items() if count > 1]
    if twice:
        raise ValueError(
            f"worker_plugins: {given[twice[0]]} plugins have the name {twice[0]!r}, and the last "
            "would replace the others; give each its own"
        )
    found: dict[str, WorkerPlugin] = {}
    for plugin in plugins:
        base = name = str(getattr(plugin, "name", type(plugin).__name__))
        number = 1
        while not hasattr(plugin, "name") and (name in found or name in given):
            number += 1
            name = f"{base}-{number}"
        found[name] = plugin
    return found


def _why_not(plugin: Any) -> str:
    if isinstance(plugin, type):
        return f"{plugin.__name__} is a class; pass an instance, {plugin.__name__}(...)"
    for kind in (NannyPlugin, SchedulerPlugin):
        if isinstance(plugin, kind):
            return (
                f"{type(plugin).__name__} is a {kind.__name__}; here only a WorkerPlugin has "
                "a place, register it with Client.register_plugin"
            )
    return f"{plugin!r} is no WorkerPlugin; derive its class from distributed.WorkerPlugin"


def sentences(reports: Iterable[Mapping[str, str]]) -> list[str]:
    """Return one sentence for each problem, however many workers reported it."""
    workers: dict[tuple[str, str, str], list[str]] = {}
    for report in reports:
        key = (report["plugin"], report["action"], report["problem"])
        workers.setdefault(key, []).append(report["worker"])
    return [
        f"worker plugin {plugin!r}, {action} on {_some(names)}: {problem}"
        for (plugin, action, problem), names in workers.items()
    ]


def _some(workers: Sequence[str]) -> str:
    names = sorted(set(workers))
    more = f" and {len(names) - _NAMED_WORKERS} more" if len(names) > _NAMED_WORKERS else ""
    return ", ".join(names[:_NAMED_WORKERS]) + more


class _Guarded:
    """A plugin as the scheduler keeps it: unpickling it on a worker calls ``guard``."""

    def __init__(self, plugin: WorkerPlugin, name: str, seconds: float) -> None:
        self.arguments = (dumps(plugin), name, seconds)

    def __reduce__(self) -> tuple[Any, ...]:
        return ByValue(guard), self.arguments


def _pickled(plugin: WorkerPlugin, name: str, seconds: float) -> bytes:
    try:
        return dumps(_Guarded(plugin, name, seconds))
    except Exception as error:
        raise TypeError(f"worker_plugins: {name!r} cannot be pickled: {error}") from error


class _Isolating:
    """The plugin that isolates TLS errors in a process that a nanny starts."""

    def __reduce__(self) -> tuple[Any, ...]:
        return ByValue(isolating_plugin), ()


class ClusterPlugins:
    """The worker plugins of one cluster, from before its first worker to after its last.

    ``teardown_timeout`` is in seconds, for each worker. ``nanny`` tells whether nannies start the
    workers, in processes that the node script does not prepare. Raises like :func:`named`.
    """

    def __init__(
        self, plugins: Sequence[WorkerPlugin], teardown_timeout: float, nanny: bool = False
    ) -> None:
        self.plugins = named(plugins)
        self.teardown_timeout = teardown_timeout
        #: Whether any worker has reported a problem.
        self.trouble = False
        self._last: Any = None
        self._pickled = {
            name: _pickled(plugin, name, teardown_timeout) for name, plugin in self.plugins.items()
        }
        if nanny:
            self._pickled[_ISOLATING] = dumps(_Isolating())

    @property
    def seconds(self) -> float:
        """Seconds that teardown may take on a worker; 0 without plugins."""
        return self.teardown_timeout if self.plugins else 0.0

    async def register(self, address: str, connection_args: dict[str, Any]) -> None:
        """Register the plugins with the scheduler, which should happen before any worker connects.

        A worker that registers at the same time would get them twice from the scheduler.
        ``connection_args`` come from ``Security.get_connection_args("client")``.
        """
        if not self._pickled:
            return
        async with rpc(address, connection_args=connection_args) as scheduler:
            for name, pickled in self._pickled.items():
                await scheduler.register_worker_plugin(plugin=pickled, name=name, idempotent=False)

    async def wait_set_up(self, scheduler: Any, workers: Mapping[str, str], seconds: float) -> None:
        """Wait up to ``seconds`` until workers (names by address) have set up the plugins.

        Raises ``WorkerPluginError`` if a plugin could not be set up, or not in time.
        """
        if not self.plugins:
            return
        names = list(self.plugins)
        answers = await run_on_workers(
            scheduler, list(workers), ByValue(set_up), names=names, seconds=seconds
        )
        failed: dict[tuple[str, str], list[str]] = {}
        for address, problems in answers.items():
            for name, problem in problems.items():
                failed.setdefault((name, problem), []).append(workers[address])
        for (name, problem), where in failed.items():
            raise WorkerPluginError(name, _some(where), problem)

    async def tear_down(self, scheduler: Any, workers: list[str]) -> None:
        """Tear down the plugins on workers, by address, that are about to leave; never raises."""
        if not self.plugins or not workers:
            return
        seconds = self.teardown_timeout + _ANSWER_SECONDS
        try:
            asked = run_on_workers(scheduler, workers, ByValue(tear_down), names=list(self.plugins))
            await asyncio.wait_for(asked, seconds)
        except TimeoutError:
            self.trouble = True
            logger.warning(
                "worker plugins were not torn down within %g s on all of %d worker(s); see the "
                "workers' logs, or choose a larger teardown_timeout",
                seconds,
                len(workers),
            )
        except Exception:
            logger.debug("nobody answered the order to tear down plugins", exc_info=True)
        await self.report(scheduler)

    async def watch(self, scheduler: Any) -> None:
        """Log the workers' reports until cancelled."""
        while self.plugins:
            await asyncio.sleep(_SECONDS_BETWEEN_REPORTS)
            await self.report(scheduler)

    async def report(self, scheduler: Any) -> None:
        """Log the workers' reports since the last call; never raises."""
        if not self.plugins:
            return
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            events = tuple(await scheduler.events(topic=TOPIC))
            new = [message for _, message in _after(events, self._last)]
            self._last = events[-1] if events else None
            self.trouble = self.trouble or bool(new)
            for sentence in sentences(new):
                logger.warning("%s", sentence)


def _after(events: tuple[Any, ...], last: Any) -> tuple[Any, ...]:
    """Return the events after ``last``; all events once the scheduler has dropped that one."""
    return events[events.index(last) + 1 :] if last in events else events
