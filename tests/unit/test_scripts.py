"""Command lines of steps: whole lists, quoting of hostile values, a site's own templates."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_dask_cluster import scripts
from ips_dask_cluster.slurm.srun import srun_argv, without_step_variables

OPTIONS = [
    "srun",
    "--job-name=c-worker-1",
    "--jobid=17",
    "--nodes=2",
    "--nodelist=n1,n2",
    "--ntasks-per-node=1",
    "--cpus-per-task=128",
    "--gres=none",
    "--overlap",
    "--mem=0",
    "--cpu-bind=none",
    "--mpi=none",
    "--wait=0",
    "--kill-on-bad-exit=0",
    "--no-kill",
    "--unbuffered",
]
COMMAND = ["bash", "-c", "echo 'a b'\nexit", "c-worker-1"]
HOSTILE = [
    "a b",
    "it's",
    'say "x"',
    "$HOME",
    "`id`",
    "two\nlines",
    "# no comment",
    "back\\slash",
    "*",
]


def argv(job_name: str = "c-worker-1", **changes: object) -> list[str]:
    return srun_argv(["n1", "n2"], COMMAND, job_id="17", job_name=job_name, cpus=128, **changes)


def test_srun_command_line() -> None:
    assert argv() == [*OPTIONS, *COMMAND]


def test_extra_arguments_come_last_and_as_they_are() -> None:
    extra = ["--mem=4G", "--comment=a b", "$x"]
    assert argv(extra_args=extra) == [*OPTIONS, *extra, *COMMAND]


@pytest.mark.parametrize(
    ("skip", "dropped"),
    [
        (["--mem"], ["--mem=0"]),
        (["--no-kill", "--mpi="], ["--mpi=none", "--no-kill"]),
        (["--n"], ["--nodes=2", "--nodelist=n1,n2", "--ntasks-per-node=1", "--no-kill"]),
        (["bash", "--comment"], []),
    ],
)
def test_options_are_left_out_by_how_they_begin(skip: list[str], dropped: list[str]) -> None:
    kept = [word for word in OPTIONS if word not in dropped]
    assert argv(args_skip=skip) == [*kept, *COMMAND]


def test_extra_arguments_are_never_left_out() -> None:
    assert argv(args_skip=["--mem"], extra_args=["--mem=4G"])[-5:] == ["--mem=4G", *COMMAND]


@pytest.mark.parametrize("name", HOSTILE)
def test_any_job_name_stays_one_word(name: str) -> None:
    assert argv(name) == [OPTIONS[0], f"--job-name={name}", *OPTIONS[2:], *COMMAND]


@given(st.lists(st.text(st.characters(exclude_characters="\0"))))
def test_words_are_what_a_shell_splits_again(items: list[str]) -> None:
    assert shlex.split(scripts.words(items)) == items


def test_words_may_be_numbers_and_paths() -> None:
    assert scripts.words([4, Path("/a b"), 0.5]) == "4 '/a b' 0.5"


# Templates.


def test_site_has_its_own_srun_line(tmp_path: Path) -> None:
    (tmp_path / "srun.txt").write_text("# ours\nsite-srun --constraint='a b' -N$node_count\n")
    assert argv(directory=tmp_path) == ["site-srun", "--constraint=a b", "-N2", *COMMAND]


def test_template_keeps_two_dollars_as_one(tmp_path: Path) -> None:
    (tmp_path / "worker.sh").write_text("echo $$HOME $name ${name}s\n")
    assert scripts.render("worker.sh", {"name": "'a b'"}, tmp_path) == "echo $HOME 'a b' 'a b's\n"


def test_name_that_a_template_makes_up_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "srun.txt").write_text("srun --qos=$qos\n")
    with pytest.raises(KeyError, match="qos"):
        argv(directory=tmp_path)


def test_template_that_a_site_lacks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"worker\.sh"):
        scripts.render("worker.sh", {}, tmp_path)


# The environment of srun.

KEPT = [
    "SLURM_CONF",
    "SLURM_JOB_ID",
    "SLURM_JOB_NODELIST",
    "SLURM_JOB_CPUS_PER_NODE",
    "SLURM_JOB_ACCOUNT",
    "SLURM_STEPMGR",
    "PATH",
    "MY_SLURM_NTASKS",
]


def test_srun_of_a_step_inherits_what_it_needs_and_no_options() -> None:
    kept = dict.fromkeys(KEPT, "x")
    assert without_step_variables({**kept, "SLURM_TRES_BIND": "x", "PMI_RANK": "0"}) == kept


# GPUs.


def gres(**changes: object) -> list[str]:
    return [word for word in argv(**changes) if word.startswith("--g")]


def test_step_without_gpus_asks_for_none() -> None:
    """Else it would ask for all of the job, which some of its nodes do not have."""
    assert gres() == ["--gres=none"]
    assert gres(gpus=4) == ["--gres=gpu:4"]


def test_node_with_more_gpus_than_others_asks_for_a_total() -> None:
    """Slurm 22.05 refuses more for each node than the poorest node of the job has."""
    assert gres(gpus=4, gpus_in_total=True) == ["--gpus=4"]


def test_gpus_that_the_user_asks_for_are_not_taken_away() -> None:
    extra = ["--gpus-per-node=2"]
    assert gres(extra_args=extra) == extra
    # Slurm 26.05 refuses --gres beside it
    assert gres(gpus=4, extra_args=extra) == extra
    assert gres(args_skip=["--gres"]) == []
