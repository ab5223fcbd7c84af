"""Which of keyword, user's configuration, profile and default wins; what is refused, and how."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import pytest
import yaml

from ips_dask_cluster import SlurmAllocationCluster, configuration
from ips_dask_cluster.configuration import (
    BASE_CLASS,
    DEFAULT,
    Configured,
    checked,
    duration,
    profiles,
)
from ips_dask_cluster.jobqueue import Job, JobQueueCluster, shipped_sections

SECTION = "jobqueue.slurm-allocation"
_FILE = Path(configuration.__file__).with_name("slurm-allocation.yaml")
PACKAGED = yaml.safe_load(_FILE.read_text(encoding="utf-8"))["jobqueue"]


def configured(profile: str | None = None, /, **keywords: Any) -> Configured:
    return Configured(profile, keywords, inspect.signature(SlurmAllocationCluster).parameters)


@pytest.fixture
def own_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """``own_config(yaml, **environment)``: dask's configuration as if the user had written that."""
    own = copy.deepcopy(dask.config.global_config)
    monkeypatch.setattr(dask.config, "global_config", own)
    monkeypatch.setattr(dask.config, "paths", [str(tmp_path)])

    def write(text: str = "", **environment: str) -> None:
        (tmp_path / "mine.yaml").write_text(text)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        dask.config.refresh(config=own, paths=[str(tmp_path)])

    return write


# Who has precedence.


def test_each_layer_beats_the_next(own_config: Callable[..., None]) -> None:
    def cores(**keywords: Any) -> Any:
        return configured("frontier", **keywords)("cores")

    assert configured()("cores") is None
    assert cores() == 56
    own_config("jobqueue: {slurm-allocation: {cores: 5}}")
    assert cores() == 5
    own_config("jobqueue: {slurm-allocation: {cores: 5}, frontier: {cores: 4}}")
    assert cores() == 4
    variable = "DASK_JOBQUEUE__FRONTIER__CORES"
    own_config("jobqueue: {slurm-allocation: {cores: 5}, frontier: {cores: 4}}", **{variable: "3"})
    assert cores() == 3
    assert cores(cores=2) == 2
    assert configured(None)("cores") == 5


def test_variable_beats_the_file(own_config: Callable[..., None]) -> None:
    variable = "DASK_JOBQUEUE__SLURM_ALLOCATION__START_TIMEOUT"
    own_config("jobqueue: {slurm-allocation: {start-timeout: 90}}", **{variable: "60"})
    assert configured()("start-timeout") == 60


def test_null_in_a_profile_is_what_the_allocation_says() -> None:
    with dask.config.set({"jobqueue.frontier": {"cores": None, "restarts": None}}):
        frontier = configured("frontier")
    assert frontier("cores") is None
    assert frontier("restarts") == 3, "null has no other meaning there"
    assert frontier("interface") == "hsn0", "a profile of the user's adds to the package's"


def test_dask_config_beats_the_packaged_file() -> None:
    with dask.config.set({f"{SECTION}.name": "mine"}):
        assert configured()("name") == "mine"
        assert configured(name="given")("name") == "given"
    assert configured()("name") == "ips-dask"


def test_values_do_not_change_after_the_start() -> None:
    settings = configured()
    with dask.config.set({f"{SECTION}.close-timeout": 99}):
        assert settings("close-timeout") == 10


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("interface", None, "hsn0"),
        ("security", False, False),
        ("restarts", 0, 0),
        ("security", None, True),
        ("cores", 4, 4),
    ],
)
def test_keyword_none_alone_counts_as_not_given(name: str, given: Any, value: Any) -> None:
    assert configured("frontier", **{name: given})(name) == value


def test_a_list_replaces_a_list() -> None:
    assert configured("frontier", srun_extra_args=[])("srun-extra-args") == ()


def test_scheduler_options_are_merged() -> None:
    with dask.config.set({f"{SECTION}.scheduler-options": {"dashboard": False, "port": 1}}):
        options = configured("local", scheduler_options={"port": 2})("scheduler-options")
        assert options == {"host": "127.0.0.1", "dashboard": False, "port": 2}
    assert configured()("scheduler-options") == {}


# Profiles.


def test_a_section_of_ones_own_is_a_profile() -> None:
    with dask.config.set({"jobqueue.my-site": {"cores": 12}}):
        assert configured("my-site")("cores") == 12
        assert configured("my_site")("cores") == 12
        assert "my-site" in profiles()
    assert configured("perlmutter_cpu")("cores") == 128
    assert profiles() == ["frontier", "local", "perlmutter-cpu", "perlmutter-gpu", DEFAULT]


def test_an_unknown_profile_names_the_known_ones() -> None:
    with (
        dask.config.set({"jobqueue.my-site": {"cores": 12}}),
        pytest.raises(
            ValueError, match=r"^config_name='frontire': .*frontier, local, my-site, per"
        ),
    ):
        configured("frontire")
    with pytest.raises(ValueError, match=f"^config_name='{BASE_CLASS}'"):
        configured(BASE_CLASS)


def test_a_section_of_dask_jobqueue_counts_as_far_as_the_user_wrote_it() -> None:
    """It ships one named ``local``, too."""
    assert "local" in shipped_sections()
    assert configured("local")("death-timeout") == 300
    assert configured("slurm")("death-timeout") == 300
    with dask.config.set({"jobqueue.slurm.cores": 24}):
        assert configured("slurm")("cores") == 24
    with (
        dask.config.set({"jobqueue.slurm.queue": "debug"}),
        pytest.raises(ValueError, match=r"^jobqueue\.slurm\.queue is no setting of .*--partition"),
    ):
        configured("slurm")


@pytest.mark.parametrize("profile", sorted(PACKAGED))
def test_every_packaged_section_has_known_keys_and_values(profile: str) -> None:
    if profile != BASE_CLASS:
        assert set(PACKAGED[profile]) <= set(PACKAGED[DEFAULT])
        configured(profile)


def test_the_base_class_finds_every_key_that_it_reads() -> None:
    source = inspect.getsource(inspect.getmodule(Job))
    read = {name for name in shipped_sections()["slurm"] if f"%s.{name}" in source}
    assert len(read) > 15
    assert read <= set(PACKAGED[BASE_CLASS])


# What is refused.

OF_SBATCH = {
    "queue": "--partition",
    "account": "--account",
    "project": "--account",
    "walltime": "--time",
    "job_cpu": "--cpus-per-task",
    "job_mem": "--mem",
    "job_extra_directives": "srun_extra_args",
    "job_extra": "srun_extra_args",
    "job_directives_skip": "srun_args_skip",
    "header_skip": "srun_args_skip",
    "shebang": "template_directory",
    "submit_command_extra": "srun_extra_args",
    "cancel_command_extra": "end with the cluster",
    "job_name": "name",
    "job_cls": "its own kind",
    "scheduler_cls": "scheduler_options",
    "dashboard_address": "scheduler_options",
    "host": "scheduler_options",
}


@pytest.mark.parametrize("word", OF_SBATCH)
def test_what_belongs_elsewhere_is_told_where(word: str) -> None:
    with pytest.raises(TypeError) as caught:
        configured(**{word: "x"})
    text = str(caught.value)
    assert text.startswith(f"SlurmAllocationCluster takes no {word!r}: ")
    assert OF_SBATCH[word] in text
    assert str(pickle.loads(pickle.dumps(caught.value))) == text


def test_every_parameter_of_slurmcluster_works_or_is_told_where_it_belongs() -> None:
    """Of the installed dask-jobqueue, so that a new one is noticed."""
    from dask_jobqueue.slurm import SLURMCluster  # not before ours: it takes over Ctrl-C

    classes = (JobQueueCluster, Job, SLURMCluster, SLURMCluster.job_cls)
    names = {n for each in classes for n in inspect.signature(each.__init__).parameters}
    names -= {"self", "args", "kwargs", "job_kwargs", "base_class_kwargs"}
    names -= {"scheduler"}  # of a job: its address
    ours = set(inspect.signature(SlurmAllocationCluster).parameters) - {"settings"}
    settings = {name.replace("-", "_") for name in PACKAGED[DEFAULT]}
    elsewhere = set(OF_SBATCH) | {"extra", "env_extra"}
    assert len(names) > 35
    assert names - ours - settings - elsewhere == set()


@pytest.mark.parametrize(
    ("word", "close"),
    [("core", "cores"), ("nodes_", "nodes"), ("restart", "restarts"), ("env_", "env")],
)
def test_a_misspelt_keyword_names_the_closest_of_all(word: str, close: str) -> None:
    message = f"SlurmAllocationCluster takes no {word!r}: do you mean {close!r}?"
    with pytest.raises(TypeError) as caught:
        configured(**{word: None})
    assert str(caught.value) == message


def test_a_keyword_like_no_other() -> None:
    with pytest.raises(TypeError, match=r"^SlurmAllocationCluster takes no 'xyzzy': there is no "):
        configured(xyzzy=1)


def test_a_misspelt_key_names_its_file_and_the_closest(
    own_config: Callable[..., None], tmp_path: Path
) -> None:
    own_config("jobqueue: {slurm-allocation: {worker-per-gpus: true}}")
    with pytest.raises(ValueError, match="worker-per-gpus") as caught:
        configured("frontier")
    assert str(caught.value) == (
        f"{SECTION}.worker-per-gpus (in {tmp_path}/mine.yaml) is no setting of "
        "SlurmAllocationCluster: do you mean 'worker-per-gpu'?"
    )


def test_a_misspelt_variable_is_named(own_config: Callable[..., None]) -> None:
    own_config(DASK_JOBQUEUE__FRONTIER__INTERFACES="ib0")
    pattern = (
        r"interfaces \(environment variable DASK_JOBQUEUE__FRONTIER__INTERFACES\) is .*'interface'"
    )
    with pytest.raises(ValueError, match=pattern):
        configured("frontier")
    configured("local")  # whose business it is not


def test_a_section_that_is_no_mapping() -> None:
    with (
        dask.config.set({SECTION: 3}),
        pytest.raises(ValueError, match=rf"^{SECTION}: a mapping of settings is needed, not 3$"),
    ):
        configured()


WRONG = [
    ("cores", "many"),
    ("cores", 1.5),
    ("cores", True),
    ("processes", 0),
    ("restarts", -1),
    ("memory", "12 bananas"),
    ("memory", 0),
    ("memory", [1]),
    ("start_timeout", "soon"),
    ("start_timeout", -1),
    ("close_timeout", float("nan")),
    ("death_timeout", True),
    ("worker_per_gpu", 1),
    ("nanny", "no"),
    ("security", "yes"),
    ("launcher", "mpirun"),
    ("name", 3),
    ("close_on_signals", ["SIGFOO"]),
    ("close_on_signals", "SIGKILL"),
    ("close_on_signals", [15]),
    ("python", ["python"]),
    ("local_directory", "$NO_SUCH_VARIABLE/x"),
    ("worker_extra_args", '--x="'),
    ("worker_extra_args", 3),
    ("srun_extra_args", {"--qos": "x"}),
    ("srun_args_skip", [["--mem"]]),
    ("job_script_prologue", [1]),
    ("scheduler_options", 3),
]


@pytest.mark.parametrize(("word", "value"), WRONG)
def test_a_value_of_the_wrong_kind(word: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"=.*: .* is needed$") as caught:
        configured(**{word: value})
    assert str(caught.value).startswith(f"{word}={value!r}: ")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_wrong_value_of_the_configuration_names_its_file(
    own_config: Callable[..., None], tmp_path: Path
) -> None:
    own_config("jobqueue: {slurm-allocation: {cores: many}}")
    with pytest.raises(ValueError, match="cores") as caught:
        configured()
    message = (
        f"{SECTION}.cores (in {tmp_path}/mine.yaml)='many': a whole number of 1 or more is needed"
    )
    assert str(caught.value) == message
    assert configured(cores=1)("cores") == 1


def test_every_setting_has_a_kind() -> None:
    assert set(PACKAGED[DEFAULT]) <= set(configuration._KINDS)


@pytest.mark.parametrize("word", ["cores", "queue", "core"])
def test_the_constructor_refuses_before_it_makes_anything(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError), match=word):
        SlurmAllocationCluster(launcher="local", **{word: "many"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("nodes", -1),
        ("nodes", 1.5),
        ("nodes", "two"),
        ("n_workers", -2),
        ("n_workers", True),
        ("name", "a/b"),
        ("name", "a\nb"),
        ("name", "x" * 65),
        ("name", 17),
        ("env", ["A=1"]),
        ("env", {"A B": "x"}),
        ("env", {"A": None}),
        ("scheduler_env", {"A": True}),
        ("container", "docker:me/code:1"),
        ("allocation", "17"),
        ("on_loss", 3),
        ("on_failure", "print"),
        ("on_walltime", {}),
    ],
)
def test_a_keyword_of_the_wrong_kind(
    word: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"=.*: .* is needed$") as caught:
        SlurmAllocationCluster(**({"launcher": "local"} | {word: value}))
    assert str(caught.value).startswith(f"{word}={value!r}: ")
    assert list(tmp_path.iterdir()) == []


# What is understood.


@pytest.mark.parametrize(
    ("word", "given", "value"),
    [
        ("cores", "4", 4),
        ("memory", "2 GiB", 2 * 2**30),
        ("memory", 1000, 1000),
        ("start_timeout", "2 min", 120),
        ("start_timeout", "1 minute", 60),
        ("close_timeout", "500 ms", 0.5),
        ("death_timeout", 60, 60),
        ("python", Path("/opt/python"), "/opt/python"),
        ("log_directory", "~/logs/$SUB", "/home/me/logs/deep"),
        ("worker_extra_args", ["--lifetime", 60], ("--lifetime", "60")),
        (
            "srun_extra_args",
            "--qos=fast --comment='two words'",
            ("--qos=fast", "--comment=two words"),
        ),
        ("job_script_prologue", "module load x\nexport A=1", ("module load x", "export A=1")),
    ],
)
def test_values_become_what_the_code_needs(
    word: str, given: Any, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SUB", "deep")
    found = configured(**{word: given})(word.replace("_", "-"))
    assert found == value
    assert type(found) is type(value)


def test_variables_may_be_numbers_and_paths() -> None:
    given = {"OMP_NUM_THREADS": 1, "HERE": Path("/a"), "EMPTY": ""}
    assert checked("env", given) == {"OMP_NUM_THREADS": "1", "HERE": "/a", "EMPTY": ""}


def test_a_duration_that_is_none() -> None:
    with pytest.raises(ValueError, match=r"^'soon' is no number of seconds"):
        duration("soon")


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("extra", "worker_extra_args", ("--a",)),
        ("env_extra", "job_script_prologue", ("--a",)),
    ],
)
def test_old_names_are_translated_with_a_warning(
    old: str, new: str, value: Any, own_config: Callable[..., None]
) -> None:
    with pytest.warns(FutureWarning, match=f"^{old} has been renamed in .* write {new} instead$"):
        assert configured(**{old: ["--a"]})(new.replace("_", "-")) == value
    with pytest.warns(FutureWarning):
        both = configured(**{old: ["--a"], new: ["--b"]})
    assert both(new.replace("_", "-")) == ("--b",)
    with pytest.warns(FutureWarning) as record, pytest.raises(ValueError, match="cores"):
        SlurmAllocationCluster(cores="many", **{old: ["--a"]})
    assert [warning.filename for warning in record] == [__file__]
    own_config(f"jobqueue: {{slurm-allocation: {{{old.replace('_', '-')}: [--a]}}}}")
    with pytest.warns(FutureWarning, match=rf"^{SECTION}\..* \(in .*mine.yaml\) has been renamed"):
        assert configured()(new.replace("_", "-")) == value
