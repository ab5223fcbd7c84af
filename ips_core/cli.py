"""The command line: ``ips.py`` and ``python -m ips_core``.

Exit codes: 0 the simulation went well, 1 it failed or cannot be run, 2 the arguments make no
sense.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ips_core.errors import ConfigError
from ips_core.framework import Framework
from ips_core.simulation import Simulation
from ips_core.version import ips_core_version

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ips.py",
        description="Run a simulation of the Integrated Plasma Simulator.",
        epilog="Inside a Slurm allocation (salloc, sbatch) task pools use its nodes; "
        "elsewhere they run on this machine.",
    )
    parser.add_argument(
        *("--config", "--simulation", "-i", "-j"),
        dest="config",
        metavar="FILE",
        required=True,
        help="the simulation file",
    )
    parser.add_argument(
        *("--platform", "-p"),
        metavar="FILE",
        help="the platform file (default: $IPS_PLATFORM_FILE, else Slurm or this machine tells)",
    )
    parser.add_argument(
        *("--log", "-l"),
        type=_log_file,
        metavar="FILE",
        help="the framework's own messages (default: to the screen)",
    )
    parser.add_argument(*("--nodes", "-n"), type=_count, default=0, metavar="N", help="use N nodes")
    parser.add_argument(
        *("--ppn", "-o"), type=_count, default=0, metavar="N", help="use N cores of each node"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="do not run again what task pools of the run before have finished",
    )
    parser.add_argument("--debug", "-d", action="store_true", help="accepted; see LOG_LEVEL")
    parser.add_argument("--verbose", "-v", action="store_true", help="accepted; see LOG_LEVEL")
    parser.add_argument("--version", action="version", version=f"ips.py {ips_core_version()}")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, not {text!r}")
    return int(text)


def _log_file(text: str) -> str:
    try:
        open(text, "a").close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write {text}: {error.strerror}") from None
    return text


def _tell_failures(simulations: Sequence[Simulation]) -> None:
    for simulation in simulations:
        if simulation.failure:
            which = f"{simulation.name}: " if len(simulations) > 1 else ""
            print(f"ips.py: {which}{simulation.failure}", file=sys.stderr)
            if os.path.getsize(simulation.config.log_file):
                print(f"ips.py: more in {simulation.config.log_file}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a simulation as the arguments say and return the exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Default: the arguments of this process.
    """
    arguments = _parser().parse_args(argv)
    platform = arguments.platform or os.environ.get("IPS_PLATFORM_FILE")
    try:
        framework = Framework(
            arguments.config.split(","),
            arguments.log,
            platform,
            arguments.debug,
            arguments.verbose,
            arguments.nodes,
            arguments.ppn,
            arguments.resume,
        )
        ok = framework.run()
    except ConfigError as error:
        for line in str(error).splitlines():
            print(f"ips.py: {line}", file=sys.stderr)
        return 1
    if not ok:
        _tell_failures(framework.simulations)
    return 0 if ok else 1
