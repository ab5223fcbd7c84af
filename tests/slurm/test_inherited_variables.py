"""Variables that srun reads, inherited by a driver: none of them changes a step of ours."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ips_core.tasks.launch import TaskShape, misleading_variables, srun_command
from ips_dask_cluster import SlurmAllocationCluster
from ips_dask_cluster.slurm.srun import srun_argv, without_step_variables
from ips_dask_cluster.slurm.variables import (
    CONNECTION,
    INPUT_VARIABLES,
    misleading_programs,
    misleading_steps,
)

_SECONDS = 30
# What is wrong for each; where nothing is said, any word that srun does not know.
_WRONG = (
    dict.fromkeys(
        [
            *("SLURM_COMPRESS", "SLURM_DEBUG", "SLURM_DISABLE_STATUS", "SLURM_EXACT"),
            *("SLURM_EXCLUSIVE", "SLURM_IMMEDIATE", "SLURM_KILL_BAD_EXIT", "SLURM_LABELIO"),
            *("SLURM_MULTI_PROG", "SLURM_NO_KILL", "SLURM_OVERCOMMIT", "SLURM_SPREAD_JOB"),
            *("SLURM_SRUN_MULTI", "SLURM_TEST_EXEC", "SLURM_USE_MIN_NODES", "SLURMD_DEBUG"),
            *("SLURM_CORE_SPEC", "SLURM_THREAD_SPEC"),
        ],
        "1",
    )
    | dict.fromkeys(
        [
            *("SLURM_CPUS_PER_GPU", "SLURM_CPUS_PER_TASK", "SLURM_EXIT_ERROR", "SLURM_GPUS"),
            *("SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_SOCKET", "SLURM_GPUS_PER_TASK"),
            *("SLURM_JOB_NUM_NODES", "SLURM_NCORES_PER_SOCKET", "SLURM_NNODES", "SLURM_NPROCS"),
            *("SLURM_NSOCKETS_PER_NODE", "SLURM_NTASKS", "SLURM_NTASKS_PER_CORE"),
            *("SLURM_NTASKS_PER_GPU", "SLURM_NTASKS_PER_NODE", "SLURM_NTASKS_PER_SOCKET"),
            *("SLURM_NTASKS_PER_TRES", "SLURM_THREADS_PER_CORE", "SRUN_CPUS_PER_TASK"),
        ],
        "64",
    )
    | dict.fromkeys(
        [
            *("SLURM_MEM_PER_CPU", "SLURM_MEM_PER_GPU", "SLURM_MEM_PER_NODE"),
        ],
        "9000000",
    )
    | dict.fromkeys(
        [
            *("SLURM_STDERRMODE", "SLURM_STDINMODE", "SLURM_STDOUTMODE"),
            *("SRUN_ERROR", "SRUN_INPUT", "SRUN_OUTPUT"),
        ],
        "none",
    )
    | dict.fromkeys(["SLURM_EXPORT_ENV", "SRUN_EXPORT_ENV"], "NONE")
    | dict.fromkeys(["SLURM_GRES", "SLURM_STEP_GRES"], "gpu:64")
    | {"SLURM_TRES_PER_TASK": "cpu=64", "SLURM_UMASK": "0777", "SLURM_CONSTRAINT": "gpu"}
)
_WORD = "/nowhere/wrong"


def wrong(name: str) -> str:
    return _WRONG.get(name, _WORD)


def manual_page() -> str:
    """Return the text of the manual page of the srun on PATH."""
    program = shutil.which("srun")
    assert program
    folder = Path(program).resolve().parents[1] / "share" / "man" / "man1"
    pages = sorted(folder.glob("srun.1*"))
    assert pages, f"no manual page of srun in {folder}: install that of slurm-client"
    data = pages[0].read_bytes()
    return (gzip.decompress(data) if pages[0].suffix == ".gz" else data).decode()


def input_variables(page: str) -> set[str]:
    """Return the variables that head an entry below INPUT ENVIRONMENT VARIABLES."""
    _, _, rest = page.partition('.SH "INPUT ENVIRONMENT VARIABLES"')
    section, _, _ = rest.partition("\n.SH ")
    # .TP, then a line of names; from another line on it is the text of the entry
    heads = re.findall(r"^\.TP.*\n(.*)$", section, re.MULTILINE)
    plain = re.sub(r"\\f.", " ", "\n".join(heads))
    return set(re.findall(r"\b(?:SLURMD?|SRUN|PMI)_[A-Z0-9_]+", plain))


def test_every_variable_of_the_installed_manual_page_is_known() -> None:
    found = input_variables(manual_page())
    assert len(found) > 90
    assert found - INPUT_VARIABLES == set()


def run(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[int, str, str]:
    done = subprocess.run(
        argv, input="said\n", capture_output=True, text=True, timeout=_SECONDS, env=dict(environ)
    )
    return done.returncode, done.stdout, done.stderr


def without(names: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name not in names}


def test_no_variable_changes_a_step(job_id, shared_tmp_path):
    """Each is set alone, since two may contradict each other and hide a third."""
    command = ["bash", "-c", "read line; echo $line $SLURM_NTASKS $PWD $(umask)"]
    step = srun_argv(["n2"], command, job_id=job_id, job_name="step", cpus=2)
    program, _ = srun_command(TaskShape(node_names=("n2",), whole_nodes=False), command)
    umask = subprocess.check_output(["sh", "-c", "umask"], text=True).strip()
    right = (0, f"said 1 {shared_tmp_path} {umask}\n", "")
    seen: dict[tuple[str, frozenset[tuple[str, str]]], tuple[int, str, str]] = {}
    changed = {}
    for name in sorted(INPUT_VARIABLES - CONNECTION - {"SLURM_JOB_ID"}):
        environ = {**os.environ, name: wrong(name)}
        starts = {"step": (step, without_step_variables(environ))}
        if name in misleading_programs([name]) or name not in misleading_steps([name]):
            starts["program"] = program, without(misleading_variables(environ), environ)
        for kind, (argv, given) in starts.items():
            # most are left out, so that few environments differ
            key = kind, frozenset(given.items())
            if key not in seen:
                seen[key] = run(argv, given)
            if seen[key] != right:
                changed[kind, name] = seen[key]
    assert changed == {}
    assert {kind for kind, _ in seen} == {"step", "program"}


def test_cluster_starts_with_all_of_them_wrong(job_id, monkeypatch):
    ours = CONNECTION | {"SLURM_JOB_ID"}
    for name in INPUT_VARIABLES - ours:
        monkeypatch.setenv(name, wrong(name))
    with SlurmAllocationCluster(scheduler_options={"dashboard": False}) as cluster:
        cluster.wait_for_workers()
        with cluster.get_client() as client:
            assert client.submit(sum, [1, 2]).result(timeout=_SECONDS) == 3
