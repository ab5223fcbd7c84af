"""Ask Slurm; no other module runs scontrol, squeue or scancel.

Variables that users set for themselves (``SLURM_TIME_FORMAT``, ``SQUEUE_USERS``, ...) change what
these programs print, so the programs run without them. The name of a job or a step is the user's
free text and may contain line breaks; a random mark, which no user can guess, shows where each
record begins.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ips_dask_cluster.errors import SlurmCommandError
from ips_dask_cluster.slurm.times import end_time

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "JobTimes",
    "RunningStep",
    "ask",
    "ask_quietly",
    "cancel_steps",
    "cancel_steps_quietly",
    "clean_environment",
    "job_end",
    "job_end_quietly",
    "list_steps",
    "show_job",
    "show_job_words",
    "show_nodes",
    "show_steps_quietly",
]

_SECONDS = 30.0
_SECONDS_QUIETLY = 10.0
_OF_SLURM = ("SLURM_", "SCONTROL_", "SQUEUE_", "SCANCEL_", "SINFO_")
#: Variables that Slurm's programs need to find the controller and to authenticate.
_KEPT = (
    "SLURM_CONF",
    "SLURM_CONF_SERVER",
    "SLURM_JWT",
    "SLURM_SACK_JWKS",
    "SLURM_SACK_KEY",
    "SLURM_SACK_SOCKET",
)


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of an environment in which Slurm's programs print what the parsers expect.

    It drops all variables of Slurm except those that are needed to reach the controller. Outside of
    a job, ``SLURM_CLUSTERS`` is one of these. In a job it would hide that job if it named another
    cluster; there ``SLURM_WORKING_CLUSTER``, which salloc sets for a cluster that is not the local
    one, names the right one. On a node of the job, the local cluster is always the right one.
    """
    clean = {
        name: value
        for name, value in environ.items()
        if name in _KEPT or not name.startswith(_OF_SLURM)
    }
    if not environ.get("SLURM_JOB_ID"):
        clusters = environ.get("SLURM_CLUSTERS", "")
    elif "SLURMD_NODENAME" not in environ:
        clusters = environ.get("SLURM_WORKING_CLUSTER", "").partition(":")[0]
    else:
        clusters = ""
    if clusters:
        clean["SLURM_CLUSTERS"] = clusters
    # Slurm prints times without a zone; in local time, one hour of autumn would occur twice
    return clean | {"TZ": "UTC0"}


def ask(
    argv: Sequence[str], environ: Mapping[str, str] | None = None, seconds: float = _SECONDS
) -> str:
    """Run one of Slurm's programs and return what it prints.

    The environment (default: that of this process) is cleaned first. Raises ``SlurmCommandError``
    if the program is missing, fails, or takes longer than ``seconds``.
    """
    command = " ".join(argv)
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            env=clean_environment(os.environ if environ is None else environ),
        )
    except FileNotFoundError:
        raise SlurmCommandError(
            command,
            f"{argv[0]} is not on PATH although this is a Slurm job",
            "load the site's slurm module; inside a container, run the driver outside of it",
        ) from None
    except OSError as error:
        raise SlurmCommandError(command, f"{argv[0]} cannot start: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise SlurmCommandError(
            command,
            f"no answer within {seconds:g} s",
            "the Slurm controller is down or overloaded; try again",
        ) from None
    if done.returncode != 0:
        reason = _text(done.stderr).strip() or f"exit code {done.returncode}"
        raise SlurmCommandError(command, reason)
    return _text(done.stdout)


async def ask_quietly(argv: Sequence[str], seconds: float = _SECONDS_QUIETLY) -> str:
    """Return what one of Slurm's programs prints; empty if it cannot start or is too slow."""
    # Components ask Slurm too, and need not load asyncio for it.
    import asyncio

    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=clean_environment(os.environ),
        )
    except OSError:
        return ""
    try:
        out, _ = await asyncio.wait_for(process.communicate(), seconds)
    except TimeoutError:
        await _kill(process)
        return ""
    except asyncio.CancelledError:
        await _kill(process)
        raise
    return _text(out)


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _text(output: bytes) -> str:
    # Not by the locale: a job's name may hold bytes of any encoding
    return output.decode("utf-8", "replace")


# Jobs and nodes.


def show_job(job_id: str, environ: Mapping[str, str] | None = None) -> str:
    """Return what ``scontrol show job --details`` prints for a job or an array task."""
    return ask(["scontrol", "show", "job", "--details", job_id], environ)


def show_job_words(job_id: str, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the free text that a user gave a job: its name, account and WCKey."""
    mark = secrets.token_hex(8)
    form = f"{mark}%j{mark}%a{mark}%w{mark}"
    shown = ask(["squeue", f"--jobs={job_id}", "--noheader", f"--format={form}"], environ)
    return tuple(shown.split(mark)[1:4])


def show_nodes(names: Iterable[str], environ: Mapping[str, str] | None = None) -> str:
    """Return what ``scontrol show node`` prints for some nodes, one line for each."""
    return ask(["scontrol", "show", "node", "--oneliner", ",".join(names)], environ)


@dataclass(frozen=True)
class JobTimes:
    """The times of a running job."""

    #: Local time; None when the job has no end.
    end: datetime.datetime | None


def job_end(job_id: str, seconds: float = _SECONDS) -> JobTimes | None:
    """Return the current end of a job, which its owner may change; None when the job does not run.

    Raises ``SlurmCommandError`` like :func:`ask`.
    """
    return _parse_times(ask(_times_argv(job_id), seconds=seconds), job_id)


async def job_end_quietly(job_id: str) -> JobTimes | None:
    """Return the current end of a job; None when it does not run or Slurm does not answer."""
    return _parse_times(await ask_quietly(_times_argv(job_id)), job_id)


def _times_argv(job_id: str) -> list[str]:
    return ["squeue", f"--jobs={job_id}", "--noheader", "--format=%A %T %l %S %e"]


def _parse_times(text: str, job_id: str) -> JobTimes | None:
    for line in text.splitlines():  # squeue lists all tasks of an array
        words = line.split()
        if len(words) == 5 and words[:2] == [job_id, "RUNNING"]:
            return JobTimes(end_time(*words[2:]))
    return None


# Steps.


@dataclass(frozen=True)
class RunningStep:
    """A running step, such as ``"17.0"`` on ``"n[1-3]"``, with the name that srun gave it."""

    step_id: str
    nodes: str
    name: str


def list_steps(job_id: str, seconds: float = _SECONDS) -> list[RunningStep]:
    """Return the steps that run in a job; raises ``SlurmCommandError`` like :func:`ask`."""
    mark = secrets.token_hex(8)
    return _parse_steps(ask(_steps_argv(job_id, mark), seconds=seconds), mark)


def cancel_steps(job_id: str, name: str, seconds: float) -> None:
    """Cancel the steps of a job that have a name; never raises.

    It goes by the name because srun does not print the id of its step. Each answer of Slurm may
    take ``seconds``.
    """
    with contextlib.suppress(SlurmCommandError):
        for step in list_steps(job_id, seconds):
            if step.name == name:
                ask(["scancel", step.step_id], seconds=seconds)


async def cancel_steps_quietly(job_id: str, name: str) -> None:
    """Cancel the steps with a name in a job, or in all jobs of the user if the id is ``""``."""
    mark = secrets.token_hex(8)
    for step in _parse_steps(await ask_quietly(_steps_argv(job_id, mark)), mark):
        if step.name == name:
            await ask_quietly(["scancel", step.step_id])


async def show_steps_quietly(job_id: str) -> str:
    """Return what ``scontrol show step`` prints for a job, or for all jobs if the id is ``""``."""
    return await ask_quietly(["scontrol", "show", "step", *([job_id] if job_id else [])])


def _steps_argv(job_id: str, mark: str) -> list[str]:
    which = f"--jobs={job_id}" if job_id else "--me"
    return ["squeue", which, "--steps", "--noheader", f"--format={mark}%i %N %j{mark}"]


def _parse_steps(text: str, mark: str) -> list[RunningStep]:
    found = []
    for shown in text.split(mark)[1::2]:
        step_id, nodes, name = shown.split(" ", 2)
        found.append(RunningStep(step_id, nodes, name))
    return found
