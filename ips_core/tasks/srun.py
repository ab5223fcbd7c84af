"""Parallel programs of a pool on Dask: one srun each, beside the workers whose slots they hold.

An srun is a child of the component, not of a worker: Slurm is not there inside a container, and
the death of one worker is not the end of a program on several nodes.
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
# "srun: error: n2: tasks 0-1: Exited with exit code 7", or what a signal is called
_RANKS = re.compile(
    r"^srun: error: (?P<nodes>\S+): tasks? (?P<ranks>\S+): "
    r"(?:Exited with exit code (?P<code>\d+)|(?P<signal>.+))$",
    re.MULTILINE,
)
# As slurmstepd says of scancel: 22.05 up to 24.11 without the signal, 26.05 with it
_CANCELLED = re.compile(
    r"error: \*\*\* STEP (?P<step>\S+) ON \S+ CANCELLED AT [-\dT:]+ "
    r"(?:DUE to SIGNAL Killed )?\*\*\*"
)
_NO_START = re.compile(r"^(?:\S*/)?env: (?P<why>.+)$", re.MULTILINE)
_REFUSED = re.compile(r"^srun: error: (?P<why>.+)$", re.MULTILINE)


class MPITasks:
    """Runs parallel programs on the nodes of a Dask cluster.

    Parameters
    ----------
    runner : tasks.runner.Runner
        Runs and ends the srun processes.
    job_id : str
        The allocation.
    extra_args : sequence of str, optional
        srun options for all, such as ``--mpi=pmi2``; those of a task come after them.
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
        """Run one to its end and return its record; blocks, for a thread of the caller's.

        Parameters
        ----------
        payload : mapping
            A program, as ``tasks.runner.Runner.run`` takes it.
        shape : TaskShape
            How many processes, and on which nodes; a process has one OpenMP thread unless ``cores``
            says more.
        key : str
            Names the step in ``squeue --steps``; no other step of the job may be called so.
        started : callable
            As for ``Runner.run``.

        Returns
        -------
        dict
            As of ``Runner.run``, with the nodes for its host, and the exit status of the process
            that failed first.
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
        # srun hands out the GPUs; its own CPUs need not be those of the task
        task = {name: payload[name] for name in payload if name not in ("gpus", "pin")}
        return task | {
            "argv": without_variables(misleading_variables(os.environ), argv),
            # one thread a rank unless said otherwise; the runner would take all slots for each
            "env": {"OMP_NUM_THREADS": "1"} | variables | payload.get("env", {}),
        }


def after_srun(record: dict[str, Any], job_id: str, job_name: str) -> dict[str, Any]:
    """Return the record of a program under srun, which may have left its step behind.

    Parameters
    ----------
    record : dict
        The runner's, of srun.
    job_id, job_name : str
        The allocation, and the step's name, which no other step of it has.
    """
    status, code = record["status"], record["exit_status"] or 0
    if status in ("cancelled", "timed_out") or code < 0:
        # srun may have been killed before it could do that
        cancel_steps(job_id, job_name, _SLURM_SECONDS)
    elif status == "failed":
        return record | read_srun(code, record["output"])
    return record


def read_srun(code: int, output: str) -> dict[str, Any]:
    """Return how the first process failed, from the code of srun and the end of its output.

    Parameters
    ----------
    code : int
        Of srun: the highest of all processes, among them those that it ended for the first one.
    output : str
        What it said, among the output of the program.

    Returns
    -------
    dict
        ``exit_status``, as of a process of one's own (negative for a signal), and ``error``.
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
    if missing:  # the program, or the directory: the same status as of a process of one's own
        return {"exit_status": 127, "error": f"{who}: {missing['why']}"}
    return {"exit_status": status, "error": f"exit code {status} of {who}"}


def _cancelled_step(output: str, end: int) -> str:
    """Return the step that was cancelled before any process failed by itself, or nothing."""
    cancelled = _CANCELLED.search(output, 0, end)
    killed = all(ranks["signal"] == "Killed" for ranks in _RANKS.finditer(output))
    return cancelled["step"] if cancelled and killed else ""


def _signal(text: str, code: int) -> int:
    """Return minus the signal that srun calls so; its code may be that of another process."""
    for number in signal.Signals:
        if text.startswith(signal.strsignal(number) or "?"):  # a core dump may be mentioned, too
            return -number
    return 128 - code if code > 128 else code
