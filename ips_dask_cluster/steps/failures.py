"""Workers and nodes that were lost, as the node scripts and srun tell of them in a step's log.

What is done about it is the cluster's business.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ips_dask_cluster.slurm.diagnosis import diagnose
from ips_dask_cluster.slurm.hostlist import expand_hostlist
from ips_dask_cluster.steps.step import Step

__all__ = ["Loss", "LossWatch", "read_losses"]

_SECONDS_BETWEEN_LOOKS = 0.2
_MOST_LOOKS = 10  # that lines are kept back, in a log that never rests

# What a task prints may end without a newline, but what is quoted counts for nothing
_BEFORE = r"(?:(?!\| ).)*?"
_WORKER_ENDED = re.compile(
    _BEFORE + r"ips-dask: node (\S+) worker (.+) ended with code (\d+), start (\d+) of (\d+)"
)
_SCRIPT_ENDED = re.compile(_BEFORE + r"srun: error: (\S+): tasks? \S+: (.*)")
_NODE_FAILED = re.compile(_BEFORE + r"srun: error: Node failure on (\S+)")
_LINES_BEFORE = 45  # worker.sh quotes 40 of the worker's log
_LAST_SIGNAL = 64  # signal(7)


@dataclass(frozen=True)
class Loss:
    """A worker that ended when it should not have, or a node that is gone.

    Parameters
    ----------
    node : str
        Where it was.
    worker : str
        Its name; empty when the whole node is gone, which the cluster then leaves out.
    exit_code : int or None
        Of the worker, negative for a signal; None when nobody saw it.
    reason : str
        One sentence from :mod:`ips_dask_cluster.slurm.diagnosis`.
    restarted : bool
        Whether it is started again on its node.
    """

    node: str
    worker: str = ""
    exit_code: int | None = None
    reason: str = ""
    restarted: bool = False

    def __str__(self) -> str:
        if not self.worker:
            return f"node {self.node} is lost and left out from now on: {self.reason}"
        code = self.exit_code or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        then = "is started again" if self.restarted else "is not started again"
        reason = f" ({self.reason})"
        if self.reason.startswith("it was killed by signal"):
            reason = ""
        elif self.reason.startswith("it crashed "):
            crashed, _, remedy = self.reason.partition("; ")
            how, reason = crashed.removeprefix("it "), f" ({remedy})"
        return f"worker {self.worker} on node {self.node} {how}{reason} and {then}"


def read_losses(lines: Sequence[str], earlier: Sequence[str] = ()) -> Iterator[Loss]:
    """Yield the losses that lines of a step's log tell of.

    Parameters
    ----------
    lines : sequence of str
        What ``worker.sh`` and ``srun`` wrote; after its word on a worker's end, the script quotes
        the end of that worker's own log, from which the reason is read. Each line of a quote
        begins with the worker's name, since nodes write side by side, and since tasks may have
        had an srun of their own.
    earlier : sequence of str
        The lines before these, which have been read already: the reason may be among them.
    """
    quotes = _quotes(lines)
    for number, line in enumerate(lines):
        if match := _WORKER_ENDED.match(line):
            node, worker, code, start, starts = match.groups()
            exit_code = int(code)
            if 128 < exit_code <= 128 + _LAST_SIGNAL:  # as shells tell a signal
                exit_code = 128 - exit_code
            reason = diagnose(exit_code, quotes.get(number, ""))
            yield Loss(node, worker, exit_code, reason, start != starts)
        elif match := _NODE_FAILED.match(line) or _SCRIPT_ENDED.match(line):
            before = lines[max(0, number - _LINES_BEFORE) : number + 1]
            further = [
                line
                for line in earlier[max(0, len(earlier) + number - _LINES_BEFORE) :]
                if "| " not in line and "ips-dask: " not in line  # another loss's reason
            ]
            reason = diagnose(None, "\n".join([*further, *before]))
            for node in _nodes(match[1]):
                yield Loss(node, reason=reason)


def _quotes(lines: Sequence[str]) -> dict[int, str]:
    """Return what is quoted of a worker's log after each line that tells of its end."""
    quotes: dict[int, list[str]] = {}
    latest: dict[str, int] = {}
    for number, line in enumerate(lines):
        worker, mark, text = line.partition("| ")
        if match := _WORKER_ENDED.match(line):
            latest[match[2]] = number
        elif mark and worker in latest:
            quotes.setdefault(latest[worker], []).append(text)
    return {number: "\n".join(quoted) for number, quoted in quotes.items()}


def _nodes(hostlist: str) -> list[str]:
    try:
        return expand_hostlist(hostlist)
    except ValueError:  # what a task printed
        return []


class LossWatch:
    """Looks into the logs of a cluster's worker steps, as long as a worker is missing.

    Parameters
    ----------
    steps : list of Step
        The steps, more of which may come.
    is_missing : callable
        Tells whether there is a reason to go on looking.
    report : callable
        Called with each :class:`Loss` and its step.
    """

    def __init__(
        self,
        steps: list[Step],
        is_missing: Callable[[], bool],
        report: Callable[[Loss, Step], None],
    ) -> None:
        self._steps = steps
        self._is_missing = is_missing
        self._report = report
        self._logs: dict[Path, _Log] = {}
        self._reasons: dict[str, str] = {}
        self._reason = asyncio.Event()

    def look(self) -> None:
        """Begin to look: somebody is missing."""
        self._reason.set()

    async def run(self) -> None:
        """Look for ever, whenever there is a reason to."""
        while True:
            await self._reason.wait()
            for step in list(self._steps):
                self.read(step)
            if not self._is_missing() and not any(log.is_unsettled for log in self._logs.values()):
                self._reason.clear()
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)

    def read(self, step: Step, ended: bool = False) -> None:
        """Report what a step's log tells of.

        Parameters
        ----------
        step : Step
            A worker step.
        ended : bool
            Nothing more will come; else the last lines may still be added to and are kept back.
        """
        if step.role == "worker":
            log = self._logs.setdefault(step.log, _Log(step.log))
            earlier = log.latest
            for loss in read_losses(log.settled_lines(ended), earlier):
                if loss.worker and not loss.restarted:
                    self._reasons[loss.node] = loss.reason
                if not loss.worker:  # the end of a script is the echo of its worker's
                    loss = replace(loss, reason=self._reasons.get(loss.node, loss.reason))
                self._report(loss, step)


class _Log:
    """A log file, read in pieces that are whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.latest: list[str] = []  # as many lines returned before as a reason may be away
        self._offset = 0
        self._pending: list[str] = []
        self._looks = 0

    @property
    def is_unsettled(self) -> bool:
        """Whether lines are kept back, since more may come."""
        return bool(self._pending)

    def settled_lines(self, ended: bool) -> list[str]:
        """Return lines that were there at the last look, if nothing has come since."""
        new = self._new_lines(ended)
        self._looks += 1
        if new and not ended and self._looks < _MOST_LOOKS:
            self._pending += new
            return []
        lines, self._pending, self._looks = self._pending + new, [], 0
        self.latest = [*self.latest, *lines][-_LINES_BEFORE:]
        return lines

    def _new_lines(self, ended: bool) -> list[str]:
        try:
            with open(self.path, "rb") as file:
                file.seek(self._offset)
                text = file.read()
        except OSError:
            return []
        if not ended:
            text = text[: text.rfind(b"\n") + 1]
        self._offset += len(text)
        return text.decode(errors="replace").splitlines()
