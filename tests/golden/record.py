"""Write what users see into a folder: scripts of clusters, a simulation log, reports of `check`.

Run inside an allocation of two nodes of a `LocalSlurm` with 64 CPUs and 4 GPUs each:

    python -m ips_dask_cluster.testing --nodes 2 --cpus 64 --gpus 4 -- \
        salloc -N2 --exclusive python tests/golden/record.py FOLDER

Only names that users import are used, so that the script runs with any version of the packages.
`tests/slurm/test_golden.py` compares the result with the files beside this one.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PROFILES = ("perlmutter-cpu", "perlmutter-gpu", "frontier", "local")
CONTAINER_PROGRAMS = ("shifter", "podman-hpc", "apptainer", "ch-run")
#: As long as nothing else is said, a machine's own sizes would differ from one to the next.
_SIZES = {"memory": "4 GiB"}
#: Runs what follows the container's own arguments, outside of any container.
_NO_CONTAINER = f"""#!/bin/sh
while [ "$#" -gt 0 ] && [ "$1" != {sys.executable} ]; do shift; done
exec "$@"
"""
#: What differs from one run to the next, and the word that stands for it.
_CHANGING = (
    (re.escape(sys.executable), "PYTHON"),
    (r"ips-dask-(\d+|local)-[0-9a-f]+", "NAME"),
    (re.escape(str(EXAMPLES)), "EXAMPLES"),
    (rf"\b{re.escape(os.uname().nodename)}\b", "HOST"),
    (r"/var/tmp/ips-golden-\w+", "FOLDER"),
    (r"--jobid=\d+", "--jobid=JOB"),
    (r"\d+ (core\(s\)|process\(es\))", r"N \1"),
    (r"(tls|tcp)://[0-9.]+:\d+", r"\1://ADDRESS"),
    (r"\b(versions = )\{.*\}", r"\1VERSIONS"),
)
#: Keys of events whose values differ from one run to the next.
_CHANGING_KEYS = ("host", "worker", "duration", "id", "parentId", "traceId", "seqnum")


def masked(text: str) -> str:
    """Return the text without what differs from one run to the next."""
    for pattern, word in _CHANGING:
        text = re.sub(pattern, word, text)
    return text


def cluster_options() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name each cluster whose scripts are recorded, and give its keywords."""
    from ips_dask_cluster import Apptainer, Charliecloud, PodmanHPC, Shifter

    yield "default", _SIZES
    for profile in PROFILES:
        yield f"profile-{profile}", {"config_name": profile, **_SIZES, "interface": "lo"}
    containers = {
        "shifter": Shifter(image="docker:me/code:1"),
        "shifter-arguments": Shifter(arguments="--image=docker:me/code:1 --module=gpu"),
        "podman-hpc": PodmanHPC(image="me/code:1"),
        "apptainer": Apptainer(image="/images/code.sif"),
        "charliecloud": Charliecloud(image="/images/code"),
    }
    for name, container in containers.items():
        yield f"container-{name}", {"container": container, **_SIZES}


def job_script(options: dict[str, Any]) -> str:
    """Start a cluster without workers and return its scripts."""
    from ips_dask_cluster import SlurmAllocationCluster

    with SlurmAllocationCluster(
        scheduler_options={"dashboard": False}, python=sys.executable, **options
    ) as cluster:
        return masked(cluster.job_script())


def difference(before: str, after: str) -> str:
    """Return the lines that differ, without their numbers, which every change would move."""
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return "".join(f"{line.rstrip()}\n" for line in lines if line[0] in "+-")


def simulation_log() -> str:
    """Run the documented simulation and return its log, sorted, with its times masked."""
    folder = Path(shutil.copytree(EXAMPLES / "dask", "dask"))
    run_ips("--config=dask_sim.config", "--platform=platform.conf", cwd=folder)
    (log,) = folder.glob("dask_sim/simulation_log/*.json")
    lines = [_masked_event(json.loads(line)) for line in log.read_text().splitlines()]
    return "".join(f"{line}\n" for line in sorted(lines))


def _masked_event(event: dict[str, Any]) -> str:
    """Return an event with its keys and texts, but without ids, times and places."""
    event = {key: _masked_value(key, value) for key, value in event.items()}
    event.pop("slowest", None)  # in the order of the times
    return json.dumps(event, sort_keys=True)


def _masked_value(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {inner: _masked_value(inner, each) for inner, each in value.items()}
    if isinstance(value, float) or key in _CHANGING_KEYS or "time" in key:
        return type(value).__name__
    if isinstance(value, str):
        return re.sub(r"\d+\.\d+|\d{4}-\d\d-\d\d\S*", "NUMBER", masked(value))
    return value


def check_reports() -> str:
    """Return what ``ips.py check`` says of the example configurations."""
    reports = []
    for config in sorted(EXAMPLES.glob("*/*.config")):
        platforms = [f"--platform={path}" for path in config.parent.glob("*.conf")]
        text = run_ips("check", config.name, *platforms, cwd=config.parent)
        reports.append(f"== {config.name}\n{text}")
    return masked("".join(reports))


def run_ips(*arguments: str, cwd: Path) -> str:
    """Run ``ips.py`` outside of the allocation and return what it prints."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    done = subprocess.run(
        [sys.executable, "-m", "ips_core", *arguments],
        cwd=cwd,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def main(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ips-golden-", dir="/var/tmp") as folder:
        os.chdir(folder)
        programs = Path(folder, "bin")
        programs.mkdir()
        for name in CONTAINER_PROGRAMS:
            (programs / name).write_text(_NO_CONTAINER)
            (programs / name).chmod(0o755)
        os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
        scripts = {name: job_script(options) for name, options in cluster_options()}
        (target / "default.txt").write_text(scripts["default"])
        for name in scripts.keys() - {"default"}:
            (target / f"{name}.diff").write_text(difference(scripts["default"], scripts[name]))
        (target / "simulation_log.txt").write_text(simulation_log())
        (target / "check.txt").write_text(check_reports())


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
