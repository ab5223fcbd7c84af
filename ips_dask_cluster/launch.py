"""Command lines and scripts of the steps: numbers in, argv or text out.

Pure but for reading a template. Every value is quoted for the shell before it goes into one.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template

from ips_dask_cluster.slurm.gres import gres_options
from ips_dask_cluster.slurm.variables import misleading_steps

__all__ = ["render", "srun_argv", "without_step_variables", "words"]


def words(items: Iterable[object]) -> str:
    """Return the items as words of a shell command, each quoted where it needs to be."""
    return shlex.join(str(item) for item in items)


def render(name: str, values: Mapping[str, str], directory: Path | None = None) -> str:
    """Return a template with its values filled in.

    Parameters
    ----------
    name : str
        File name, such as ``"worker.sh"``.
    values : mapping of str to str
        One for every ``$name`` of the template, quoted for the shell.
    directory : pathlib.Path, optional
        Where a site keeps its own templates. Default: the package's.

    Raises
    ------
    KeyError
        The template names a value that is not given.
    FileNotFoundError
        The site's directory lacks the template.
    """
    folder = directory or resources.files("ips_dask_cluster") / "templates"
    return Template((folder / name).read_text(encoding="utf-8")).substitute(values)


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
    """Return the srun command line of a step with one task on each of the nodes.

    Parameters
    ----------
    nodes : sequence of str
        Names of the nodes.
    command : sequence of str
        What runs on each.
    job_id, job_name : str
        The allocation, and the step's name in ``squeue --steps``.
    cpus, gpus : int
        CPUs of a task, and GPUs of a node.
    gpus_in_total : bool
        True: the step is on one node, which holds more GPUs than others of the job.
    extra_args : sequence of str
        Further srun options; they come last and so win.
    args_skip : sequence of str
        Options to leave out: every word of the template that begins with one of these is dropped.
    directory : pathlib.Path, optional
        Where a site keeps its own ``srun.txt``.
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
    """Return an environment for srun, without what would contradict its options.

    A driver that itself runs in a step, or below ``sbatch --cpus-per-task``, inherits variables
    that srun reads as options; newer versions refuse such a mix.
    """
    misleading = frozenset(misleading_steps(environ))
    return {name: value for name, value in environ.items() if name not in misleading}
