"""Read what ``scontrol show job --details`` prints.

Its lines are ``Name=value`` pairs among which users' own words stand unquoted: a job's name may be
``EndTime=2001-01-01T00:00:00``, or hold whole lines that look like Slurm's. All that is read here
stands after the job's name and before its comment and its command; between them, users choose
nothing freely but account and WCKey. If one of the lines is there more than once, the reader needs
these words (:func:`is_ambiguous`) to know which is Slurm's.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ips_dask_cluster.slurm.allocation import Node
from ips_dask_cluster.slurm.hostlist import count_numbers, expand_hostlist
from ips_dask_cluster.slurm.times import end_time

__all__ = ["JobDetails", "JobHead", "is_ambiguous", "parse_job", "read_heads"]

_HEAD = re.compile(r"^JobId=(?P<id>\d+)(?P<more>(?: [A-Z]\w*=[^\s=]+)*?) JobName=", re.MULTILINE)
# In the order in which they stand there
_LINES = [
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"^   JobState=(?P<state>\S+) Reason=",
        r"^   RunTime=\S+ TimeLimit=(?P<limit>\S+) TimeMin=",
        r"^   StartTime=(?P<start>\S+) EndTime=(?P<end>\S+) Deadline=",
        r"^   NodeList=(?P<nodelist>\S*)$",
        # Slurm 26.05 has Exclusive=, and OverSubscribe=NO also of a job that shares its nodes
        r"^   OverSubscribe=(?P<share>\S+)(?: Exclusive=(?P<exclusive>\S+))? Contiguous=",
    )
]
_NODES = re.compile(
    r"^     Nodes=(?P<names>\S+) CPU_IDs=(?P<cpus>\S+) Mem=(?P<memory>\d+) GRES=(?P<gres>.*)$",
    re.MULTILINE,
)
_GPUS = re.compile(r"(?<![\w:])gpu(?::[^:,(]+)?:(\d+)")


@dataclass(frozen=True)
class JobHead:
    """The first line of a job.

    Parameters
    ----------
    job_id : str
        Its number.
    task : str
        Such as ``"17_1"`` for a job of an array; its other jobs may be in one text with it.
    heterogeneous : bool
        Whether it is a component of a heterogeneous job.
    """

    job_id: str
    task: str = ""
    heterogeneous: bool = False


@dataclass(frozen=True)
class JobDetails:
    """What Slurm says of one job.

    Parameters
    ----------
    head : JobHead
        Which job it is.
    state : str
        Such as ``"RUNNING"``; empty if it is not told.
    end : datetime.datetime or None
        When it ends, local time; None when it has no end.
    shared : bool
        Whether it may hold only a part of its nodes.
    nodes : tuple of Node
        What it holds of each, in the order of its node list.
    """

    head: JobHead
    state: str = ""
    end: datetime.datetime | None = None
    shared: bool = False
    nodes: tuple[Node, ...] = ()


def read_heads(text: str) -> list[JobHead]:
    """Return the first lines of all jobs of a text.

    Only the first is certainly Slurm's; a job's name may hold lines that look like one.
    """
    return [_head(match) for match in _HEAD.finditer(text)]


def _head(match: re.Match[str]) -> JobHead:
    more = dict(word.split("=") for word in match["more"].split())
    array = more.get("ArrayJobId")
    task = f"{array}_{more.get('ArrayTaskId', '')}" if array else ""
    return JobHead(match["id"], task, "HetJobId" in more)


def is_ambiguous(text: str) -> bool:
    """Tell whether a job's own words look like lines of Slurm's that are read here."""
    return any(len(line.findall(text)) > 1 for line in _LINES)


def parse_job(text: str, words: Sequence[str] = ()) -> JobDetails:
    """Return what a text says of the job it begins with.

    Parameters
    ----------
    text : str
        Output of ``scontrol show job --details`` for one job.
    words : sequence of str
        The job's name, account and WCKey, where they make the text ambiguous.

    Raises
    ------
    ValueError
        A list of nodes or of CPUs does not parse.
    """
    head = _HEAD.match(text)
    if head is None:
        return JobDetails(JobHead(""))
    for name, value in zip(("JobName", "Account", "WCKey"), words, strict=False):
        # In the order in which they stand there, so that the first place found is the right one
        text = text.replace(f"{name}={value}", f"{name}={value.replace(chr(10), ' ')}", 1)
    matches = [match for line in _LINES if (match := line.search(text))]
    found = {name: value for match in matches for name, value in match.groupdict("").items()}
    begins = next((match.end() for match in matches if "nodelist" in match.groupdict()), 0)
    ends = next((match.start() for match in matches if "share" in match.groupdict()), len(text))
    share, exclusive = found.get("share", "NO"), found.get("exclusive")
    return JobDetails(
        _head(head),
        found.get("state", ""),
        end_time(*(found.get(name, "") for name in ("limit", "start", "end"))),
        exclusive != "NODE" if exclusive else share != "NO",
        _nodes(text[begins:ends], found.get("nodelist", "")),
    )


def _nodes(lines: str, nodelist: str) -> tuple[Node, ...]:
    held = {}
    for match in _NODES.finditer(lines):
        cpus, memory = count_numbers(match["cpus"]), int(match["memory"]) * 2**20
        gpus = sum(int(count) for count in _GPUS.findall(match["gres"]))
        for name in expand_hostlist(match["names"]):
            held[name] = Node(name, cpus, memory, gpus)
    order = expand_hostlist(nodelist) if nodelist else list(held)
    return tuple(held[name] for name in order if name in held)
