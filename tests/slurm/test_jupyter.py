"""Notebooks: real kernels, a real Jupyter server and the dashboard, on the real Slurm."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from bokeh.util.token import generate_jwt_token, generate_session_id
from distributed.comm import get_address_host
from jupyter_client.manager import start_new_kernel
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from ips_dask_cluster import SlurmAllocationCluster
from ips_dask_cluster.testing import LocalSlurm

pytestmark = [
    # of Jupyter's own; what its programs say is looked at where it matters
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]

DOCS = Path(__file__).parents[2] / "docs"
BIN = Path(sys.executable).parent
NO_DASHBOARD = {"dashboard": False}
#: What Jupyter may say on stderr. The last: two of a kernel's threads at one socket of ZeroMQ while
#: it shuts down, all outputs being saved (seen once; ipykernel #1518 is about the same moment).
JUPYTERS_OWN = ("[NbC", "[IPKernel", "Assertion failed: pfd.revents & POLLIN (src/signaler.cpp:")
START = """
from ips_dask_cluster import SlurmAllocationCluster
cluster = SlurmAllocationCluster({arguments})
cluster.wait_for_workers()
client = cluster.get_client()
def nodes():
    import os
    return sorted(client.run(os.getenv, "SLURMD_NODENAME").values())
"""


@pytest.fixture(autouse=True)
def own_jupyter(shared_tmp_path, tmp_path, monkeypatch) -> None:
    """No configuration of whoever runs the tests; a directory that the nodes see."""
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("PYTHONUNBUFFERED", "JUPYTERHUB_SERVICE_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")
    monkeypatch.chdir(shared_tmp_path)


class Notebook:
    """A kernel, as a notebook's page sees it."""

    def __init__(self) -> None:
        self.manager, self.client = start_new_kernel(kernel_name="python3")

    def outputs(self, source: str) -> list[Any]:
        """Run a cell and return what would be shown below it."""
        shown: list[Any] = []
        kinds = ("stream", "display_data", "execute_result")
        reply = self.client.execute_interactive(
            source,
            timeout=90,
            output_hook=lambda m: shown.append(m["content"]) if m["msg_type"] in kinds else None,
        )
        content = reply["content"]
        assert content["status"] == "ok", "\n".join(content["traceback"])
        return shown

    def run(self, source: str) -> str:
        """Run a cell and return what it prints."""
        return "".join(output.get("text", "") for output in self.outputs(source))

    def interrupt(self) -> str:
        """Press the stop button; the name of the exception that ends the cell."""
        self.manager.interrupt_kernel()
        return self.client.get_shell_msg(timeout=30)["content"]["ename"]

    def restart(self, now: bool) -> None:
        """Restart the kernel; `now`: without asking it."""
        self.manager.restart_kernel(now=now)
        self.client.wait_for_ready(timeout=60)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel()


@pytest.fixture
def open_notebook(own_jupyter) -> Iterator[Callable[[], Notebook]]:
    """``open_notebook()``: start a kernel."""
    opened: list[Notebook] = []

    def start() -> Notebook:
        opened.append(Notebook())
        return opened[-1]

    yield start
    for notebook in opened:
        notebook.close()


def live_steps(slurm: LocalSlurm) -> set[str]:
    return set(slurm.run(["squeue", "--steps", "-h", "-o", "%j"]).stdout.split())


# The documented notebook


def execute(name: str) -> tuple[dict[str, list[Any]], str]:
    """Run a notebook of the docs by nbconvert: outputs by their cell's first line, and stderr."""
    source = DOCS / "examples" / "notebook" / name
    argv = ["jupyter", "nbconvert", "--execute", "--to", "notebook", "--output-dir", ".", source]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    cells = nbformat.read(name, as_version=4).cells
    Path(name).unlink()
    return {
        c.source.splitlines()[0]: c.outputs for c in cells if c.cell_type == "code"
    }, done.stderr


def text(outputs: list[Any]) -> str:
    return "".join(output.get("text", "") for output in outputs)


def check_alpha_losses(nodes: int) -> None:
    outputs, stderr = execute("alpha_losses.ipynb")
    unexpected = [line for line in stderr.splitlines() if not line.startswith(JUPYTERS_OWN)]
    assert unexpected == []
    (shown,) = (
        o
        for o in outputs["from ips_dask_cluster import SlurmAllocationCluster"]
        if o.output_type == "display_data"
    )
    assert f"<strong>Nodes:</strong> {nodes} of {nodes}" in shown.data["text/html"]
    assert "32/32" in outputs["from distributed import as_completed"][0].data["text/plain"]
    said = text(outputs["import numpy as np"])
    lost = [float(percent) for percent in re.findall(r"MA: +([\d.]+) % lost", said)]
    assert len(lost) == 8
    assert lost[0] > 80
    assert lost[-1] < 5
    assert lost == sorted(lost, reverse=True)
    assert float(re.search(r"within (\S+)", said)[1]) < 1e-5
    (picture,) = outputs["import matplotlib.pyplot as plt"]
    assert base64.b64decode(picture.data["image/png"]).startswith(b"\x89PNG")
    assert "% lost at 1.5 MA" in text(outputs["cluster.scale(jobs=1)  # nodes"])
    assert "1.5 MA, batch 13: " in text(outputs['print(cluster.get_logs()["Cluster"])'])
    assert os.listdir() == [], "the run directory is gone"


def test_the_documented_notebook_on_two_nodes(slurm, two_nodes, wait_until):
    check_alpha_losses(nodes=2)
    wait_until(lambda: not live_steps(slurm), 5, "no step is left")


def test_the_documented_notebook_without_slurm():
    check_alpha_losses(nodes=1)


def test_documented_notebooks_are_stored_without_outputs():
    """They would age, and name somebody's hosts."""
    (path,) = (DOCS / "examples" / "notebook").glob("*.ipynb")
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert [c for c in cells if c.outputs or c.execution_count] == []


# Interrupting, restarting, several notebooks


def test_interrupting_a_cell_leaves_the_cluster_and_its_work(
    job_id, open_notebook, shared_tmp_path, wait_until
):
    notebook = open_notebook()
    notebook.run(START.format(arguments="2, scheduler_options={'dashboard': False}"))
    folder = shared_tmp_path / "starts"
    folder.mkdir()
    notebook.run(f"""
def slow(number):
    import tempfile, time
    tempfile.mkstemp(dir={str(folder)!r})
    time.sleep(3)
    return number
futures = client.map(slow, range(8))""")
    notebook.client.execute("open('waiting', 'w').close(); client.gather(futures)")
    wait_until(lambda: list(folder.iterdir()), 20, "a task runs")
    wait_until(Path("waiting").exists, 20, "the cell waits")
    assert notebook.interrupt() == "KeyboardInterrupt"
    notebook.manager.interrupt_kernel()  # srun would take a second one as the order to abort
    assert notebook.run("print(sum(client.gather(futures)), len(nodes()))") == "28 2\n"
    assert len(list(folder.iterdir())) == 8, "each task ran once"
    notebook.run("client.close(); cluster.close()")
    assert sorted(os.listdir()) == ["starts", "waiting"]


@pytest.mark.parametrize("now", [False, True], ids=["asked", "killed"])
def test_a_restarted_kernel_gets_all_nodes(slurm, two_nodes, open_notebook, wait_until, now):
    notebook = open_notebook()
    source = START.format(arguments="scheduler_options={'dashboard': False}")
    notebook.run(source)
    before = live_steps(slurm)
    notebook.run(
        "import subprocess; client.map(subprocess.run, [['sleep', '600']] * 4, pure=False)"
    )
    notebook.restart(now)
    notebook.run(source)
    assert notebook.run("print(*nodes())") == "n1 n2\n"
    wait_until(
        lambda: not live_steps(slurm) & before, 10, "the steps of the first cluster are gone"
    )
    notebook.run("client.close(); cluster.close()")


def test_two_notebooks_never_share_a_node(two_nodes, open_notebook):
    first, second = open_notebook(), open_notebook()
    source = START.format(arguments="nodes=1, scheduler_options={'dashboard': False}")
    first.run(source)
    second.run(source)
    each = [notebook.run("print(*nodes())").split() for notebook in (first, second)]
    assert sorted(each) == [["n1"], ["n2"]]
    for notebook in (first, second):
        notebook.run("client.close(); cluster.close()")


# What is shown, and what is printed


def test_what_a_cell_shows_without_and_with_widgets(job_id, open_notebook):
    notebook = open_notebook()
    notebook.run(START.format(arguments="2"))
    (plain,) = notebook.outputs("import sys; sys.modules['ipywidgets'] = None; cluster")
    (widget,) = notebook.outputs("del sys.modules['ipywidgets'], cluster._cached_widget; cluster")
    kind = "application/vnd.jupyter.widget-view+json"
    assert set(plain["data"]) == {"text/plain", "text/html"}
    assert set(widget["data"]) == {"text/plain", "text/html", kind}
    page = plain["data"]["text/html"]
    link, port = re.search(r'href="(http://127.0.0.1:(\d+)/status)"', page).groups()
    assert page.count(link) == 2
    for said in (
        f"<strong>Allocation:</strong> Slurm job {job_id}",
        "<strong>Nodes:</strong> 2 of 4",
        "<strong>Total threads:</strong> 4",
        f"ssh -N -L {port}:127.0.0.1:{port} n1",
    ):
        assert said in page
    assert ">None<" not in page
    assert re.search(r"-1</td><td [^>]*>n2</td>", page)
    notebook.run("client.close(); cluster.close()")
    (closed,) = notebook.outputs("cluster")
    assert "<strong>Dashboard:</strong> none" in closed["data"]["text/html"]


@pytest.mark.parametrize("where", ["slurm", "local"])
def test_prints_of_tasks_in_a_notebook_are_in_the_log(request, where, open_notebook, wait_until):
    if where == "slurm":
        request.getfixturevalue("job_id")
    notebook = open_notebook()
    notebook.run(START.format(arguments="1, scheduler_options={'dashboard': False}"))
    notebook.run("""
def speak():
    import time
    print("from a task")
    time.sleep(600)
future = client.submit(speak)""")
    log = "print(cluster.get_logs()['Cluster'])"
    wait_until(lambda: "from a task\n" in notebook.run(log), 20, "the print, while the task runs")
    notebook.run("client.cancel(future, force=True); client.close(); cluster.close()")


@pytest.mark.parametrize("where", ["slurm", "local"])
def test_prints_of_tasks_in_a_script_come_live(request, where, wait_until):
    if where == "slurm":
        request.getfixturevalue("job_id")
    Path("script.py").write_text("""
from ips_dask_cluster import SlurmAllocationCluster
def speak():
    from pathlib import Path
    import time
    print("from a task")
    while not Path("heard").exists():
        time.sleep(0.05)
with SlurmAllocationCluster(1, scheduler_options={"dashboard": False}) as cluster:
    with cluster.get_client() as client:
        client.submit(speak).result()
print("the end")
""")
    with open("out", "w") as out:
        script = subprocess.Popen([sys.executable, "script.py"], stdout=out)
    try:
        wait_until(lambda: Path("out").read_text() == "from a task\n", 30, "the task's print")
    finally:
        Path("heard").touch()
        assert script.wait(60) == 0
    assert Path("out").read_text() == "from a task\nthe end\n"


# The dashboard


def get(url: str, token: str = "", method: str = "GET", body: Any = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"token {token}"} if token else {}
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.status, answer.read().decode()


def test_the_dashboard_is_there_for_its_own_node_only(job_id):
    with SlurmAllocationCluster(1) as cluster:
        cluster.wait_for_workers()
        link = cluster.dashboard_link
        port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/status", link)[1])
        status, page = get(link)
        assert (status, "<title>Dask Diagnostic UI</title>" in page) == (200, True)
        address = get_address_host(cluster.scheduler_address)
        assert not address.startswith("127.")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, port), timeout=10)
        with cluster.get_client() as client:
            assert client.dashboard_link == link
    assert cluster.dashboard_link == ""


def test_a_dashboard_for_everybody_has_the_address_of_the_node(job_id):
    with SlurmAllocationCluster(1, scheduler_options={"dashboard_address": ":0"}) as cluster:
        cluster.wait_for_workers()
        link = cluster.dashboard_link
        assert link.startswith(f"http://{get_address_host(cluster.scheduler_address)}:")
        assert get(link)[0] == 200
        assert "ssh -N" not in cluster._repr_html_()


def test_without_bokeh_there_is_no_dashboard_and_nothing_strange(job_id, monkeypatch):
    monkeypatch.setitem(sys.modules, "bokeh", None)
    with SlurmAllocationCluster(1) as cluster:
        cluster.wait_for_workers()
        assert cluster.dashboard_link == ""
        page = cluster._repr_html_()
        address = get_address_host(cluster.scheduler_address)
        # the server that Dask starts all the same
        port = cluster.scheduler_info["services"]["dashboard"]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, port), timeout=10)
    assert "<strong>Dashboard:</strong> none" in page
    assert "href" not in page
    assert "ssh" not in page


# Jupyter's server

PREFIX = "/user/me/"
TOKEN = "of-the-test"


@pytest.fixture
def jupyter_server(own_jupyter, tmp_path, wait_until) -> Iterator[Callable[..., str]]:
    """``jupyter_server(**environ)``: start one below PREFIX, as JupyterHub does; its address."""
    started: list[subprocess.Popen] = []

    def start(**environ: str) -> str:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        argv = [
            *(
                "jupyter",
                "server",
                "--no-browser",
                "--allow-root",
                "--ip=127.0.0.1",
                f"--port={port}",
            ),
            *(f"--ServerApp.base_url={PREFIX}", f"--IdentityProvider.token={TOKEN}"),
        ]
        with open(tmp_path / "server.log", "w") as log:
            process = subprocess.Popen(argv, env=os.environ | environ, stdout=log, stderr=log)
        started.append(process)

        address = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            assert process.poll() is None, (tmp_path / "server.log").read_text()
            with contextlib.suppress(OSError):
                return get(f"{address}{PREFIX}api", TOKEN)[0] == 200
            return False

        wait_until(answers, 60, "Jupyter's server is up")
        return address

    yield start
    for process in started:
        process.terminate()
        process.wait(30)


def test_the_dashboard_behind_jupyterhub(job_id, jupyter_server, monkeypatch):
    server = jupyter_server()
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", PREFIX)
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    with SlurmAllocationCluster(1) as cluster:
        cluster.wait_for_workers()
        link = cluster.dashboard_link
        assert re.fullmatch(rf"{PREFIX}proxy/\d+/status", link)
        status, page = get(server + link, TOKEN)
        assert (status, "<title>Dask Diagnostic UI</title>" in page) == (200, True)
        assert "ssh -N" not in cluster._repr_html_()

        async def first_word() -> str:
            request = HTTPRequest(
                server.replace("http", "ws") + link + "/ws",
                headers={"Authorization": f"token {TOKEN}"},
            )
            protocols = ["bokeh", generate_jwt_token(generate_session_id())]
            connection = await websocket_connect(request, subprotocols=protocols)
            word = await asyncio.wait_for(connection.read_message(), 30)
            connection.close()
            while await asyncio.wait_for(connection.read_message(), 30) is not None:
                pass  # until it is closed
            return word

        assert json.loads(asyncio.run(first_word()))["msgtype"] == "ACK"


def block(language: str, mark: str) -> str:
    """The one code block of the page on Jupyter in a language that contains a mark."""
    page = (DOCS / "jupyter.md").read_text()
    blocks = re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (found,) = (text for text in blocks if mark in text)
    return found


def test_clusters_of_jupyterlab_are_built_from_the_documented_snippet(
    slurm, two_nodes, jupyter_server, tmp_path, wait_until
):
    (tmp_path / "dask").mkdir()
    (tmp_path / "dask" / "labextension.yaml").write_text(block("yaml", "kwargs: {}"))
    server = jupyter_server(DASK_CONFIG=str(tmp_path / "dask"), SLURMD_NODENAME="n1")
    clusters = f"{server}{PREFIX}dask/clusters"

    def ask(method: str, url: str, body: Any = None) -> Any:
        status, answer = get(url, TOKEN, method, body)
        return json.loads(answer) if status == 200 else status

    made = ask("PUT", clusters, {})
    assert made["name"] == "SlurmAllocationCluster 1"
    mine = f"{clusters}/{made['id']}"
    wait_until(lambda: ask("GET", mine)["workers"] == 2, 30, "two workers")
    assert ask("GET", mine)["cores"] == 4
    assert (
        "<title>Dask Diagnostic UI</title>"
        in get(f"{server}{PREFIX}dask/dashboard/{made['id']}/status", TOKEN)[1]
    )
    ask("PATCH", mine, {"workers": 1})
    wait_until(lambda: ask("GET", mine)["workers"] == 1, 30, "one worker")
    assert ask("PATCH", mine, {"adapt": {"minimum": 0, "maximum": 2}})["adapt"]["maximum"] == 2
    wait_until(lambda: ask("GET", mine)["workers"] == 0, 30, "the idle one is given back")
    assert ask("DELETE", mine) == 204
    wait_until(lambda: not live_steps(slurm), 5, "no step is left")
    assert os.listdir() == []


def test_certificates_of_ones_own_let_every_notebook_connect(
    job_id, open_notebook, shared_tmp_path, monkeypatch
):
    """What JupyterLab's sidebar puts into a notebook has the scheduler's address only."""
    monkeypatch.setenv("HOME", str(shared_tmp_path))
    subprocess.run([sys.executable, "-c", block("python", "temporary()")], check=True, timeout=30)
    keys = shared_tmp_path / ".dask-tls"
    assert keys.stat().st_mode & 0o777 == 0o700
    config = shared_tmp_path / ".config" / "dask"
    config.mkdir(parents=True)
    text = block("yaml", "ca-file:").replace("/home/me", str(shared_tmp_path))
    (config / "tls.yaml").write_text(text)
    first, second = open_notebook(), open_notebook()
    first.run("""
import dask
from ips_dask_cluster import SlurmAllocationCluster
cluster = SlurmAllocationCluster(2, **dask.config.get("labextension.factory.kwargs"))
cluster.wait_for_workers()""")
    address = first.run("print(cluster.scheduler_address)").strip()
    assert address.startswith("tls://")
    assert first.run("print(*cluster.run_directory.glob('*.pem'))") == "\n"
    second.run(f"from dask.distributed import Client; client = Client({address!r})")
    assert second.run("print(client.submit(sum, [1, 2]).result())") == "3\n"
    second.run("client.close()")
    first.run("cluster.close()")
    assert not list(shared_tmp_path.glob(".ips*"))
