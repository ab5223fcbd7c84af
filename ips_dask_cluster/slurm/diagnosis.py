"""From an exit code and the end of a log to one sentence: the cause and the remedy.

Pure. What is known is in ``symptoms``; asking Slurm is done elsewhere.
"""

from __future__ import annotations

import re
from string import Template

from ips_dask_cluster.slurm.hostlist import expand_hostlist
from ips_dask_cluster.slurm.symptoms import SYMPTOMS, Symptom

__all__ = ["RUN_DIRECTORY_INVISIBLE", "diagnose", "holding_steps", "recognise"]

# Line by line, since a step's name may hold anything that its user likes
_STEP = re.compile(
    r"^StepId=(?P<id>\S+) UserId=.*\n"
    r"   State=(?P<state>\S+) Partition=.* NodeList=(?P<nodes>\S*)\n"
    r"   Nodes=.*? Name=(?P<name>[\s\S]*?) Network=.*\n"
    r"(?:   .*\n)*?"
    r"   SrunHost:Pid=\S*:(?P<pid>\d+)$",
    re.MULTILINE,
)

RUN_DIRECTORY_INVISIBLE = 66
"""Exit code of the node scripts when the run directory is not there (EX_NOINPUT, sysexits(3))."""


def recognise(exit_code: int | None, log_tail: str) -> tuple[Symptom, dict[str, str]] | None:
    """Return the first symptom of the table that is in a log, and what its pattern found.

    Parameters
    ----------
    exit_code, log_tail
        As for :func:`diagnose`.
    """
    text = f"{log_tail}\nips-dask: exit code {exit_code}"
    for symptom in SYMPTOMS:
        match = re.search(symptom.pattern, text, re.MULTILINE)
        if match:
            return symptom, match.groupdict(default="")
    return None


def diagnose(exit_code: int | None, log_tail: str) -> str:
    """Return what most likely happened and what to do, in one sentence.

    Parameters
    ----------
    exit_code : int or None
        Of ``srun`` or of the local process; negative for a signal.
    log_tail : str
        The last lines of its log.
    """
    found = recognise(exit_code, log_tail)
    if found is None:
        return "no known symptom in its log"
    symptom, values = found
    cause = Template(symptom.cause).substitute(values).strip(" :")
    return f"{cause}; {Template(symptom.remedy).substitute(values)}"


def holding_steps(listing: str, srun_pid: int) -> list[str] | None:
    """Return the steps, such as ``"17.0 (bash)"``, that keep a step from being created.

    srun itself says nothing of it for its first minute (Slurm 22.05) and never says which.

    Parameters
    ----------
    listing : str
        What ``scontrol show steps`` prints.
    srun_pid : int
        Process id of the srun whose step may be waiting.

    Returns
    -------
    list of str or None
        The steps of the same job that run on the nodes it waits for: none where the allocation
        lacks what the step asks for. None when it does not wait.
    """
    steps = list(_STEP.finditer(listing))
    for waiting in steps:
        if waiting["state"] == "PENDING" and waiting["pid"] == str(srun_pid):
            job = waiting["id"].partition(".")[0]
            nodes = _nodes(waiting["nodes"])
            return [
                f"{step['id']} ({step['name']})"
                for step in steps
                # batch, extern and interactive steps hold nothing
                if re.fullmatch(rf"{job}\.\d+", step["id"])
                and step["state"] == "RUNNING"
                and nodes & _nodes(step["nodes"])
            ]
    return None


def _nodes(hostlist: str) -> set[str]:
    try:
        return set(expand_hostlist(hostlist))
    except ValueError:
        return set()
