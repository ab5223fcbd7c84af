"""From keywords and dask's configuration to what the steps of a cluster have in common."""

from __future__ import annotations

import copy
import sys
from importlib import util
from pathlib import Path
from typing import Any

import dask
import pytest

from ips_dask_cluster.containers import Shifter
from ips_dask_cluster.settings import Configured, StepSettings, step_settings

SECTION = "jobqueue.slurm-allocation"


def configured(**keywords: Any) -> Configured:
    return Configured("slurm-allocation", keywords)


@pytest.fixture
def own_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask's configuration to spoil."""
    own = copy.deepcopy(dask.config.global_config)
    monkeypatch.setattr(dask.config, "global_config", own)


# One setting.


@pytest.mark.usefixtures("own_config")
def test_keyword_beats_the_environment_and_that_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured()("start-timeout") == 120
    monkeypatch.setenv("DASK_JOBQUEUE__SLURM_ALLOCATION__START_TIMEOUT", "60")
    dask.config.refresh(config=dask.config.global_config)
    assert configured()("start-timeout") == 60
    assert configured(start_timeout=30)("start-timeout") == 30


def test_dask_config_beats_the_file() -> None:
    with dask.config.set({f"{SECTION}.name": "mine"}):
        assert configured()("name") == "mine"
        assert configured(name="given")("name") == "given"
    assert configured()("name") == "ips-dask"


@pytest.mark.parametrize(("given", "value"), [(False, False), (0, 0), ([], []), (None, True)])
def test_keyword_none_alone_counts_as_not_given(given: Any, value: Any) -> None:
    assert configured(security=given)("security") == value


def test_underscores_and_dashes_are_the_same_keyword() -> None:
    assert configured(worker_extra_args=["--x"])("worker-extra-args") == ["--x"]


def test_unknown_keyword_is_an_error_like_that_of_any_call() -> None:
    with pytest.raises(TypeError) as caught:
        configured(cores=1, core=2)
    message = "SlurmAllocationCluster got an unexpected keyword argument 'core'"
    assert str(caught.value) == message


def test_site_may_have_a_section_of_its_own() -> None:
    with dask.config.set({"jobqueue.my-site": {"cores": 12}}):
        assert Configured("my-site", {})("cores") == 12


# All of them.


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
        gpus_per_worker=int(keywords.get("worker_per_gpu", False)),
        environment={"A": "1"},
        scheduler_environment={"B": "2"},
        scheduler_options={"dashboard": False} if options is None else options,
        **common,
    )


WORKER_ARGUMENTS = ("--no-nanny", "--no-dashboard", "--death-timeout", "300")
#: Its server is there all the same, and must not be open to the network.
NO_DASHBOARD = ("--no-dashboard", "--dashboard-address", "127.0.0.1:0")


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
            *("--nanny", "--no-dashboard", "--death-timeout", "60"),
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
        ({"dashboard": False, "dashboard_address": "0.0.0.0:9000"}, [*NO_DASHBOARD]),
        (
            {"dashboard": False, "interface": "ib0", "idle_timeout": 60, "protocol": None},
            [*NO_DASHBOARD, "--interface", "ib0", "--idle-timeout", "60"],
        ),
    ],
)
def test_scheduler_arguments(tmp_path: Path, options: dict[str, Any], arguments: list[str]) -> None:
    assert make(tmp_path, options).scheduler_arguments == tuple(arguments)


@pytest.mark.parametrize(
    ("options", "host"),
    [
        ({}, "127.0.0.1"),
        ({"dashboard_address": ":0"}, ""),
        ({"dashboard_address": "0.0.0.0:9000"}, "0.0.0.0"),
        ({"dashboard": False}, None),
    ],
)
def test_where_the_dashboard_listens(
    tmp_path: Path, options: dict[str, Any], host: str | None
) -> None:
    assert make(tmp_path, options).dashboard_host == host


@pytest.mark.parametrize(
    ("container", "argument"), [(None, "--no-dashboard"), (Shifter(), "--dashboard-address")]
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


def test_lists_may_be_written_as_strings() -> None:
    configured = Configured(
        "slurm-allocation",
        {
            "srun_extra_args": "--qos=fast --comment='two words'",
            "worker_extra_args": ["--lifetime", 60],
            "job_script_prologue": "module load x\nexport A=1",
        },
    )
    assert configured.words("srun-extra-args") == ("--qos=fast", "--comment=two words")
    assert configured.words("worker-extra-args") == ("--lifetime", "60")
    assert configured.lines("job-script-prologue") == ("module load x", "export A=1")
