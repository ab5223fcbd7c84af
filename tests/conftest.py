"""What all tests share: a private Slurm, `wait_until`, and proof that nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ips_dask_cluster.testing import LocalSlurm, LocalSlurmError

T = TypeVar("T")
WaitUntil = Callable[..., Any]

#: What a scheduler's HTTP server answers. By default also as a proxy: for that each scheduler
#: would import Jupyter's server, which is here for other tests; a quarter of a second of CPU time.
_ROUTES_VARIABLE = "DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES"
_ROUTES = [
    *(f"distributed.http.scheduler.{name}" for name in ("prometheus", "info", "json")),
    "distributed.http.health",
    "distributed.http.statics",
]

_TESTS = Path(__file__).parent
_SLURM_FOLDERS = ("faults", "slurm")
CONTAINER_TOOLS = ("charliecloud", "apptainer", "podman-hpc")
_FOLDERS = (*_SLURM_FOLDERS, "simulations", "unit")
#: Seconds for processes and files of a test to go away after it, and for its Slurm jobs, which
#: Slurm itself gives KillWait (5 s) between SIGTERM and SIGKILL.
_GRACE = 5.0
_JOB_GRACE = 12.0


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder() -> Iterator[None]:
    """What others do in the machine's temporary folder is no business of these tests."""
    with (
        tempfile.TemporaryDirectory(prefix="ips-tests-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", None)  # else it is the one that was asked for first
        patch.setenv(_ROUTES_VARIABLE, repr(_ROUTES))
        yield


_POOL_CONFIG = """
SIM_NAME = pool
SIM_ROOT = {root}
LOG_FILE = $SIM_ROOT/pool.log
[PORTS]
NAMES = DRIVER
[[DRIVER]]
IMPLEMENTATION = POOL
[POOL]
CLASS = DRIVER
SUB_CLASS = TEST
NAME = Pool
SCRIPT = pool.py
"""

_POOL_SCRIPT = """
from ipsframework import Component


class Pool(Component):
    def step(self, timestamp=0.0, **keywords):
        self.services.create_task_pool("pool")
        for number in range({tasks}):
            self.services.add_task(
                "pool", f"task{{number}}", 1, self.services.get_working_dir(), "sleep", "{seconds}"
            )
        self.services.submit_tasks("pool", use_dask=True, dask_nodes=4, dask_ppw={ppw})
        print(self.services.get_finished_tasks("pool"))
"""


# Without Slurm.


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slurm",
        choices=("yes", "no"),
        default="yes",
        help="no: leave out tests/slurm and tests/faults, which start a real Slurm",
    )
    parser.addoption(
        "--container-tools",
        default="charliecloud",
        metavar="TOOL[,TOOL...]",
        help=f"container tools that this machine must have, of {', '.join(CONTAINER_TOOLS)} "
        "(default charliecloud): the tests of containers run with each, and fail if it is missing",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "container_tool" not in metafunc.fixturenames:
        return
    tools = metafunc.config.getoption("--container-tools").split(",")
    if unknown := [tool for tool in tools if tool not in CONTAINER_TOOLS]:
        raise pytest.UsageError(
            f"--container-tools: expected some of {', '.join(CONTAINER_TOOLS)}, got {unknown[0]!r}"
        )
    metafunc.parametrize("container_tool", tools, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # what takes longest first, so that at the end no worker waits long for another
    items.sort(key=_rank)
    if config.getoption("--slurm") == "yes":
        return
    left_out = [item for item in items if _needs_slurm(item)]
    items[:] = [item for item in items if not _needs_slurm(item)]
    config.hook.pytest_deselected(items=left_out)


def _rank(item: pytest.Item) -> int:
    folder = item.path.relative_to(_TESTS).parts[0]
    return _FOLDERS.index(folder) if folder in _FOLDERS else len(_FOLDERS)


def _needs_slurm(item: pytest.Item) -> bool:
    return any(item.path.is_relative_to(_TESTS / folder) for folder in _SLURM_FOLDERS)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.getoption("--slurm") == "no":
        folders = " and ".join(f"tests/{name}" for name in _SLURM_FOLDERS)
        terminalreporter.write_line(f"--slurm=no: the tests of {folders} did not run")


# With Slurm.


@pytest.fixture(scope="session")
def slurm() -> Iterator[LocalSlurm]:
    """Four nodes of two CPUs, each with its own /tmp where this user may make one."""
    probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True, timeout=10)
    private_tmp = probe.returncode == 0
    # the checkout, the virtual environment and the container's root file system may be below /tmp
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "ips-dask-cluster")
    shared = (sys.prefix, _TESTS.parent, *([cache] if cache.is_dir() else []))
    local = LocalSlurm(nodes=4, cpus=2, memory=4000, private_tmp=private_tmp, shared=shared)
    with pytest.MonkeyPatch.context() as patch:
        # The daemons outlive the test that happens to start them.
        patch.delenv("IPS_TEST_MARK", raising=False)
        try:
            local.start()
        except LocalSlurmError as error:
            pytest.fail(
                f"{error}\nTo leave out the tests that need Slurm: --slurm=no", pytrace=False
            )
    with contextlib.closing(local):
        yield local


@pytest.fixture
def shared_tmp_path() -> Iterator[Path]:
    """A folder that every node and every user sees; nodes have their own /tmp."""
    path = Path(tempfile.mkdtemp(prefix="ips-test-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def _wait_until(fn: Callable[[], T], timeout: float, message: str) -> T:
    """Call `fn` until it answers something true, and return that.

    Parameters
    ----------
    fn : callable
        What to look at; it should return what it saw, since that is printed on expiry.
    timeout : float
        Seconds.
    message : str
        What was waited for.
    """
    __tracebackhide__ = True
    deadline = time.monotonic() + timeout
    while True:
        seen = fn()
        if seen:
            return seen
        if time.monotonic() > deadline:
            pytest.fail(f"{message}: not within {timeout:g} s; last seen: {seen!r}")
        time.sleep(0.02)


@pytest.fixture
def wait_until() -> WaitUntil:
    """``wait_until(fn, timeout, message)``: the first true answer of `fn`, else fail."""
    return _wait_until


@pytest.fixture
def pool_simulation(shared_tmp_path, monkeypatch):
    """``pool_simulation(tasks=, seconds=, ppw=, root=)``: write one where all nodes see it."""
    monkeypatch.chdir(shared_tmp_path)

    def write(tasks=16, seconds=0.5, ppw=None, root="$PWD/pool") -> Path:
        Path("pool.config").write_text(_POOL_CONFIG.format(root=root))
        Path("pool.py").write_text(_POOL_SCRIPT.format(tasks=tasks, seconds=seconds, ppw=ppw))
        return shared_tmp_path / "pool"

    return write


@pytest.fixture
def small_scan(shared_tmp_path: Path) -> Callable[[int], Path]:
    """``small_scan(nodes)``: a copy of the equilibrium scan, reduced to four small points."""

    def copy(nodes: int) -> Path:
        folder = shared_tmp_path / "scan"
        shutil.copytree(_TESTS.parent / "docs" / "examples" / "equilibrium_scan", folder)
        config = folder / "equilibrium_scan.config"
        text = config.read_text()
        for key, value in (
            ("PLASMA_CURRENTS", "400e3, 800e3"),
            ("AXIS_PRESSURES", "2e3, 8e3"),
            ("NX", "33"),
            ("NY", "33"),
            ("DASK_NODES", str(nodes)),
        ):
            text, count = re.subn(rf"^( *{key} =).*", rf"\g<1> {value}", text, flags=re.MULTILINE)
            assert count == 1, key
        config.write_text(text)
        return folder

    return copy


@pytest.fixture
def processes_with() -> Callable[[str], list[tuple[int, str]]]:
    """``processes_with("NAME=VALUE")``: pid and command line of processes with that variable."""
    return _marked_processes


# Nothing left behind.


@pytest.fixture(autouse=True)
def nothing_left_behind(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Fail a test that leaves a process, a Slurm job or a file in the temporary folder.

    Processes are found by a mark in their environment, so the daemons of session fixtures do not
    count, and one that was forked from pytest without an exec is not seen.
    """
    local: LocalSlurm | None = None
    if "slurm" in request.fixturenames:
        local = request.getfixturevalue("slurm")
    jobs_before = set(local.jobs() if local else ())
    monkeypatch.setenv("IPS_TEST_MARK", uuid.uuid4().hex)
    mark = f"IPS_TEST_MARK={os.environ['IPS_TEST_MARK']}"
    files = _temporary_files()
    yield
    if local:
        _revive(local)
    trouble = []
    if local and (jobs := _what_stays(lambda: {*local.jobs()} - jobs_before, _JOB_GRACE)):
        trouble.append(f"Slurm jobs: {', '.join(jobs)}")
        local.run(["scancel", *jobs])
    if processes := _what_stays(lambda: _marked_processes(mark), _GRACE):
        trouble += [f"process {pid}: {command}" for pid, command in processes]
        for pid, _ in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if new := _what_stays(lambda: sorted(_temporary_files() - files), _GRACE):
        trouble += [f"file: {path}" for path in new]
    if trouble:
        pytest.fail("the test left behind:\n" + "\n".join(trouble), pytrace=False)


def _revive(local: LocalSlurm) -> None:
    """Start nodes again whose slurmd crashed, which is one test's bad luck, not that of all."""
    for name in local.crashed_nodes():
        print(f"slurmd of node {name} crashed and is started again:\n{local.logs().get(name)}")
        local.stop_node(name)
        local.start_node(name)


def _what_stays(look: Callable[[], Iterable[T]], grace: float) -> list[T]:
    deadline = time.monotonic() + grace
    while (seen := list(look())) and time.monotonic() < deadline:
        time.sleep(0.05)
    return seen


def _marked_processes(mark: str) -> list[tuple[int, str]]:
    """Pid and command line of the processes with a variable, "NAME=VALUE", in their environment.

    The value may go on: the mark of a worker ends with the number of its step.
    """
    wanted = mark.encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                process = Path("/proc", entry)
                if wanted in (process / "environ").read_bytes():
                    command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found.append((int(entry), command))
    return found


def _temporary_files() -> set[str]:
    """Names in the temporary folder that are ours or Dask's.

    Dask makes ``dask-scratch-space`` and locks in it once and never removes them; only what else is
    in it counts.
    """
    folder = Path(tempfile.gettempdir())
    ours = set(folder.glob("ips*")) | set(folder.glob("dask-*"))
    scratch = {path for path in ours if path.name.startswith("dask-scratch-space")}
    inside = {path for top in scratch for path in top.glob("*") if path.suffix != ".lock"}
    return {str(path) for path in (ours - scratch) | inside}


class WebPortal:
    """A portal on the loopback.

    ``behaviour`` is what it does with a request: ``"good"``, ``"moved"``, ``"hangs"`` until it is
    closed, and is good then, ``"drops"`` the connection, or the number of an HTTP error.
    """

    def __init__(self) -> None:
        self.behaviour: str | int = "good"
        self.requests: list[list[dict[str, Any]]] = []
        self._closing = threading.Event()
        portal = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                portal.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *args: None  # whoever asked has gone
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Take a request, and do what the portal does with it."""
        body = request.rfile.read(int(request.headers["Content-Length"]))
        behaviour = self.behaviour
        self.requests.append(json.loads(body))
        if behaviour == "hangs":
            self._closing.wait(60)
        if behaviour in ("good", "hangs"):
            self._reply(request, 200, {"runid": 42, "events": len(self.requests[-1])})
        elif behaviour == "moved":
            request.send_response(302)
            request.send_header("Location", f"{self.url}/elsewhere")
            request.end_headers()
        elif isinstance(behaviour, int):
            self._reply(request, behaviour, {"message": "no"})

    def _reply(self, request: BaseHTTPRequestHandler, status: int, answer: object) -> None:
        request.send_response(status)
        request.end_headers()
        request.wfile.write(json.dumps(answer).encode())

    def received(self) -> list[dict[str, Any]]:
        """Every event, in the order of arrival."""
        return [event for request in self.requests for event in request]

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def web_portal(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebPortal]:
    """A portal that takes events over HTTP."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with contextlib.closing(WebPortal()) as portal:
        yield portal
