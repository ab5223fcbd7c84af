"""The end of the allocation: known, announced, and met in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ips_dask_cluster import SlurmAllocationCluster, end_watch
from ips_dask_cluster.testing import LocalSlurm

NO_DASHBOARD = {"dashboard": False}


@pytest.mark.versions
def test_the_end_is_known_and_announced_once(slurm: LocalSlurm, allocate, caplog, wait_until):
    job_id = allocate(slurm, 1, "--exclusive", "--time=5")
    told, events = [], []
    with SlurmAllocationCluster(
        1, walltime_margin="295 s", on_walltime=told.append, scheduler_options=NO_DASHBOARD
    ) as cluster:
        assert 200 < cluster.time_left() <= 300
        with cluster.get_client() as client:
            wait_until(lambda: told, 60, "somebody is told")
            wait_until(
                lambda: events or events.extend(client.get_events("ips-dask-cluster")),
                20,
                "clients are told",
            )
    assert told[0] == pytest.approx(295, abs=30)
    assert [event["event"] for _, event in events] == ["walltime"]
    assert [m for m in caplog.messages if m.startswith(f"Slurm job {job_id} ends in ")] != []
    assert len(told) == 1


def test_margin_that_has_passed_at_the_start_is_announced(slurm, allocate, wait_until):
    allocate(slurm, 1, "--exclusive", "--time=5")
    told, events = [], []
    with (
        SlurmAllocationCluster(
            1, walltime_margin="10 min", on_walltime=told.append, scheduler_options=NO_DASHBOARD
        ) as cluster,
        cluster.get_client() as client,
    ):
        wait_until(
            lambda: events or events.extend(client.get_events("ips-dask-cluster")),
            20,
            "clients are told",
        )
    assert told == [pytest.approx(300, abs=40)]
    assert [event for _, event in events] == [{"event": "walltime", "seconds": told[0]}]


@pytest.fixture
def often(monkeypatch):
    """Slurm is asked ten times a second for the limit."""
    monkeypatch.setattr(end_watch, "_SECONDS_BETWEEN_LOOKS", 0.1)


@pytest.mark.usefixtures("often")
def test_limit_that_is_changed_is_noticed(slurm, allocate, wait_until):
    job_id = allocate(slurm, 1, "--exclusive", "--time=60")
    told = []

    def limit(minutes: str) -> None:
        slurm.run(["scontrol", "update", f"JobId={job_id}", f"TimeLimit={minutes}"])

    with SlurmAllocationCluster(
        1, walltime_margin="10 min", on_walltime=told.append, scheduler_options=NO_DASHBOARD
    ) as cluster:
        limit("90")
        wait_until(lambda: cluster.time_left() > 3700, 30, "the longer limit is known")
        assert told == []
        limit("5")
        wait_until(lambda: told, 30, "the end is announced")
        assert cluster.time_left() <= 300
        limit("UNLIMITED")
        wait_until(lambda: cluster.time_left() is None, 30, "there is no end any more")
    assert told == [pytest.approx(300, abs=40)]


@pytest.mark.versions
def test_without_a_limit_there_is_no_end(job_id):
    with SlurmAllocationCluster(1, scheduler_options=NO_DASHBOARD) as cluster:
        assert cluster.time_left() is None


DRIVER = """
import atexit, sys, time
from ips_dask_cluster import SlurmAllocationCluster
from distributed import WorkerPlugin
{extra}
def note(line):
    with open({record!r}, "a") as file:
        print(line, file=file, flush=True)
cluster = SlurmAllocationCluster(2, scheduler_options={{"dashboard": False}}, {options})
cluster.wait_for_workers()
client = cluster.get_client()
def plugin():
    class Teller(WorkerPlugin):
        def teardown(self, worker):
            with open({record!r}, "a") as file:
                print("teardown", file=file, flush=True)
    return Teller()
client.register_plugin(plugin())
atexit.register(note, "atexit")
try:
    note("ready")
    time.sleep(60)
finally:
    note("finally")
"""


@pytest.fixture
def driver(shared_tmp_path: Path):
    """``driver(options="", extra="")``: write a script that waits; its path, and its record's."""

    def write(options: str = "", extra: str = "") -> tuple[Path, Path]:
        script, record = shared_tmp_path / "driver.py", shared_tmp_path / "record"
        script.write_text(DRIVER.format(record=str(record), options=options, extra=extra))
        record.touch()
        return script, record

    return write


ORDER = ["ready", "finally", "atexit", "teardown", "teardown"]


@pytest.mark.versions
def test_sigterm_ends_a_script_in_order(slurm, job_id, driver, shared_tmp_path, wait_until):
    script, record = driver()
    with subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: record.read_text(), 60, "the script is ready")
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)  # and no second time
        errors = process.communicate(timeout=30)[1]
        assert (process.returncode, errors) == (128 + signal.SIGTERM, "")
    assert sorted(record.read_text().split()) == sorted(ORDER)
    wait_until(lambda: not slurm.steps(), 10, "no step is left")
    assert {path.name for path in shared_tmp_path.iterdir()} == {"driver.py", "record"}


SLOW = {
    "start": "options['job_script_prologue'] = ['sleep 3']; Path('now').touch()",
    "close": """
end = Steps.close

async def slow_end(steps, *arguments):
    Path("now").touch()
    await asyncio.sleep(2)
    await end(steps, *arguments)

Steps.close = slow_end
""",
}


@pytest.mark.parametrize("moment", sorted(SLOW))
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_starts_or_closes_leaves_nothing(
    number, moment, slurm, job_id, shared_tmp_path, wait_until
):
    script = f"""
import asyncio
from pathlib import Path
from ips_dask_cluster import SlurmAllocationCluster
from ips_dask_cluster.steps.launcher import Steps

options = {{}}
{SLOW[moment]}
with SlurmAllocationCluster(1, **options) as cluster:
    cluster.wait_for_workers()
"""
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: Path("now").exists() and slurm.steps(), 60, "it starts or closes")
        process.send_signal(number)
        assert process.wait(30) in (128 + number, -number)
    wait_until(lambda: not slurm.steps(), 10, "no step is left")
    assert [path.name for path in shared_tmp_path.iterdir()] == ["now"]


@pytest.mark.versions
def test_the_batch_signal_ends_a_batch_job_in_order(slurm, driver, shared_tmp_path, wait_until):
    """As with ``#SBATCH --signal=B:USR1@120``, which Slurm sends that long before the end."""
    script, record = driver('close_on_signals=["SIGTERM", "SIGUSR1"]')
    done = slurm.run(
        [
            *("sbatch", "--parsable", "-N2", "--exclusive", f"--chdir={shared_tmp_path}"),
            *("--output=batch.out", f"--wrap=exec {sys.executable} {script}"),
        ]
    )
    job = done.stdout.strip()
    wait_until(lambda: record.read_text(), 60, "the script is ready")
    slurm.run(["scancel", "--batch", "--signal=USR1", job])
    wait_until(lambda: job not in slurm.jobs(), 30, "the job ends")
    assert sorted(record.read_text().split()) == sorted(ORDER)
    assert (shared_tmp_path / "batch.out").read_text() == ""


def test_a_program_that_handles_sigterm_itself_goes_on(job_id, driver, wait_until):
    extra = "import signal; signal.signal(signal.SIGTERM, lambda *_: note('handled'))"
    script, record = driver(extra=extra)
    with subprocess.Popen([sys.executable, script]) as process:
        wait_until(lambda: record.read_text(), 60, "the script is ready")
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: "handled" in record.read_text(), 20, "its own handler runs")
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.wait(30)


def test_with_all_clusters_closed_sigterm_is_what_it_was():
    code = """
import os, signal
from ips_dask_cluster import SlurmAllocationCluster
cluster = SlurmAllocationCluster(1, launcher="local", scheduler_options={"dashboard": False})
cluster.close()
os.kill(os.getpid(), signal.SIGTERM)
"""
    folder = Path(os.environ["TMPDIR"])
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, timeout=60)
    assert done.returncode == -signal.SIGTERM
