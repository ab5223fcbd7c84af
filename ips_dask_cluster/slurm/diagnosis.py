"""Turn an exit code and the end of a log into one sentence with the cause and the remedy.

Pure: the known symptoms are in ``symptoms``, and other modules ask Slurm.
"""

from __future__ import annotations

import re
from string import Template

from ips_dask_cluster.slurm.hostlist import expand_hostlist
from ips_dask_cluster.slurm.symptoms import SYMPTOMS, Symptom

__all__ = ["RUN_DIRECTORY_INVISIBLE", "diagnose", "holding_steps", "recognise"]

# It matches whole lines, since a step's name is the user's free text
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
    """Return the first symptom of the table that matches, and the groups that its pattern found."""
    text = f"{log_tail}\nips-dask: exit code {exit_code}"
    for symptom in SYMPTOMS:
        match = re.search(symptom.pattern, text, re.MULTILINE)
        if match:
            return symptom, match.groupdict(default="")
    return None


def diagnose(exit_code: int | None, log_tail: str) -> str:
    """Return the most likely cause and its remedy in one sentence.

    The exit code is that of srun or of a local process, negative for a signal and None when
    unknown; the text is the end of its log.
    """
    found = recognise(exit_code, log_tail)
    if found is None:
        return "no known symptom in its log"
    symptom, values = found
    cause = Template(symptom.cause).substitute(values).strip(" :")
    return f"{cause}; {Template(symptom.remedy).substitute(values)}"


def holding_steps(listing: str, srun_pid: int) -> list[str] | None:
    """Return the steps that hold the nodes of an srun's pending step, such as ``"17.0 (bash)"``.

    ``listing`` is what ``scontrol show step`` prints. The result is None if the step is not
    pending; it is empty if no other step of the job runs on these nodes, so that the allocation
    lacks something that the step asks for. srun prints nothing about this in its first minute
    (Slurm 22.05) and never names the steps.
    """
    steps = list(_STEP.finditer(listing))
    for waiting in steps:
        if waiting["state"] == "PENDING" and waiting["pid"] == str(srun_pid):
            job = waiting["id"].partition(".")[0]
            nodes = _nodes(waiting["nodes"])
            return [
                f"{step['id']} ({step['name']})"
                for step in steps
                # batch, extern and interactive steps hold no resources
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
