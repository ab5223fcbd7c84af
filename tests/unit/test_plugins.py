"""Worker plugins without a cluster: what they copy and archive, how they are checked and sent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import resource
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest
from distributed import NannyPlugin, SchedulerPlugin, WorkerPlugin

from ips_dask_cluster.dask.plugin_guard import guard, set_up, tear_down
from ips_dask_cluster.dask.worker_plugins import ClusterPlugins, named, sentences
from ips_dask_cluster.file_trees import Copier, Outcome, Stopped, scan, write_tar
from ips_dask_cluster.plugins import Archive, CopyOut


class FakeWorker:
    """What the plugins use of a ``distributed.Worker``."""

    def __init__(self, name: str = "cluster-0") -> None:
        self.name = name
        self.plugins: dict[str, Any] = {}
        self.told: list[dict[str, str]] = []
        self.scheduler = SimpleNamespace(address="tcp://s:1", log_event=self._log_event)

    async def _log_event(self, topic: str, msg: dict[str, str]) -> None:
        assert topic == "ips-dask-plugins"
        pickle.dumps(msg)
        self.told.append(msg)

    async def add(self, plugin: Any, name: str = "") -> Any:
        self.plugins[name or plugin.name] = plugin
        await plugin.setup(self)
        return plugin

    async def plugin_remove(self, name: str) -> None:
        await self.plugins.pop(name).teardown(self)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "run data"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "a b").write_bytes(b"x" * 3_000_000)
    (folder / "deep" / "er" / "file").write_text("text")
    (folder / "deep" / "link").symlink_to("er/file")
    os.close(os.open(os.fsencode(folder) + b"/data\xe9", os.O_CREAT))
    return folder


def tree(folder: Path) -> dict[str, bytes | str | None]:
    """Files with their content, links with where they go, directories with None."""
    found: dict[str, bytes | str | None] = {}
    for top, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(top, name)
            key = str(path.relative_to(folder))
            if path.is_symlink():
                found[key] = os.readlink(path)
            else:
                found[key] = None if path.is_dir() else path.read_bytes()
    return found


def copy(source: Path, target: Path, stop: Any = None) -> Outcome:
    outcome = Outcome(str(source), str(target))
    part = target.with_name("part")
    Copier(str(source), str(target), str(part), stop or threading.Event()).copy(outcome)
    assert not part.exists()
    return outcome


class DoesOnce(threading.Event):
    """An event never set that does something when it is first looked at inside a file."""

    def __init__(self, action: Any, after: int) -> None:
        super().__init__()
        self.action, self.left = action, after

    def is_set(self) -> bool:
        self.left -= 1
        if self.left == 0:
            self.action()
        return False


# Copying.


def test_a_copy_is_the_same_tree_and_a_second_one_writes_nothing(source: Path, tmp_path: Path):
    first = copy(source, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(source)
    assert (first.files, first.bytes, first.unchanged, first.failed) == (4, 3_000_004, 0, {})
    (source / "a b").write_bytes(b"new")
    second = copy(source, tmp_path / "out")
    assert (second.files, second.bytes, second.unchanged) == (1, 3, 3)
    assert tree(tmp_path / "out") == tree(source)


def test_modes_and_times_are_kept(source: Path, tmp_path: Path):
    (source / "a b").chmod(0o440)
    os.utime(source / "a b", ns=(1, 1_234_567_890_123_456_789))
    copy(source, tmp_path / "out")
    status = (tmp_path / "out" / "a b").stat()
    assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o440, 1_234_567_890_123_456_789)


def test_what_is_no_file_or_is_in_the_way_is_told_and_the_rest_is_copied(source, tmp_path):
    os.mkfifo(source / "fifo")  # opening it would hang
    os.mkfifo(os.fsencode(source) + b"/fif\xf6")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(source / "socket"))
    (tmp_path / "out" / "a b" / "x").mkdir(parents=True)
    outcome = copy(source, tmp_path / "out")
    no_file = "neither a file, a directory nor a link"
    assert outcome.failed == {
        "a b": "Is a directory",
        "fifo": no_file,
        r"fif\udcf6": no_file,
        "socket": no_file,
    }
    assert (tmp_path / "out" / "deep" / "er" / "file").read_text() == "text"
    assert outcome.problem() == (
        f"4 of the entries of {source} failed: a b (Is a directory); fifo ({no_file}); "
        rf"fif\udcf6 ({no_file}); and 1 more"
    )


@contextlib.contextmanager
def nobody(folder: Path):
    """As a user who does not pass every check of permissions."""
    if os.geteuid():
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.lchown(path, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_cannot_be_read_is_told_and_the_rest_is_copied_and_archived(shared_tmp_path):
    source = shared_tmp_path / "data"
    (source / "closed").mkdir(parents=True)
    for name in ("good", "secret", "closed/inside"):
        (source / name).write_text(name)
    (source / "secret").chmod(0)
    (source / "closed").chmod(0)
    out, tar = shared_tmp_path / "out", shared_tmp_path / "tar"
    with nobody(shared_tmp_path):
        copied = copy(source, out)
        archived = Outcome(str(source))
        with open(tar, "wb") as file:
            entries = list(scan(str(source), archived))
            write_tar(file, str(source), entries, False, archived, threading.Event())
    assert (
        copied.failed == archived.failed == dict.fromkeys(("closed", "secret"), "Permission denied")
    )
    assert (out / "good").read_text() == "good"
    with tarfile.open(tar) as archive:
        assert archive.getnames() == ["data/closed", "data/good"]


def test_a_file_that_grows_is_copied_up_to_the_size_it_had(source: Path, tmp_path: Path):
    def grow() -> None:
        with open(source / "a b", "ab") as file:
            file.write(b"y" * 5_000_000)

    # looked at for each of six entries and each block: "a b" is the first
    outcome = copy(source, tmp_path / "out", DoesOnce(grow, after=2))
    assert (tmp_path / "out" / "a b").read_bytes() == b"x" * 3_000_000
    assert outcome.failed == {"a b": "changed while it was copied"}
    assert copy(source, tmp_path / "out").failed == {}
    assert tree(tmp_path / "out") == tree(source)


def test_files_that_vanish_are_no_failure(source: Path, tmp_path: Path):
    outcome = copy(source, tmp_path / "out", DoesOnce(lambda: shutil.rmtree(source), after=1))
    assert outcome.failed == {}
    assert tree(tmp_path / "out") == {}


@contextlib.contextmanager
def files_at_most(size: int):
    """A target that is full in the middle of a file; EFBIG stands for ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_target_costs_the_files_that_do_not_fit(source: Path, tmp_path: Path):
    with files_at_most(2_000_000):
        outcome = copy(source, tmp_path / "out")
    assert outcome.failed == {"a b": "File too large"}
    assert tree(tmp_path / "out") == {k: v for k, v in tree(source).items() if k != "a b"}


def test_several_copies_into_one_target_at_once(source: Path, tmp_path: Path):
    async def both() -> list[Outcome]:
        plugins = []
        for name in ("cluster-0-0", "cluster-0-1"):
            for plugin in (CopyOut(source, tmp_path / "o"), CopyOut(source, tmp_path / "o", "2")):
                plugins.append(await FakeWorker(name).add(plugin))
        return await asyncio.gather(*(plugin.round() for plugin in plugins))

    assert [outcome.failed for outcome in asyncio.run(both())] == [{}] * 4
    (node,) = (tmp_path / "o").iterdir()
    assert tree(node) == tree(source)


# Archiving.


def archive_of(target: Path) -> Path:
    (path,) = (path for path in target.iterdir() if not path.name.startswith("."))
    return path


def restored(path: Path, folder: Path) -> dict[str, bytes | str | None]:
    """What plain tar makes of an archive."""
    folder.mkdir()
    subprocess.run(["tar", "-xf", path, "-C", folder], check=True, timeout=20)
    (top,) = folder.iterdir()
    return tree(top)


@pytest.mark.parametrize(("compress", "suffix"), [(False, ".tar"), (True, ".tar.gz")])
def test_tar_restores_an_archive(source, tmp_path, compress, suffix):
    async def archive() -> Outcome:
        plugin = Archive(source, tmp_path / "out", compress=compress)
        await FakeWorker("a-0").add(plugin)
        outcome = await plugin.round()
        await plugin.teardown(None)
        return outcome

    outcome = asyncio.run(archive())
    assert (outcome.files, outcome.failed) == (3, {})
    path = archive_of(tmp_path / "out")
    assert path.name == f"run data.a-0{suffix}"
    assert restored(path, tmp_path / "restored") == tree(source)


def test_every_so_often_and_only_when_something_has_changed(source, tmp_path):
    inodes: list[int] = []

    async def wait_for_archive(seen: int) -> None:
        path = tmp_path / "out" / "run data.cluster-0.tar"
        end = time.monotonic() + 20
        while not path.exists() or path.stat().st_ino == seen:
            assert time.monotonic() < end, "no new archive"
            await asyncio.sleep(0.01)
        inodes.append(path.stat().st_ino)

    async def watch() -> None:
        worker = FakeWorker()
        plugin = await worker.add(Archive(source, tmp_path / "out", every=0.05))
        await wait_for_archive(0)
        unchanged = await plugin.round()
        assert (unchanged.files, unchanged.unchanged) == (0, 3)
        assert archive_of(tmp_path / "out").stat().st_ino == inodes[0]
        (source / "a b").write_bytes(b"new")
        await wait_for_archive(inodes[0])
        (source / "late").write_text("written just before the end")
        await worker.plugin_remove(plugin.name)
        assert worker.told == []

    asyncio.run(watch())
    assert restored(archive_of(tmp_path / "out"), tmp_path / "restored") == tree(source)


def test_a_kill_at_any_moment_leaves_the_last_whole_archive(source, tmp_path):
    """The archive grows by a file a round, so that a torn one would be seen."""
    script = tmp_path / "script.py"
    script.write_text(f"""
import asyncio, os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_plugins import Archive, FakeWorker

async def go():
    plugin = await FakeWorker().add(Archive({str(source)!r}, {str(tmp_path / "out")!r}))
    for number in range(10**6):
        open(os.path.join({str(source)!r}, str(number)), "wb").write(b"z" * 200000)
        outcome = await plugin.round()
        assert not outcome.failed, outcome
        print(number, flush=True)

asyncio.run(go())
""")
    rounds = 0
    for kill in range(3):
        process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
        try:
            for _ in range(2):
                assert process.stdout.readline(), "the script ended"
            threading.Event().wait(0.004 * kill)  # into the next round, not to its end
        finally:
            process.kill()
            assert process.wait(20) == -signal.SIGKILL
            process.stdout.close()
        for path in (tmp_path / "out").glob("*.tar"):
            rounds += 1
            subprocess.run(["tar", "-tf", path], check=True, stdout=subprocess.DEVNULL, timeout=20)
    assert rounds == 1 + 2 + 3  # a successor does not touch the archives before its own
    # and it removes what its predecessor left half-written
    asyncio.run(FakeWorker().add(CopyOut(source, tmp_path / "out")))
    asyncio.run(add_and_stop(Archive(source, tmp_path / "out")))
    assert list((tmp_path / "out").glob("*.part")) == []


async def add_and_stop(plugin: Archive) -> None:
    worker = FakeWorker()
    await worker.add(plugin)
    await worker.plugin_remove(plugin.name)


def test_a_restarted_worker_leaves_the_archive_of_its_predecessor(source, tmp_path):
    asyncio.run(add_and_stop(Archive(source, tmp_path / "out")))
    shutil.rmtree(source)
    source.mkdir()
    (source / "little").touch()
    asyncio.run(add_and_stop(Archive(source, tmp_path / "out")))
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert set(sizes) == {"run data.cluster-0.tar", "run data.cluster-0.2.tar"}
    assert sizes["run data.cluster-0.tar"] > 3_000_000


def test_two_sources_of_one_name_get_two_archives(source, tmp_path):
    other = tmp_path / "other" / source.name
    other.mkdir(parents=True)
    (other / "else").touch()

    async def both() -> None:
        worker = FakeWorker()
        for folder in (source, other):
            await worker.add(Archive(folder, tmp_path / "out"))
        for name in list(worker.plugins):
            await worker.plugin_remove(name)

    asyncio.run(both())
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"run data.cluster-0.tar", "run data.cluster-0.2.tar"}


@pytest.mark.parametrize("loss", ["gone", "empty"])
def test_an_archive_outlives_its_source(source, tmp_path, loss):
    async def lose() -> list[str]:
        worker = FakeWorker()
        plugin = await worker.add(Archive(source, tmp_path / "out"))
        await plugin.round()
        shutil.rmtree(source)
        if loss == "empty":
            source.mkdir()
        await worker.plugin_remove(plugin.name)
        return [message["problem"] for message in worker.told]

    why = "does not exist" if loss == "gone" else "is empty now"
    assert asyncio.run(lose()) == [f"{source} {why}: the last whole archive stays"]
    assert archive_of(tmp_path / "out").stat().st_size > 3_000_000


def test_a_round_that_fails_leaves_the_archive_and_the_next_one_tries_again(source, tmp_path):
    class Counting(Archive):
        rounds = 0

        async def round(self) -> Outcome:
            self.rounds += 1
            return await super().round()

    async def fail() -> None:
        worker = FakeWorker()
        plugin = await worker.add(Counting(source, tmp_path / "out", every=0.05))
        assert (await plugin.round()).failed == {}
        size = archive_of(tmp_path / "out").stat().st_size
        with files_at_most(2_000_000):
            (source / "more").write_bytes(b"more" * 10_000)
            while not worker.told:
                await asyncio.sleep(0.01)
            told_at = plugin.rounds
            while plugin.rounds < told_at + 3:  # the same trouble is told once
                await asyncio.sleep(0.01)
            assert "File too large" in (await plugin.round()).problem()
        (message,) = worker.told
        assert message == {
            "plugin": f"archive {source}",
            "worker": "cluster-0",
            "action": "round",
            "problem": f"{tmp_path / 'out'}: File too large: the last whole archive stays",
        }
        assert archive_of(tmp_path / "out").stat().st_size == size  # and no part is left
        assert (await plugin.round()).failed == {}
        assert archive_of(tmp_path / "out").stat().st_size > size
        await worker.plugin_remove(plugin.name)

    asyncio.run(asyncio.wait_for(fail(), 30))


def test_a_file_that_shrinks_does_not_spoil_the_archive(source, tmp_path):
    outcome = Outcome(str(source))
    entries = list(scan(str(source), outcome))
    # looked at for the first entry, then for each block of it
    stop = DoesOnce(lambda: os.truncate(source / "a b", 1_500_000), after=3)
    with open(tmp_path / "tar", "wb") as file:
        write_tar(file, str(source), entries, False, outcome, stop)
    assert outcome.failed == {"a b": "shrank while it was archived: padded with zeros"}
    content = restored(tmp_path / "tar", tmp_path / "restored")
    assert content.pop("a b") == b"x" * 1_500_000 + bytes(1_500_000)
    assert content == {k: v for k, v in tree(source).items() if k != "a b"}


# What both share.


@pytest.mark.parametrize("kind", [CopyOut, Archive])
def test_paths_are_those_of_the_worker(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("WHERE", str(tmp_path / "with blank"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").touch()

    async def work() -> Outcome:
        plugin = await FakeWorker().add(kind("~/data", "${WHERE}/deep"))
        outcome = await plugin.round()
        await plugin.teardown(None)
        return outcome

    assert (kind("~/data", "$WHERE").source, kind("~/data", "$WHERE").target) == (
        "~/data",
        "$WHERE",
    )
    outcome = asyncio.run(work())
    assert outcome.source == str(tmp_path / "data")
    assert outcome.target.startswith(str(tmp_path / "with blank" / "deep") + "/")
    assert (outcome.files, outcome.failed) == (1, {})


def refused(plugin: Any) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        asyncio.run(FakeWorker().add(plugin))
    return str(caught.value)


@pytest.mark.parametrize("kind", [CopyOut, Archive])
def test_a_wrong_target_is_told_when_the_worker_starts(kind, source, tmp_path):
    unset = refused(kind(source, "$NO_SUCH/x"))
    assert unset.startswith("the target '$NO_SUCH/x' names $NO_SUCH, which is not set in")
    assert refused(kind(source, source / "deep" / "new")) == (
        f"the target {source}/deep/new is inside the source {source}"
    )
    (tmp_path / "file").touch()
    assert refused(kind(source, tmp_path / "file" / "out")) == (
        f"the target {tmp_path}/file/out is not writable: Not a directory"
    )


@pytest.mark.parametrize("kind", [CopyOut, Archive])
def test_a_target_that_is_not_writable_is_told_when_the_worker_starts(kind, shared_tmp_path):
    (shared_tmp_path / "out").mkdir()
    with nobody(shared_tmp_path):
        (shared_tmp_path / "out").chmod(0o555)
        message = refused(kind("/nowhere", shared_tmp_path / "out"))
    assert message == f"the target {shared_tmp_path}/out is not writable: Permission denied"


def test_a_source_that_never_came_is_told_at_the_end(tmp_path):
    async def end(plugin: Any) -> list[str]:
        worker = FakeWorker()
        await worker.add(plugin)
        await worker.plugin_remove(plugin.name)
        return [message["problem"] for message in worker.told]

    none = str(tmp_path / "none")
    assert asyncio.run(end(CopyOut(none, tmp_path / "o"))) == [
        f"{none} is no directory: nothing was copied"
    ]
    assert asyncio.run(end(Archive(none, tmp_path / "o"))) == [
        f"{none} does not exist: there is no archive of {none}"
    ]


@pytest.mark.parametrize("kind", [CopyOut, Archive])
def test_values_that_make_no_sense(kind):
    with pytest.raises(ValueError, match=f"{kind.__name__}: the source is empty"):
        kind("", "/out")
    with pytest.raises(ValueError, match=f"{kind.__name__}: the target is empty"):
        kind("/data", "")


@pytest.mark.parametrize("every", [0, -1, float("nan")])
def test_no_time_between_archives(every):
    with pytest.raises(ValueError, match="a number of seconds above 0 is needed"):
        Archive("/data", "/out", every)


@pytest.mark.parametrize("kind", [CopyOut, Archive])
def test_they_travel_by_value(kind, source, tmp_path):
    """To a Python that has distributed and not this package."""
    packages = sysconfig.get_path("purelib")
    code = f"""
import sys
sys.path.insert(0, {packages!r})
import asyncio, pickle
from types import SimpleNamespace
plugin = pickle.load(sys.stdin.buffer)
worker = SimpleNamespace(name="a-0", plugins={{}}, scheduler=SimpleNamespace(address=""))
async def work():
    await plugin.setup(worker)
    print((await plugin.round()).files)
    await plugin.teardown(worker)
asyncio.run(work())
print([name for name in sys.modules if name.startswith("ips_")])
"""
    pickled = pickle.dumps(kind(source, tmp_path / "out"))
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], input=pickled, capture_output=True, timeout=60
    )
    assert done.stderr == b""
    assert done.stdout.decode().split("\n") == ["4" if kind is CopyOut else "3", "[]", ""]


# What a cluster does with plugins.


class Plain(WorkerPlugin):
    pass


class Called(WorkerPlugin):
    def __init__(self, name: str) -> None:
        self.name = name


def test_plugins_have_names():
    plugins = [Plain(), Called("Plain"), Plain(), Called("mine")]
    assert list(named(plugins)) == ["Plain-2", "Plain", "Plain-3", "mine"]


class Nanny(NannyPlugin):
    pass


class Scheduler(SchedulerPlugin):
    pass


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ([Nanny()], TypeError, "Nanny is a NannyPlugin; here only a WorkerPlugin has a place"),
        ([Scheduler()], TypeError, "Scheduler is a SchedulerPlugin; here only"),
        ([Plain], TypeError, r"Plain is a class; pass an instance, Plain\(...\)"),
        ([17], TypeError, "17 is no WorkerPlugin; derive its class from"),
        (Plain(), TypeError, "a list of plugins is needed, not <"),
        ("abc", TypeError, "a list of plugins is needed, not 'abc'"),
        (None, TypeError, "a list of plugins is needed, not None"),
        ([Called("x"), Called("x")], ValueError, "2 plugins have the name 'x', and the last"),
        (
            [CopyOut("/a", "/b"), CopyOut("/a", "/c")],
            ValueError,
            "2 plugins have the name 'copy-out /a'",
        ),
    ],
)
def test_what_is_no_list_of_worker_plugins(given, error, text):
    with pytest.raises(error, match=f"^worker_plugins: {text}"):
        ClusterPlugins(given, 60)


def test_a_plugin_that_cannot_be_pickled_is_told_at_once():
    plugin = Called("locked")
    plugin.lock = threading.Lock()
    with pytest.raises(TypeError, match=r"^worker_plugins: 'locked' cannot be pickled: .*lock"):
        ClusterPlugins([plugin], 60)


def test_one_sentence_for_many_workers():
    full = {"plugin": "p", "action": "teardown", "problem": "full"}
    reports = [full | {"worker": f"a-{number}"} for number in range(5)]
    reports.append({"plugin": "q", "worker": "a-0", "action": "setup", "problem": "no"})
    assert sentences(reports) == [
        "worker plugin 'p', teardown on a-0, a-1, a-2 and 2 more: full",
        "worker plugin 'q', setup on a-0: no",
    ]


def test_every_report_is_logged_once(caplog):
    messages = [{"plugin": "p", "worker": "a", "action": "round", "problem": w} for w in "wxyz"]
    kept: list[Any] = []

    async def events(topic: str) -> list[Any]:
        return kept

    async def hear() -> None:
        plugins = ClusterPlugins([Plain()], 60)
        scheduler = SimpleNamespace(events=events)
        assert not plugins.trouble
        for now in ([], [0], [0], [0, 1], [2, 3]):  # the scheduler drops what is old
            kept[:] = [(float(number), messages[number]) for number in now]
            await plugins.report(scheduler)
        assert plugins.trouble

    asyncio.run(hear())
    assert [line[-1] for line in caplog.messages] == ["w", "x", "y", "z"]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


# What a plugin becomes on a worker.


def guarded(plugin: Any, seconds: float = 30) -> Any:
    return guard(cloudpickle.dumps(plugin), "it", seconds)


@dataclass(frozen=True)
class Frozen(WorkerPlugin):
    path: Path

    def setup(self, worker: Any) -> None:
        self.path.write_text("set up")

    async def teardown(self, worker: Any) -> None:
        self.path.write_text("torn down")


def test_a_guarded_plugin_is_the_users_own(tmp_path):
    async def live() -> None:
        worker = FakeWorker()
        plugin = await worker.add(guarded(Frozen(tmp_path / "x")), "it")
        assert isinstance(plugin, Frozen)
        assert plugin.path.read_text() == "set up"
        assert await set_up(["it"], 0, worker) == {}
        await tear_down(["it", "another"], worker)
        assert plugin.path.read_text() == "torn down"
        assert worker.told == []

    asyncio.run(live())


class Failing(WorkerPlugin):
    def setup(self, worker: Any) -> None:
        raise LookupError("no licence")

    def teardown(self, worker: Any) -> None:
        raise LookupError("no end")


class FromNowhere(WorkerPlugin):
    def __reduce__(self) -> Any:
        return __import__, ("no_such_module",)


@pytest.mark.parametrize(
    ("plugin", "why"),
    [
        (Failing(), "LookupError: no licence"),
        (FromNowhere(), "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_a_setup_that_fails_is_reported_and_raised(plugin, why):
    async def live() -> None:
        worker = FakeWorker()
        with pytest.raises((LookupError, ImportError)):
            await worker.add(guarded(plugin), "it")
        assert worker.told == [
            {"plugin": "it", "worker": "cluster-0", "action": "setup", "problem": why}
        ]
        assert await set_up(["it"], 30, worker) == {"it": why}

    asyncio.run(live())


def test_a_setup_that_does_not_end_is_named():
    assert asyncio.run(set_up(["it"], 0.1, FakeWorker())) == {
        "it": "setup was not done after 0.1 s"
    }


def test_a_teardown_that_fails_or_does_not_end_is_reported():
    class Endless(WorkerPlugin):
        async def teardown(self, worker: Any) -> None:
            await asyncio.sleep(3600)

    async def live(plugin: Any) -> str:
        worker = FakeWorker()
        with contextlib.suppress(LookupError):
            await worker.add(guarded(plugin, 0.1), "it")
        with pytest.raises((LookupError, TimeoutError)):
            await worker.plugin_remove("it")
        return worker.told[-1]["problem"]

    assert asyncio.run(live(Failing())) == "LookupError: no end"
    late = "TimeoutError: it was not done after 0.1 s and was cancelled"
    assert asyncio.run(live(Endless())) == late


@pytest.mark.parametrize("kind", [CopyOut, Archive])
def test_work_without_time_left_stops_and_says_what_there_is(kind, source, tmp_path):
    with open(source / "big", "wb") as file:
        file.truncate(2**40)  # a hole: nothing on disk, but hours to copy

    async def live() -> list[str]:
        worker = FakeWorker()
        plugin = await worker.add(guarded(kind(source, tmp_path / "out"), 0.5), "it")
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            await worker.plugin_remove("it")
        assert time.monotonic() - begin < 10
        assert plugin.name.endswith(str(source))
        return [message["problem"] for message in worker.told]

    stopped, _ = asyncio.run(live())
    left = f"not all of {source} was copied"
    if kind is Archive:
        left = f"there is no archive of {source}"
    assert stopped == f"stopped before the end: there was no more time: {left}"
    assert list((tmp_path / "out").rglob("*.part")) == []


def test_stopped_is_an_error_of_its_own(source, tmp_path):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        copy(source, tmp_path / "out", stop)
