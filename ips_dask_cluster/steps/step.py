"""Run one step of a cluster: an ``srun`` over some nodes, or a script on this machine.

This module starts the process, writes to it, explains its failure and ends it; the caller decides
what it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from ips_dask_cluster.errors import ClusterError, StepError
from ips_dask_cluster.logs import end_of_file
from ips_dask_cluster.slurm import commands
from ips_dask_cluster.slurm.diagnosis import diagnose, holding_steps
from ips_dask_cluster.slurm.srun import without_step_variables

__all__ = ["LOG_BYTES", "Step"]

#: Bytes at the end of a log that diagnosis reads.
LOG_BYTES = 32768
_QUOTED_LINES = 12
_LOOK_SECONDS = 3


class Step:
    """One process of a cluster, from its start to its end.

    ``log`` is a file on this machine for the standard error. ``job_name`` is the step's name in
    ``squeue --steps``, empty for a local process.
    """

    def __init__(
        self, role: str, argv: Sequence[str], nodes: Sequence[str], log: Path, job_name: str = ""
    ) -> None:
        self.role = role
        self.argv = list(argv)
        self.nodes = tuple(nodes)
        self.log = log
        self.job_name = job_name
        self.process: asyncio.subprocess.Process | None = None
        self._look: asyncio.Task[None] | None = None

    @property
    def exit_code(self) -> int | None:
        """Exit code of the process; None while it runs or before it starts."""
        return self.process.returncode if self.process else None

    async def start(self, stdout: int | None) -> None:
        """Start the process.

        ``stdout`` is a file descriptor, ``asyncio.subprocess.PIPE``, ``asyncio.subprocess.STDOUT``
        for the log, or None to share that of this process. Raises ``ClusterError`` if the program
        cannot start.
        """
        with open(self.log, "ab") as log:
            try:
                self.process = await asyncio.create_subprocess_exec(
                    *self.argv,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=log if stdout == asyncio.subprocess.STDOUT else stdout,
                    stderr=log,
                    env=without_step_variables(os.environ),
                    # Ctrl-C in a terminal or a notebook is for the driver, not for srun
                    start_new_session=True,
                )
            except FileNotFoundError:
                raise ClusterError(
                    f"{self.argv[0]} is not on PATH: load the site's slurm module, or pass "
                    'launcher="local" to stay on this machine'
                ) from None
            except OSError as error:
                message = f"{self.argv[0]} cannot be started: {error.strerror}"
                raise ClusterError(message) from None
        if self.job_name:
            self._look = asyncio.ensure_future(self._end_if_held())

    async def send(self, line: str) -> None:
        """Send a line to the scripts of all nodes of the step."""
        assert self.process is not None
        assert self.process.stdin is not None
        with contextlib.suppress(ConnectionError, RuntimeError):  # it has ended; Steps watches that
            self.process.stdin.write(line.encode() + b"\n")
            await self.process.stdin.drain()

    def tail(self) -> str:
        """Return the last lines of the step's log."""
        return _quoted(end_of_file(self.log, LOG_BYTES))

    def error(self, nodes: str = "", cause: str = "") -> StepError:
        """Return the error that explains why the step ended.

        ``nodes`` and ``cause`` default to all nodes of the step and the diagnosis of its log.
        """
        text = end_of_file(self.log, LOG_BYTES)
        # The cause may be above the few lines that are quoted
        cause = cause or diagnose(self.exit_code, text)
        nodes = nodes or ",".join(self.nodes)
        return StepError(self.role, nodes, self.exit_code, cause, _quoted(text), str(self.log))

    async def _end_if_held(self) -> None:
        """End the process if Slurm does not create its step because other steps hold the nodes.

        srun would wait without limit, and print nothing about it for a minute or longer. Slurm is
        asked a second time, since a step that is about to end holds its nodes for a moment. If no
        step holds them, the process waits on until the deadline of the start, since Slurm may have
        a temporary reason; the log then names the likely one.
        """
        assert self.process is not None
        holders: list[str] | None = None
        for _ in range(2):
            if await self._ended(_LOOK_SECONDS):
                return
            listing = await commands.show_steps_quietly(self._job())
            holders = holding_steps(listing, self.process.pid)
            if holders is None:
                return
        nodes = ",".join(self.nodes)
        if not holders:
            self._note(f"Slurm has not created this step, though no other step holds {nodes}")
            return
        self._note(
            f"Slurm does not start this step while step {', '.join(holders)} runs on {nodes}"
        )
        with contextlib.suppress(ProcessLookupError):  # it may just have ended
            self.process.terminate()

    def _note(self, sentence: str) -> None:
        """Append a message to the log, where diagnosis finds it."""
        with contextlib.suppress(OSError), open(self.log, "a") as log:
            log.write(f"ips-dask: {sentence}\n")

    def _job(self) -> str:
        """Return the job id on the command line, or nothing; one job is faster to list than all."""
        options = (word.partition("=") for word in self.argv)
        return next((value for option, _, value in options if option == "--jobid"), "")

    async def end(self, patience: float, in_order: bool) -> None:
        """End the process and wait until it is gone; never raises.

        It waits ``patience`` seconds for the process to end by itself, then closes its input, then
        sends signals, and waits as long after each of them. If not ``in_order``, nothing has asked
        the process to end, so its input is closed at once.
        """
        if self.process is None:
            return
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait([self._look])
        if not in_order or not await self._ended(patience):
            assert self.process.stdin is not None
            self.process.stdin.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if await self._ended(patience):
                break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
        else:
            if self.job_name:  # by its name, since srun does not print the step's id
                await commands.cancel_steps_quietly(self._job(), self.job_name)
            await self._ended(patience)
        if self.process.stdin is not None:
            self.process.stdin.close()

    async def _ended(self, seconds: float) -> bool:
        assert self.process is not None
        try:
            await asyncio.wait_for(self.process.wait(), seconds)
        except TimeoutError:
            return False
        return True


def _quoted(text: str) -> str:
    return "\n".join(text.splitlines()[-_QUOTED_LINES:])
