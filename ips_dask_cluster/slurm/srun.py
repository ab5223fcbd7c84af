"""Build the srun command line and environment of a step; pure except for reading the template."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from ips_dask_cluster.scripts import render, words
from ips_dask_cluster.slurm.gres import gres_options
from ips_dask_cluster.slurm.variables import misleading_steps

__all__ = ["srun_argv", "without_step_variables"]


def srun_argv(
    nodes: Sequence[str],
    command: Sequence[str],
    *,
    job_id: str,
    job_name: str,
    cpus: int,
    gpus: int = 0,
    gpus_in_total: bool = False,
    extra_args: Sequence[str] = (),
    args_skip: Sequence[str] = (),
    directory: Path | None = None,
) -> list[str]:
    """Return the srun command line of a step with one task on each of some nodes.

    ``cpus`` counts for a task, ``gpus`` for a node. ``gpus_in_total`` is for a step on one node
    that holds more GPUs than others of the job, see :func:`gres_options`. ``args_skip`` drops every
    word of the template that begins with one of these; ``extra_args`` come last and so take
    precedence. ``directory`` has a site's own ``srun.txt``.
    """
    text = render(
        "srun.txt",
        {
            "job_name": shlex.quote(job_name),
            "job_id": shlex.quote(job_id),
            "node_count": str(len(nodes)),
            "nodelist": shlex.quote(",".join(nodes)),
            "cpus": str(cpus),
            "gpus": words(gres_options(gpus, extra_args, in_total=gpus_in_total)),
        },
        directory,
    )
    options = shlex.split(text, comments=True)
    kept = [word for word in options if not any(word.startswith(skip) for skip in args_skip)]
    return [*kept, *extra_args, *command]


def without_step_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for srun without the variables that would contradict its options.

    A driver that runs in a step itself, or below ``sbatch --cpus-per-task``, inherits variables
    that srun reads as options; newer versions refuse such a mix.
    """
    misleading = frozenset(misleading_steps(environ))
    return {name: value for name, value in environ.items() if name not in misleading}
