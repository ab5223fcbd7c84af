"""Copy or archive node-local directories by ready-made Dask worker plugins.

They work on any Dask cluster: pass them to ``SlurmAllocationCluster(worker_plugins=...)`` or to
``Client.register_plugin``. They travel by value, so workers need not have this package.
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
    """Run a function in a daemon thread, and return its result.

    A hung file system must not keep the worker from ending, so the thread is a daemon. On
    cancellation the event passed to the function is set; if the function then returns in time, its
    result is returned.
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
        with contextlib.suppress(RuntimeError):  # The worker has ended meanwhile.
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
    """Share between both plugins: source, target, rounds in a thread, and reports."""

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
        """Check source and target on the worker, so that a wrong target raises at once."""
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
            # Tried by writing a file, because os.access is wrong on some file systems.
            private_file(part).close()
            os.unlink(part)
        except OSError as error:
            raise OSError(f"the target {self._target} is not writable: {error.strerror}") from None
        # Remove files of a predecessor, on this or another node, that was killed while writing.
        for name in os.listdir(self._target):
            if name.startswith(self._part_stem()):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self._target, name))

    def _part_stem(self) -> str:
        """Return the prefix of this plugin's temporary files; restarts of the worker share it."""
        owner = f"{self._worker.scheduler.address} {self._worker.name} {self.name}"
        digest = hashlib.sha256(owner.encode(errors="surrogateescape")).hexdigest()
        return f".ips-dask-{digest[:16]}-"

    def _part(self) -> str:
        """Return a new temporary name; a hung round may still hold the last one."""
        return os.path.join(self._target, f"{self._part_stem()}{uuid.uuid4().hex[:8]}.part")

    def _work(self, outcome: Outcome, stop: threading.Event) -> None:
        raise NotImplementedError

    async def round(self) -> Outcome:
        """Do the work once, on the worker; raises only when it is cancelled."""

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
        """Return what the target contains after an unfinished round."""
        raise NotImplementedError

    async def _tell(self, outcome: Outcome, action: str) -> None:
        """Report a problem, but not the same one twice in a row."""
        problem = outcome.problem()
        if problem and problem != self._reported:
            await report(self._worker, self.name, action, problem)
        self._reported = problem

    def now(self, client: Any) -> Any:
        """Run the plugin's work now, on every worker of the client's cluster.

        Parameters
        ----------
        client : distributed.Client
            A client of the cluster on which this plugin is registered.

        Returns
        -------
        dict or awaitable
            A dict per worker address: ``source`` and ``target`` as expanded on the worker,
            ``files`` and ``bytes`` written, ``unchanged`` files, and ``failed``, a dict of reasons
            by path (``"."`` stands for the whole source). For a worker that could not do the work,
            the exception instead. An awaitable if the client is asynchronous.
        """
        return client.run(ByValue(_round_now), self.name, on_error="return")


class CopyOut(_FilesPlugin):
    """Copy a node-local directory to a target when the worker ends, and on demand.

    Each node gets its own directory below the target, with the node's name. Each file is written
    under a temporary name and renamed. A file that the target has with the same size and time is
    not copied again, so two workers of a node share the work, and a copy at the end after one on
    demand is short. Nothing is removed from the target. A file that changes during the copy is
    copied up to its size at the start, and reported.

    Parameters
    ----------
    source, target : str or Path
        Directories. ``~`` and environment variables, such as ``$SLURM_JOB_ID``, are expanded on the
        worker. A missing target is created; the source may appear later.
    name : str, optional
        Name under which the plugin is registered. Default: ``"copy-out SOURCE"``.

    Raises
    ------
    ValueError
        A path is empty. On the worker, also if the target is inside the source or a path contains a
        variable that is not set; a target that is not writable raises OSError there.

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
    """Archive a directory periodically, and when the worker ends, in one tar file per worker.

    The archive ``SOURCE-NAME.WORKER.tar`` below the target is written under a temporary name,
    forced to disk and renamed, so that a kill at any moment leaves the last complete archive. It is
    not written again while nothing has changed, and not replaced when the source has gone or is
    empty. A restarted worker begins a new one, ``SOURCE-NAME.WORKER.2.tar``, and keeps the earlier
    ones. ``tar -xf`` restores it.

    Parameters
    ----------
    source, target : str or Path
        Directories. ``~`` and environment variables, such as ``$SLURM_JOB_ID``, are expanded on the
        worker. A missing target is created; the source may appear later.
    every : float, optional
        Seconds between archives. If writing an archive takes longer, the pause is as long as the
        writing was. Default: 300.
    compress : bool, optional
        Write ``.tar.gz``, at gzip's fastest level. Default: False, because compression takes time
        on the node's cores.
    name : str, optional
        Name under which the plugin is registered. Default: ``"archive SOURCE"``.

    Raises
    ------
    ValueError
        A path is empty, or ``every`` is not above 0. On the worker, also if the target is inside
        the source or a path contains a variable that is not set; a target that is not writable
        raises OSError there.

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
        """Choose the name of the archive and start the rounds."""
        await super().setup(worker)
        self._ending = False
        self._archived: tuple[Any, ...] = ()
        self._archive = self._free_name()
        self._rounds = asyncio.ensure_future(self._go_round())

    def _free_name(self) -> str:
        """Return a name that no predecessor and no other plugin of this worker has."""
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
        """Stop the rounds and archive for the last time."""
        self._ending = True
        self._rounds.cancel()  # The last round replaces what the cancelled one was writing.
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
    """Return an absolute path with ``~`` and variables expanded on this node."""
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
