"""From checked settings to what the steps of a cluster have in common."""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from ips_dask_cluster.configuration import Configured
from ips_dask_cluster.containers import Shifter
from ips_dask_cluster.settings import StepSettings, step_settings


def configured(**keywords: Any) -> Configured:
    return Configured(None, keywords)


@pytest.fixture(autouse=True)
def bokeh(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is installed, whether it is or not."""
    monkeypatch.setattr(util, "find_spec", lambda name: name)


def make(run: Path, options: dict[str, Any] | None = None, **keywords: Any) -> StepSettings:
    common = {key: keywords.pop(key, None) for key in ("container", "interface", "protocol")}
    return step_settings(
        configured(**keywords),
        name="c",
        run_directory=run,
        processes=keywords.get("processes", 1),
        teardown_seconds=0,
        gpus_per_worker=int(keywords.get("worker_per_gpu", False)),
        environment={"A": "1"},
        scheduler_environment={"B": "2"},
        scheduler_options={"dashboard": False} if options is None else options,
        **common,
    )


NO_DASHBOARD = ("--no-dashboard", "--dashboard-address", "127.0.0.1:0")
WORKER_ARGUMENTS = ("--no-nanny", *NO_DASHBOARD, "--death-timeout", "300")


def test_settings_without_any_keyword(tmp_path: Path) -> None:
    assert make(tmp_path) == StepSettings(
        name="c",
        run_directory=tmp_path,
        log_directory=tmp_path,
        python=sys.executable,
        worker_command="distributed.cli.dask_worker",
        worker_arguments=WORKER_ARGUMENTS,
        scheduler_arguments=NO_DASHBOARD,
        environment={"A": "1"},
        scheduler_environment={"B": "2"},
    )
    assert (tmp_path / "c.witness").read_bytes() == b""


def test_settings_with_every_keyword(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    container = Shifter("i:1")
    settings = make(
        tmp_path,
        cores=4,
        processes=2,
        worker_per_gpu=True,
        memory="2 GiB",
        container=container,
        python="/opt/python",
        worker_command="my.worker",
        worker_extra_args=["--resources", "GPU=2", 7],
        interface="ib0",
        protocol="tcp",
        nanny=True,
        death_timeout=60,
        local_directory="/scratch",
        log_directory="~/logs/deep",
        job_script_prologue=["module load a"],
        restarts=1,
        start_timeout="30",
        close_timeout=5,
        srun_extra_args=["--qos=x"],
        srun_args_skip=["--mem"],
        template_directory="~/templates",
    )
    assert settings == StepSettings(
        name="c",
        run_directory=tmp_path,
        log_directory=tmp_path / "logs" / "deep",
        python="/opt/python",
        worker_command="my.worker",
        worker_arguments=(
            *("--nanny", *NO_DASHBOARD, "--death-timeout", "60"),
            *("--interface", "ib0", "--protocol", "tcp"),
            *("--resources", "GPU=2", "7"),
        ),
        scheduler_arguments=NO_DASHBOARD,
        processes=2,
        gpus_per_worker=1,
        cores=4,
        memory=2 * 2**30,
        container=container,
        environment={"A": "1"},
        scheduler_environment={"B": "2"},
        prologue=("module load a",),
        local_directory="/scratch",
        restarts=1,
        start_timeout=30.0,
        close_timeout=5.0,
        srun_extra_args=("--qos=x",),
        srun_args_skip=("--mem",),
        template_directory=tmp_path / "templates",
    )
    assert settings.log_directory.is_dir()


def test_container_brings_its_own_python(tmp_path: Path) -> None:
    assert make(tmp_path, container=Shifter("i:1")).python == "python3"


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, ["--dashboard-address", "127.0.0.1:0"]),
        ({"dashboard_address": ":8787"}, ["--dashboard-address", "127.0.0.1:0"]),
        ({"dashboard_address": "0.0.0.0:9000"}, ["--dashboard-address", "0.0.0.0:9000"]),
        ({"dashboard": False, "dashboard_address": "0.0.0.0:9000"}, NO_DASHBOARD),
        (
            {"dashboard": False, "interface": "ib0", "idle_timeout": 60, "protocol": None},
            [*NO_DASHBOARD, "--interface", "ib0", "--idle-timeout", "60"],
        ),
    ],
)
def test_scheduler_arguments(tmp_path: Path, options: dict[str, Any], arguments: list[str]) -> None:
    assert make(tmp_path, options).scheduler_arguments == tuple(arguments)


@pytest.mark.parametrize(
    ("container", "argument"), [(None, "--no-dashboard"), (Shifter("i:1"), "--dashboard-address")]
)
def test_without_bokeh_there_is_no_dashboard_but_perhaps_in_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: Shifter | None, argument: str
) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    assert make(tmp_path, {}, container=container).scheduler_arguments[0] == argument


class FakeSecurity:
    """A certificate each, as paths."""

    def get_tls_config_for_role(self, role: str) -> dict[str, str]:
        return {"cert": f"/keys/{role}.pem"}


def test_certificates_go_to_both_command_lines(tmp_path: Path) -> None:
    options = {"dashboard": False, "security": FakeSecurity()}
    settings = make(tmp_path, options, worker_extra_args=["--last"])
    worker = (*WORKER_ARGUMENTS, "--tls-cert", "/keys/worker.pem", "--last")
    assert settings.worker_arguments == worker
    assert settings.scheduler_arguments == ("--tls-cert", "/keys/scheduler.pem", *NO_DASHBOARD)


@pytest.mark.parametrize("own", [True, False])
def test_prints_of_tasks_reach_a_terminal_but_no_capture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.__stdout__ if own else object())
    assert make(tmp_path).inherit_stdout is own
