"""A simulation from a cell of a notebook, in a real kernel; its log as a DataFrame."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nbclient import NotebookClient
from nbformat import v4

DOCS = Path(__file__).parents[2] / "docs"

# what kernels and their clients warn of is not ours
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

STEP = """
print("step of", services.sim_name, "at", timestamp, flush=True)
services.send_portal_event("MY_EVENT", "from a cell")
"""
IN_A_THREAD = """\
import threading
ended = []
thread = threading.Thread(target=lambda: ended.append(Framework(["sim.config"]).run()))
thread.start()
thread.join()
ended"""
ENDED = """\
framework = Framework(["slow.config"])
thread = threading.Thread(target=framework.run)
thread.start()
while not os.path.exists("slow/began"):
    thread.join(0.1)
framework.terminate_all_sims()
thread.join()
framework.failure"""
FAILING = """\
framework = Framework(["bad.config"])
framework.run(), framework.failure"""
INTERRUPTED = """\
framework = Framework(["stopped.config"])
framework.run(), framework.failure"""
AFTERWARDS = """\
signal.getsignal(signal.SIGINT) is signal.default_int_handler, os.getcwd() == before"""


def documented() -> list[str]:
    """The cells of the section on simulations."""
    section = (DOCS / "jupyter.md").read_text(encoding="utf-8").partition("\n## Simulations\n")[2]
    return re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], flags=re.S)


@pytest.fixture
def cells(simulation: Any, once: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """``{cell: what is shown below it}``, of one notebook."""

    def answer() -> dict[str, str]:
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            monkeypatch.setenv(name, str(simulation.folder / name.lower()))
        monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        simulation.write(STEP)
        stop = "os.kill(os.getppid(), signal.SIGINT), time.sleep(60)"  # as the stop button does
        slow = "open('../../began', 'w').close(), time.sleep(60)"
        for name, step in (("bad", "1 / 0"), ("stopped", stop), ("slow", slow)):
            script = (simulation.folder / "driver.py").read_text().partition("        print(")[0]
            (simulation.folder / f"{name}.py").write_text(f"{script}        {step}\n")
            text = simulation.config.read_text().replace("driver.py", f"{name}.py")
            (simulation.folder / f"{name}.config").write_text(
                text.replace("SIM_NAME = sim", f"SIM_NAME = {name}").replace("/sim", f"/{name}")
            )
        sources = [
            "import os, signal\nbefore = os.getcwd()",
            *documented(),
            IN_A_THREAD,
            ENDED,
            FAILING,
            INTERRUPTED,
            AFTERWARDS,
        ]
        notebook = v4.new_notebook(cells=[v4.new_code_cell(source) for source in sources])
        path = {"metadata": {"path": str(simulation.folder)}}
        client = NotebookClient(notebook, timeout=60, kernel_name="python3", resources=path)
        with monkeypatch.context() as patch:
            patch.delenv("PYTEST_CURRENT_TEST")  # with it a kernel shows no output of processes
            client.execute()
        return {cell.source: _shown(cell.outputs) for cell in notebook.cells}

    return once("cells", answer)


def _shown(outputs: list[Any]) -> str:
    return "".join(output.get("text") or output["data"]["text/plain"] + "\n" for output in outputs)


@pytest.mark.versions
def test_documented_cells(cells: Any) -> None:
    run, log = documented()
    assert cells[run].splitlines()[0].startswith("Starting IPS ")
    assert cells[run].splitlines()[1:] == ["step of sim at 0", "True"]
    assert "DRIVER__Driver_1            MY_EVENT" in cells[log]
    assert "Simulation Ended" in cells[log]


def test_run_in_a_thread(cells: Any) -> None:
    assert cells[IN_A_THREAD].splitlines()[1:] == ["step of sim at 0", "[True]"]


def test_end_of_a_run_in_a_thread(cells: Any) -> None:
    assert "terminated" in cells[ENDED].splitlines()[-1]


def test_failure_is_told(cells: Any) -> None:
    reason = "component DRIVER__Driver_1 failed in step: ZeroDivisionError: division by zero"
    assert re.search(rf"\(False,\s+'{reason}'\)", cells[FAILING])


def test_stop_button_ends_the_simulation_and_the_kernel_is_as_before(cells: Any) -> None:
    assert "(False, 'interrupted by SIGINT')" in cells[INTERRUPTED]
    assert cells[AFTERWARDS] == "(True, True)\n"
