"""Parse the output of ``scontrol show job --details``.

The output consists of ``Name=value`` pairs, and the user's free text is among them without quotes:
a job may have the name ``EndTime=2001-01-01T00:00:00``, or one with whole lines that look like
Slurm's. Everything that is parsed here comes after the job's name and before its comment and its
command; in between, account and WCKey are the only free text. If one of the parsed lines occurs
more than once (:func:`is_ambiguous`), the parser needs these words to find Slurm's own line.
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
# In the order in which Slurm prints them
_LINES = [
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"^   JobState=(?P<state>\S+) Reason=",
        r"^   RunTime=\S+ TimeLimit=(?P<limit>\S+) TimeMin=",
        r"^   StartTime=(?P<start>\S+) EndTime=(?P<end>\S+) Deadline=",
        r"^   NodeList=(?P<nodelist>\S*)$",
        # Slurm 26.05 prints Exclusive=, and OverSubscribe=NO also for a job that shares its nodes
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
    """The first line of a job."""

    job_id: str
    #: Such as ``"17_1"`` for an array task; the output may show other tasks of that array as well.
    task: str = ""
    #: Whether the job is a component of a heterogeneous job.
    heterogeneous: bool = False


@dataclass(frozen=True)
class JobDetails:
    """Everything that is parsed from one job."""

    head: JobHead
    #: Such as ``"RUNNING"``; empty when the output lacks it.
    state: str = ""
    #: Local time; None when the job has no end.
    end: datetime.datetime | None = None
    #: Whether the job may hold only a part of its nodes.
    shared: bool = False
    #: The part of each node that the job holds, in the order of the job's node list.
    nodes: tuple[Node, ...] = ()


def read_heads(text: str) -> list[JobHead]:
    """Return every line of an output that looks like the first line of a job.

    Only the first of them is certainly Slurm's: the name of a job may hold a line that looks like
    one.
    """
    return [_head(match) for match in _HEAD.finditer(text)]


def _head(match: re.Match[str]) -> JobHead:
    more = dict(word.split("=") for word in match["more"].split())
    array = more.get("ArrayJobId")
    task = f"{array}_{more.get('ArrayTaskId', '')}" if array else ""
    return JobHead(match["id"], task, "HetJobId" in more)


def is_ambiguous(text: str) -> bool:
    """Return whether a parsed line occurs twice, so that one of them is the user's free text."""
    return any(len(line.findall(text)) > 1 for line in _LINES)


def parse_job(text: str, words: Sequence[str] = ()) -> JobDetails:
    """Return what an output of ``scontrol show job --details`` tells about its first job.

    ``words`` are the job's name, account and WCKey; an ambiguous output needs them. Raises
    ``ValueError`` if a list of nodes or of CPUs does not parse.
    """
    head = _HEAD.match(text)
    if head is None:
        return JobDetails(JobHead(""))
    for name, value in zip(("JobName", "Account", "WCKey"), words, strict=False):
        # In the order in which Slurm prints them, so that the first match is Slurm's own
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
