"""Run each parallel program of a pool on Dask by an srun beside the workers that hold its slots.

An srun is a child of the component and not of a worker: Slurm's programs are missing inside a
container, and a program on several nodes must survive the death of one worker.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ips_core.tasks.launch import (
    TaskShape,
    misleading_variables,
    overlapping_srun_command,
    without_variables,
)
from ips_core.tasks.process import describe_exit
from ips_core.tasks.runner import Runner
from ips_dask_cluster.slurm.commands import cancel_steps

__all__ = ["MPITasks", "after_srun", "read_srun"]

_SLURM_SECONDS = 5.0
# "srun: error: n2: tasks 0-1: Exited with exit code 7", or the name of a signal in place of the
# code.
_RANKS = re.compile(
    r"^srun: error: (?P<nodes>\S+): tasks? (?P<ranks>\S+): "
    r"(?:Exited with exit code (?P<code>\d+)|(?P<signal>.+))$",
    re.MULTILINE,
)
# slurmstepd's message after scancel: 22.05 to 24.11 omit the signal, 26.05 names it.
_CANCELLED = re.compile(
    r"error: \*\*\* STEP (?P<step>\S+) ON \S+ CANCELLED AT [-\dT:]+ "
    r"(?:DUE to SIGNAL Killed )?\*\*\*"
)
_NO_START = re.compile(r"^(?:\S*/)?env: (?P<why>.+)$", re.MULTILINE)
_REFUSED = re.compile(r"^srun: error: (?P<why>.+)$", re.MULTILINE)


class MPITasks:
    """Run parallel programs on the nodes of a Dask cluster.

    ``runner`` starts and ends the srun processes. ``extra_args`` are srun options for all programs,
    such as ``--mpi=pmi2``; the options of a task come after them.
    """

    def __init__(self, runner: Runner, job_id: str, extra_args: Sequence[str] = ()) -> None:
        self._runner = runner
        self._job_id = job_id
        self._extra_args = tuple(extra_args)

    def run(
        self,
        payload: Mapping[str, Any],
        shape: TaskShape,
        key: str,
        started: Callable[[dict[str, Any]], object],
    ) -> dict[str, Any]:
        """Run one program to its end and return its record; blocks.

        ``payload`` and ``started`` are as for ``tasks.runner.Runner.run``. ``key`` names the step
        in ``squeue --steps`` and must be unique in the job. A process has one OpenMP thread unless
        ``shape.cores`` says more. The record has the nodes as its host, and the exit status of the
        process that failed first.
        """
        host = {"host": ",".join(shape.node_names)}
        record = self._runner.run(
            self._task(payload, shape, key), lambda begun: started(begun | host)
        )
        record = after_srun(record, self._job_id, key)
        return record | host if record["host"] else record

    def _task(self, payload: Mapping[str, Any], shape: TaskShape, key: str) -> dict[str, Any]:
        shape = replace(shape, extra_args=(*self._extra_args, *shape.extra_args))
        cwd = payload.get("cwd") or os.getcwd()
        argv, variables = overlapping_srun_command(
            shape, payload["argv"], job_id=self._job_id, job_name=key, cwd=cwd
        )
        # srun hands out the GPUs, and the CPUs of srun itself need not be those of the task.
        task = {name: payload[name] for name in payload if name not in ("gpus", "pin")}
        return task | {
            "argv": without_variables(misleading_variables(os.environ), argv),
            # One thread per rank by default; the runner would set the number of all slots for each
            # rank.
            "env": {"OMP_NUM_THREADS": "1"} | variables | payload.get("env", {}),
        }


def after_srun(record: dict[str, Any], job_id: str, job_name: str) -> dict[str, Any]:
    """Return the record of a program under srun, and cancel a step that srun may have left behind.

    ``record`` is the runner's record of srun; ``job_name`` must be unique in the job.
    """
    status, code = record["status"], record["exit_status"] or 0
    if status in ("cancelled", "timed_out") or code < 0:
        # srun may have been killed before it could end its step.
        cancel_steps(job_id, job_name, _SLURM_SECONDS)
    elif status == "failed":
        return record | read_srun(code, record["output"])
    return record


def read_srun(code: int, output: str) -> dict[str, Any]:
    """Return ``exit_status`` and ``error`` of the process that failed first.

    ``code`` is srun's exit code, which is the highest code of all processes, including those that
    srun ended because of the first failure. ``output`` is the end of srun's and the program's
    output. ``exit_status`` is negative for a signal.
    """
    found = _RANKS.search(output)
    if found is None:
        refused = _REFUSED.search(output)
        why = f"srun: {refused['why']}" if refused else f"exit code {code}"
        return {"exit_status": code, "error": why}
    who = f"rank {found['ranks']} on {found['nodes']}"
    if found["signal"]:
        status = _signal(found["signal"], code)
        error = f"{who}: {found['signal']}"
        if (how := describe_exit(status)).startswith("crashed"):
            error = f"{who} {how}"
        elif step := _cancelled_step(output, found.start()):
            error = f"its step {step} was cancelled (scancel)"
        return {"exit_status": status, "error": error}
    status = int(found["code"])
    missing = _NO_START.search(output) if status in (125, 127) else None
    if missing:  # The program or the directory is missing: 127, as for a process without srun.
        return {"exit_status": 127, "error": f"{who}: {missing['why']}"}
    return {"exit_status": status, "error": f"exit code {status} of {who}"}


def _cancelled_step(output: str, end: int) -> str:
    """Return the step that was cancelled before any process failed by itself; else empty."""
    cancelled = _CANCELLED.search(output, 0, end)
    killed = all(ranks["signal"] == "Killed" for ranks in _RANKS.finditer(output))
    return cancelled["step"] if cancelled and killed else ""


def _signal(text: str, code: int) -> int:
    """Return minus the number of the signal that srun names.

    srun's exit code may be that of another process; it is the fallback for an unknown name.
    """
    for number in signal.Signals:
        if text.startswith(signal.strsignal(number) or "?"):  # srun may append "(core dumped)".
            return -number
    return 128 - code if code > 128 else code
