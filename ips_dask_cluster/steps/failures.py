"""Read losses of workers and nodes from the messages of node scripts and srun in a step's log.

The cluster decides what to do about a loss.
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
_MOST_LOOKS = 10  # looks after which lines are read although the log still grows

# The output of a task may end without a newline, so a message may begin inside a line; but text
# behind "| " is a quote from a worker's log and must not match
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
    """A worker that ended unexpectedly, or a node that is lost.

    Parameters
    ----------
    node : str
        Name of the node; several names joined by commas if a step lost all of its nodes.
    worker : str
        Name of the worker. Default: ``""``, which means that the whole node is lost; the cluster
        uses it no more.
    exit_code : int or None
        Exit code of the worker, negative for a signal. Default: None, which means unknown.
    reason : str
        The cause and the remedy in one sentence. Default: ``""``.
    restarted : bool
        Whether the worker is restarted on its node. Default: False.
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
    """Yield the losses that some lines of a step's log report.

    After its message about the end of a worker, ``worker.sh`` quotes the end of that worker's log,
    from which the reason is read. Each quoted line begins with the worker's name, since several
    nodes write to the log at once and tasks may run their own srun. ``earlier`` are the lines
    before, which may contain the reason too.
    """
    quotes = _quotes(lines)
    for number, line in enumerate(lines):
        if match := _WORKER_ENDED.match(line):
            node, worker, code, start, starts = match.groups()
            exit_code = int(code)
            if 128 < exit_code <= 128 + _LAST_SIGNAL:  # a shell reports signal N as 128 + N
                exit_code = 128 - exit_code
            reason = diagnose(exit_code, quotes.get(number, ""))
            yield Loss(node, worker, exit_code, reason, start != starts)
        elif match := _NODE_FAILED.match(line) or _SCRIPT_ENDED.match(line):
            before = lines[max(0, number - _LINES_BEFORE) : number + 1]
            further = [
                line
                for line in earlier[max(0, len(earlier) + number - _LINES_BEFORE) :]
                if "| " not in line and "ips-dask: " not in line  # these explain another loss
            ]
            reason = diagnose(None, "\n".join([*further, *before]))
            for node in _nodes(match[1]):
                yield Loss(node, reason=reason)


def _quotes(lines: Sequence[str]) -> dict[int, str]:
    """Return the quote from a worker's log for each line that reports the end of a worker."""
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
    except ValueError:  # a task printed something that looks like srun's message
        return []


class LossWatch:
    """Read the logs of a cluster's worker steps as long as a worker is missing.

    ``steps`` may grow later, ``is_missing`` returns whether to go on, and ``report`` is called with
    each loss and its step.
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
        """Start looking, because a worker is missing."""
        self._reason.set()

    async def run(self) -> None:
        """Read the logs until cancelled, whenever a worker is missing."""
        while True:
            await self._reason.wait()
            for step in list(self._steps):
                self.read(step)
            if not self._is_missing() and not any(log.is_unsettled for log in self._logs.values()):
                self._reason.clear()
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)

    def read(self, step: Step, ended: bool = False) -> None:
        """Report the losses in a step's log that are new.

        ``ended`` means that the log is complete; otherwise the last lines are kept back until the
        next look, since the reason may follow them.
        """
        if step.role == "worker":
            log = self._logs.setdefault(step.log, _Log(step.log))
            earlier = log.latest
            for loss in read_losses(log.settled_lines(ended), earlier):
                if loss.worker and not loss.restarted:
                    self._reasons[loss.node] = loss.reason
                if not loss.worker:  # the script ended because its worker did
                    loss = replace(loss, reason=self._reasons.get(loss.node, loss.reason))
                self._report(loss, step)


class _Log:
    """A log file that is read in blocks of lines that belong together."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.latest: list[str] = []  # the last lines returned; a later loss may need them
        self._offset = 0
        self._pending: list[str] = []
        self._looks = 0

    @property
    def is_unsettled(self) -> bool:
        """Whether lines are kept back because more may follow."""
        return bool(self._pending)

    def settled_lines(self, ended: bool) -> list[str]:
        """Return the lines kept back and the new ones; nothing while the log still grows."""
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
