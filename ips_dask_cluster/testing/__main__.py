"""Run a command beside a private Slurm: ``python -m ips_dask_cluster.testing``."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from ips_dask_cluster.testing import LocalSlurm, LocalSlurmError

__all__ = ["main"]

#: Exit code of a failure that is not the command's, as of env(1) and timeout(1).
_EXIT_OWN_FAILURE = 125


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command beside a private Slurm and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ips_dask_cluster.testing",
        description="Run a command beside a private Slurm, and exit with its exit code.",
    )
    parser.add_argument("--nodes", type=int, default=4, help="how many (default 4)")
    parser.add_argument("--cpus", type=_integers, default=2, metavar="N[,N...]")
    parser.add_argument("--memory", type=_integers, default=4000, metavar="MB[,MB...]")
    parser.add_argument("--gpus", type=_integers, default=0, metavar="N[,N...]")
    parser.add_argument("--private-tmp", action="store_true", help="a /tmp per node (needs root)")
    parser.add_argument(
        "--shared",
        action="append",
        default=[],
        metavar="FOLDER",
        help="a folder below a private /tmp that all nodes see; may be repeated",
    )
    parser.add_argument("--start-timeout", type=float, default=30.0, metavar="SECONDS")
    parser.add_argument("command", nargs="*", help="after --; default: an interactive shell")
    options = parser.parse_args(arguments)
    command = options.command or [os.environ.get("SHELL", "/bin/sh")]
    try:
        with LocalSlurm(
            options.nodes,
            options.cpus,
            options.memory,
            options.gpus,
            options.private_tmp,
            shared=options.shared,
            start_timeout=options.start_timeout,
        ) as slurm:
            return _run_beside(slurm, command)
    except (LocalSlurmError, ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return _EXIT_OWN_FAILURE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _integers(text: str) -> int | list[int]:
    values = [int(item) for item in text.split(",")]
    return values[0] if len(values) == 1 else values


def _run_beside(slurm: LocalSlurm, command: Sequence[str]) -> int:
    """Run the command in this terminal and return its exit code as a shell does."""
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        if process is None:
            early.append(number)
        else:
            process.send_signal(number)

    def leave_to_command(number: int, frame: FrameType | None) -> None:
        """Ignore Ctrl-C, which the terminal sends to the command, too; the command handles it."""

    # Handlers instead of SIG_IGN, which the command would inherit.
    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGHUP, forward)
    signal.signal(signal.SIGINT, leave_to_command)
    process = subprocess.Popen(command, env=slurm.environ)
    for number in early:
        process.send_signal(number)
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
