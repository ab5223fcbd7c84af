"""Ready-made Dask worker plugins: copy a node-local directory out, archive it again and again.

They work on any Dask cluster: give them to ``SlurmAllocationCluster(worker_plugins=...)`` or to
``Client.register_plugin``. Workers need not have this package: they travel by value.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import socket
import stat
import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distributed.diagnostics.plugin import WorkerPlugin

from ips_dask_cluster.by_value import ByValue
from ips_dask_cluster.dask.plugin_guard import STOP_SECONDS, TOPIC, report
from ips_dask_cluster.file_trees import (
    Copier,
    Entries,
    Outcome,
    Stopped,
    private_file,
    scan,
    write_tar,
)

__all__ = ["TOPIC", "Archive", "CopyOut"]


async def _in_thread(function: Callable[[threading.Event], Any]) -> Any:
    """Run in a daemon thread, since a hung file system must not keep the worker from ending.

    When cancelled, the function is told by its event to stop; what it then returns is returned.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    stop = threading.Event()

    def settle(set_it: Callable[[Any], None], value: Any) -> None:
        if not done.done():
            set_it(value)

    def run() -> None:
        try:
            outcome = (done.set_result, function(stop))
        except Exception as error:
            outcome = (done.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the worker has ended meanwhile
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="ips-dask-plugin", daemon=True).start()
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({done}, timeout=STOP_SECONDS)
        if done.done():
            return done.result()
        raise


def _revive(kind: type[_FilesPlugin], state: dict[str, Any]) -> _FilesPlugin:
    plugin = kind.__new__(kind)
    plugin.__dict__.update(state)
    return plugin


async def _round_now(name: str, dask_worker: Any = None) -> dict[str, Any]:
    plugin = dask_worker.plugins.get(name)
    if plugin is None:
        raise LookupError(f"worker {dask_worker.name} has no plugin {name!r}: register it first")
    return asdict(await plugin.round())


class _FilesPlugin(WorkerPlugin):
    """What both plugins share: a source, a target, rounds in a thread, reports."""

    def __init__(self, source: str | Path, target: str | Path, name: str) -> None:
        for what, path in (("source", source), ("target", target)):
            if not os.fspath(path):
                raise ValueError(f"{type(self).__name__}: the {what} is empty")
        self.source = os.fspath(source)
        self.target = os.fspath(target)
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return ByValue(_revive), (ByValue(type(self)), vars(self))

    async def setup(self, worker: Any) -> None:
        """Look at source and target on the worker, so that a wrong target is told at once."""
        self._worker = worker
        self._lock = asyncio.Lock()
        self._reported = ""
        self._source = _expanded("the source", self.source)
        self._target = _expanded("the target", self.target)
        real = Path(os.path.realpath(self._target))
        if real.is_relative_to(os.path.realpath(self._source)):
            raise ValueError(f"the target {self._target} is inside the source {self._source}")
        try:
            os.makedirs(self._target, exist_ok=True)
            part = self._part()
            private_file(part).close()  # what os.access says is not what every file system does
            os.unlink(part)
        except OSError as error:
            raise OSError(f"the target {self._target} is not writable: {error.strerror}") from None
        # of a predecessor, on this or another node, that was killed while it wrote
        for name in os.listdir(self._target):
            if name.startswith(self._part_stem()):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self._target, name))

    def _part_stem(self) -> str:
        """Return how the temporary files of this plugin begin, in every life of this worker."""
        owner = f"{self._worker.scheduler.address} {self._worker.name} {self.name}"
        digest = hashlib.sha256(owner.encode(errors="surrogateescape")).hexdigest()
        return f".ips-dask-{digest[:16]}-"

    def _part(self) -> str:
        """Return a temporary name of its own for each round: a hung one may still hold the last."""
        return os.path.join(self._target, f"{self._part_stem()}{uuid.uuid4().hex[:8]}.part")

    def _work(self, outcome: Outcome, stop: threading.Event) -> None:
        raise NotImplementedError

    async def round(self) -> Outcome:
        """Do the work once, on the worker; never raises but when it is cancelled."""

        def work(stop: threading.Event) -> Outcome:
            outcome = Outcome(self._source, self._target)
            try:
                self._work(outcome, stop)
            except Stopped:
                outcome.fail(".", f"stopped before the end: there was no more time: {self._left()}")
            except Exception as error:
                reason = error.strerror if isinstance(error, OSError) else ""
                where = getattr(error, "filename", None) or self._target
                outcome.fail(".", f"{where}: {reason or repr(error)}: {self._left()}")
            return outcome

        async with self._lock:
            outcome: Outcome = await _in_thread(work)
        return outcome

    def _left(self) -> str:
        """Return what the target has after a round that came to no end."""
        raise NotImplementedError

    async def _tell(self, outcome: Outcome, action: str) -> None:
        """Report trouble; the same trouble only once."""
        problem = outcome.problem()
        if problem and problem != self._reported:
            await report(self._worker, self.name, action, problem)
        self._reported = problem

    def now(self, client: Any) -> Any:
        """Do it now, on every worker that the client's cluster has.

        Parameters
        ----------
        client : distributed.Client
            Of the cluster where this plugin is registered.

        Returns
        -------
        dict or awaitable
            For each worker's address a dict: ``source`` and ``target`` as they are there,
            ``files`` and ``bytes`` written, ``unchanged`` files, and ``failed``, a dict of
            reasons by path (``"."``: all of it). A worker that could not be asked has the
            exception instead. Awaitable when the client is asynchronous.
        """
        return client.run(ByValue(_round_now), self.name, on_error="return")


class CopyOut(_FilesPlugin):
    """Copy a node-local directory to a target when the worker ends, and on demand.

    Each node gets a directory of its own below the target, by the node's name. Every file is
    written under a temporary name and renamed. What is there already with the same size and time
    is not copied again, so that two workers of one node share the work, and a copy at the end
    after one on demand is short. Nothing is ever removed from the target. What a task writes
    during the copy is copied up to the size that it had, and reported.

    Parameters
    ----------
    source, target : str or Path
        Directories; ``~`` and environment variables, such as ``$SLURM_JOB_ID``, are expanded on
        the worker. The target is made when missing. The source may appear later.
    name : str, optional
        Of the plugin. Default: ``"copy-out SOURCE"``.

    Raises
    ------
    ValueError
        A path is empty.

    Examples
    --------
    >>> CopyOut("/tmp/run-data", "$SCRATCH/results").name
    'copy-out /tmp/run-data'
    """

    def __init__(self, source: str | Path, target: str | Path, name: str | None = None) -> None:
        super().__init__(source, target, name or f"copy-out {os.fspath(source)}")

    def _work(self, outcome: Outcome, stop: threading.Event) -> None:
        node = os.environ.get("IPS_DASK_NODE") or socket.gethostname()
        outcome.target = target = os.path.join(self._target, _file_name(node))
        if not os.path.isdir(self._source):
            outcome.fail(".", f"{self._source} is no directory: nothing was copied")
            return
        Copier(self._source, target, self._part(), stop).copy(outcome)

    def _left(self) -> str:
        return f"not all of {self._source} was copied"

    async def teardown(self, worker: Any) -> None:
        """Copy for the last time."""
        await self._tell(await self.round(), "teardown")


class Archive(_FilesPlugin):
    """Archive a directory every so often, and when the worker ends: one tar file per worker.

    The archive ``SOURCE-NAME.WORKER.tar`` below the target is written under a temporary name,
    forced to disk and renamed: a kill at any moment leaves the last whole one. It is not written
    again while nothing has changed, and it is not replaced when the source has gone or is empty.
    A restarted worker begins a new one, ``....2.tar``, and leaves that of its predecessor. Plain
    ``tar -xf`` restores it.

    Parameters
    ----------
    source, target : str or Path
        Directories; ``~`` and environment variables, such as ``$SLURM_JOB_ID``, are expanded on
        the worker. The target is made when missing. The source may appear later.
    every : float, optional
        Seconds between archives. When writing one takes longer than that, the pause is as long as
        the writing was. Default: 300.
    compress : bool, optional
        Write ``.tar.gz``, at gzip's fastest level. Default: False, since the node's cores have
        better things to do.
    name : str, optional
        Of the plugin. Default: ``"archive SOURCE"``.

    Raises
    ------
    ValueError
        A path is empty, or ``every`` is not above 0.

    Examples
    --------
    >>> Archive("/tmp/run-data", "$SCRATCH/archives", every=600).name
    'archive /tmp/run-data'
    """

    def __init__(
        self,
        source: str | Path,
        target: str | Path,
        every: float = 300.0,
        *,
        compress: bool = False,
        name: str | None = None,
    ) -> None:
        if not every > 0:
            raise ValueError(f"Archive: every={every!r}: a number of seconds above 0 is needed")
        super().__init__(source, target, name or f"archive {os.fspath(source)}")
        self.every = every
        self.compress = compress

    async def setup(self, worker: Any) -> None:
        """Choose the archive's name and begin."""
        await super().setup(worker)
        self._ending = False
        self._archived: tuple[Any, ...] = ()
        self._archive = self._free_name()
        self._rounds = asyncio.ensure_future(self._go_round())

    def _free_name(self) -> str:
        """Return a name that neither a predecessor nor another plugin of this worker has."""
        taken = {vars(plugin).get("_archive") for plugin in self._worker.plugins.values()}
        stem = f"{os.path.basename(self._source)}.{_file_name(self._worker.name)}"
        number = 1
        while True:
            middle = "" if number == 1 else f".{number}"
            suffix = ".tar.gz" if self.compress else ".tar"
            path = os.path.join(self._target, f"{stem}{middle}{suffix}")
            if path not in taken and not os.path.lexists(path):
                return path
            number += 1

    async def _go_round(self) -> None:
        loop = asyncio.get_running_loop()
        pause = self.every
        while True:
            await asyncio.sleep(pause)
            begin = loop.time()
            outcome = await self.round()
            if self._ending:
                return
            await self._tell(outcome, "round")
            pause = max(self.every, loop.time() - begin)

    async def teardown(self, worker: Any) -> None:
        """Stop the rounds, archive for the last time."""
        self._ending = True
        self._rounds.cancel()  # what it writes would be old anyway
        await asyncio.wait({self._rounds}, timeout=2 * STOP_SECONDS)
        await self._tell(await self.round(), "teardown")

    def _work(self, outcome: Outcome, stop: threading.Event) -> None:
        outcome.target = self._archive
        try:
            entries = list(scan(self._source, outcome))
        except FileNotFoundError:
            outcome.fail(".", f"{self._source} does not exist: {self._left()}")
            return
        if not any(not stat.S_ISDIR(status.st_mode) for _, status in entries):
            if self._archived:
                outcome.fail(".", f"{self._source} is empty now: {self._left()}")
            return
        fingerprint = _fingerprint(entries)
        if fingerprint == self._archived:
            outcome.unchanged = sum(stat.S_ISREG(status.st_mode) for _, status in entries)
            return
        part = self._part()
        try:
            with private_file(part) as file:
                write_tar(file, self._source, entries, self.compress, outcome, stop)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self._archive)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise
        self._archived = fingerprint

    def _left(self) -> str:
        if not self._archived:
            return f"there is no archive of {self._source}"
        return "the last whole archive stays"


def _file_name(name: Any) -> str:
    return re.sub(r"[^\w.-]", "_", str(name))


def _expanded(what: str, path: str) -> str:
    """Return a path as this node has it."""
    found = os.path.expanduser(os.path.expandvars(path))
    unset = re.search(r"\$(\w+|\{[^}]*\})", found)
    if unset:
        raise ValueError(
            f"{what} {path!r} names {unset[0]}, which is not set in the worker's environment: "
            "set it with env= of the cluster"
        )
    return os.path.abspath(found)


def _fingerprint(entries: Entries) -> tuple[Any, ...]:
    return tuple((path, s.st_mode, s.st_size, s.st_mtime_ns, s.st_ino) for path, s in entries)
