"""Run simulations and commands from the command line: ``ips.py`` or ``python -m ips_core``.

Exit codes: 0 for success, 1 if a simulation failed or cannot run, 2 for invalid arguments.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from ips_core.errors import ConfigError
from ips_core.framework import Framework
from ips_core.framework.simulation import Simulation
from ips_core.version import ips_core_version

__all__ = ["count", "main"]

#: The module of each command; it is imported only when the command runs.
_COMMANDS = {"check": "ips_core.commands.check", "init": "ips_core.commands.starter"}
#: Options of IPS-framework before 2020, and the hint that replaces each.
_RETIRED = {
    "--all": "a run always does all of a simulation",
    "--clone": "copy the simulation's files, and give the copy its own SIM_NAME and SIM_ROOT",
    "--component": "say so in the simulation file or in the platform file",
    "--compset": "say so in the simulation file or in the platform file",
    "--create-runspace": "directories are created when a simulation starts",
    "--ftb": "there is no fault tolerance backplane any more",
    "--run": "a run always does all of a simulation",
    "--run-setup": "a run always does all of a simulation",
    "--sim_name": "set SIM_NAME in the simulation file",
}
_EXAMPLES = """\
examples:
  ips.py --config=sim.config
  ips.py --config=sim.config --platform=platform.conf --log=framework.log
  ips.py --config=a.config,b.config --nodes=4     two simulations share four nodes
  ips.py check sim.config                         what would run, and what is wrong
  ips.py init my_simulation                       a small simulation to start from

Inside a Slurm allocation (salloc, sbatch) a simulation uses its nodes; elsewhere it runs on this
machine. "python -m ips_core" is the same as "ips.py".
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ips.py",
        description="Run simulations of the Integrated Plasma Simulator; "
        'or one of the commands "check CONFIG" and "init DIR".',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_files(parser.add_argument_group("files"))
    resources = parser.add_argument_group("resources")
    resources.add_argument("--nodes", "-n", type=count, default=0, metavar="N", help="use N nodes")
    resources.add_argument(
        "--ppn", "-o", type=count, default=0, metavar="N", help="use N cores of each node"
    )
    run = parser.add_argument_group("run")
    run.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="do not run again what task pools of the run before have finished",
    )
    for name, short in (("--debug", "-d"), ("--verbose", "-v")):
        run.add_argument(
            name,
            short,
            action=argparse.BooleanOptionalAction,
            default=False,
            help="accepted; LOG_LEVEL of the simulation file says what is logged",
        )
    parser.add_argument("--version", action="version", version=f"ips.py {ips_core_version()}")
    return parser


def _add_files(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--config",
        "--simulation",
        "-i",
        "-j",
        dest="config",
        metavar="FILE[,FILE]",
        action="extend",
        type=_files,
        required=True,
        help="the simulation file; several run side by side",
    )
    group.add_argument(
        "--platform",
        "-p",
        metavar="FILE",
        help="the platform file (default: $IPS_PLATFORM_FILE, else Slurm or this machine tells)",
    )
    group.add_argument(
        "--log",
        "-l",
        type=_log_file,
        metavar="FILE",
        help="the framework's own messages (default: to the screen)",
    )


def _files(text: str) -> list[str]:
    files = [file.strip() for file in text.split(",") if file.strip()]
    if not files:
        raise argparse.ArgumentTypeError("expected the name of a file")
    return files


def count(text: str) -> int:
    """Convert an option's text to an int of 1 or more; argparse reports the ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, not {text!r}")
    return int(text)


def _log_file(text: str) -> str | None:
    if text == "sys.stdout":  # IPS-framework's name for standard output
        return None
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
            log_file = simulation.config.log_file
            if os.path.isfile(log_file) and os.path.getsize(log_file):
                print(f"ips.py: more in {log_file}", file=sys.stderr)


def _refuse_bare_name(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    if argv and argv[0] and not argv[0].startswith("-"):
        commands = " and ".join(_COMMANDS)
        parser.error(
            f"{argv[0]}: a simulation file is named with --config {argv[0]}; the commands are "
            f"{commands}"
        )


def _refuse_retired(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    for argument in argv:
        name = argument.partition("=")[0]
        if name in _RETIRED:
            parser.error(f"{name} is no option any more: {_RETIRED[name]}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run simulations or a command and return the exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the program's name. Default: ``sys.argv[1:]``.

    Returns
    -------
    int
        0 for success; 1 if a simulation failed or cannot run. The reason is on stderr.

    Raises
    ------
    SystemExit
        argparse rejects the arguments (code 2), or prints the help or the version (code 0).
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        if argv and argv[0] in _COMMANDS:
            return import_module(_COMMANDS[argv[0]]).main(argv[1:])
        return _run(argv)
    except ConfigError as error:
        for line in str(error).splitlines():
            print(f"ips.py: {line}", file=sys.stderr)
        return 1


def _run(argv: Sequence[str]) -> int:
    parser = _parser()
    _refuse_bare_name(parser, argv)
    _refuse_retired(parser, argv)
    arguments = parser.parse_args(argv)
    framework = Framework(
        arguments.config,
        arguments.log,
        arguments.platform or os.environ.get("IPS_PLATFORM_FILE"),
        arguments.debug,
        arguments.verbose,
        arguments.nodes,
        arguments.ppn,
        arguments.resume,
    )
    ok = framework.run()
    if not ok:
        _tell_failures(framework.simulations)
    return 0 if ok else 1
