"""Command lines of tasks: a program, and how many processes of it where, to argv and environment.

Pure. What the launchers make of it was seen with Slurm 22.05, Open MPI 4.1 and 5.0, and MPICH 4.0
and 5.0; options are named as in their manuals: https://slurm.schedmd.com/srun.html,
https://docs.open-mpi.org/en/v5.0.x/man-openmpi/man1/mpirun.1.html and
https://github.com/pmodels/mpich/blob/main/doc/wiki/how_to/Using_the_Hydra_Process_Manager.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ips_dask_cluster.slurm.gres import gres_options
from ips_dask_cluster.slurm.variables import misleading_programs

__all__ = [
    "Launch",
    "TaskShape",
    "eval_command",
    "launch_command",
    "misleading_variables",
    "mpiexec_command",
    "mpirun_command",
    "overlapping_srun_command",
    "srun_command",
    "without_variables",
]

Launch = tuple[list[str], dict[str, str]]
"""A command line, and what comes on top of its environment."""


@dataclass(frozen=True)
class TaskShape:
    """How many processes, where, and what each of them has.

    Parameters
    ----------
    nproc : int
        Processes of the task.
    nodes : int
        On how many nodes.
    ppn : int
        Processes on a node at most; 0: spread evenly.
    cores : int
        Cores of a process; 0: the launcher decides.
    gpus : int
        GPUs of a process.
    node_gpus : int
        GPUs of each node, as far as Slurm hands them out. A program without ``gpus`` sees all of
        them, unless it is an srun on shared nodes, where they would be its own.
    omp : bool
        True: its OpenMP threads are bound, and spread over its cores.
    whole_nodes : bool
        True: no other task is on its nodes, so that processes may be bound to cores.
    node_names : tuple of str
        The nodes, as the launcher knows them; empty: srun chooses them, the others use this
        machine.
    extra_args : tuple of str
        Further options of the launcher; they come last and so win.
    """

    nproc: int = 1
    nodes: int = 1
    ppn: int = 0
    cores: int = 0
    gpus: int = 0
    node_gpus: int = 0
    omp: bool = False
    whole_nodes: bool = True
    node_names: tuple[str, ...] = ()
    extra_args: tuple[str, ...] = ()

    @property
    def most_per_node(self) -> int:
        """Processes on the fullest node."""
        return self.ppn or -(-self.nproc // self.nodes)

    @property
    def environment(self) -> dict[str, str]:
        """What OpenMP is to know; several processes that each took all cores would be slow."""
        variables = {"OMP_NUM_THREADS": str(self.cores)} if self.cores else {}
        if self.omp:
            variables |= {"OMP_PLACES": "threads", "OMP_PROC_BIND": "spread"}
        return variables


def launch_command(
    launcher: str, shape: TaskShape, argv: Sequence[str], exported: Sequence[str] = ()
) -> Launch:
    """Return how a task starts with the platform's ``MPIRUN``.

    Parameters
    ----------
    launcher : {"eval", "srun", "mpirun", "mpiexec"}
        ``mpirun`` is Open MPI's, ``mpiexec`` MPICH's, which Intel MPI's understands, too.
    shape : TaskShape
        How many processes, and where.
    argv : sequence of str
        The program and its arguments.
    exported : sequence of str
        Names of variables that the processes need; only Open MPI must be told them.

    Returns
    -------
    tuple of list of str and dict
        The command line, and what comes on top of its environment.

    Raises
    ------
    ValueError
        There is no such launcher.
    """
    if launcher == "eval":
        return eval_command(shape, argv)
    if launcher == "srun":
        return srun_command(shape, argv)
    if launcher == "mpirun":
        return mpirun_command(shape, argv, exported)
    if launcher == "mpiexec":
        return mpiexec_command(shape, argv)
    raise ValueError(f"MPIRUN = {launcher}: expected one of eval, srun, mpirun, mpiexec")


def eval_command(shape: TaskShape, argv: Sequence[str]) -> Launch:
    """Return a task without a launcher: the program itself, once, as IPS has always done it."""
    return list(argv), shape.environment


def srun_command(shape: TaskShape, argv: Sequence[str]) -> Launch:
    """Return a task as a step of its own in this Slurm job.

    Parameters
    ----------
    shape : TaskShape
        How many processes, and where.
    argv : sequence of str
        The program and its arguments.

    Notes
    -----
    Tasks that share nodes are started with ``--exact``, which gives each CPUs of its own: with
    ``--overlap`` besides, three steps of one core on a node of two were all bound to core 0 (seen).
    A step has all memory of its nodes unless it says otherwise, and the next one would wait for
    that (srun(1), ``--exact``): hence ``--mem=0``. A Dask cluster's steps do not stand in the way,
    since they are started with ``--overlap``.
    """
    options = ["-N", str(shape.nodes), "-n", str(shape.nproc)]
    if shape.cores:
        options += ["-c", str(shape.cores), "--threads-per-core=1", "--cpu-bind=cores"]
    if not shape.whole_nodes:
        options += ["--exact", "--mem=0"]
    gpus = _gpus(shape, shape.node_gpus if shape.whole_nodes else 0)
    return ["srun", *options, *_where(shape), *gpus, *shape.extra_args, *argv], shape.environment


def overlapping_srun_command(
    shape: TaskShape, argv: Sequence[str], *, job_id: str, job_name: str, cwd: str
) -> Launch:
    """Return a parallel task of a pool on nodes where the workers of its Dask cluster run.

    Parameters
    ----------
    shape : TaskShape
        How many processes, and where; Slurm orders the nodes itself, and a node gets one process
        more than another at most.
    argv : sequence of str
        The program and its arguments.
    job_id : str
        The allocation.
    job_name : str
        The step's name in ``squeue --steps``, to find it by.
    cwd : str
        Where the processes run.

    Notes
    -----
    Needed, and seen with Slurm 22.05:

    - ``--overlap``: else it waits for other steps that do not have it, without a limit.
    - No ``--cpus-per-task``: that confines the step to as many CPUs (srun(1): it implies
      ``--exact``), and overlapping steps to the same ones. The slots that the pool holds say how
      many there are; ``--overcommit`` since there may be more of those than CPUs, which is refused
      otherwise ("More processors requested than permitted").
    - ``--kill-on-bad-exit=1``: a rank that fails ends the others, which would wait for it for ever.
      Those then end by SIGTERM, and the highest code wins: srun says 143, not the code of the rank
      that failed; that is in its output.
    - The program changes the directory: where a node lacks it, Slurm says so and runs the program
      in /tmp. ``env`` ends with 125 instead, and with 127 if there is no such program (srun: 2).
    - Standard input is for rank 0, as ``mpirun`` does it (srun: each rank gets all of it).
    - MPI starts as the site has set it up (``MpiDefault``); else ``--mpi=...`` belongs into the
      extra arguments. MPICH starts with ``--mpi=pmi2``; with ``none`` each rank is a world of one.
    - SIGTERM to srun ends all processes of the step by SIGKILL, within 0.2 s, and srun by itself
      with 137. One SIGINT is a question, two within a second reach the processes first. SIGKILL to
      srun ends nothing but srun: the step runs on and must be cancelled by its id. What has left
      its session and lost its parent is found where Slurm tracks processes by cgroup
      (``ProctrackType``); by ``linuxproc`` it may stay.
    """
    options = [
        f"--job-name={job_name}",
        f"--jobid={job_id}",
        f"--nodes={shape.nodes}",
        f"--ntasks={shape.nproc}",
        *_where(shape),
        "--overlap",
        "--overcommit",
        "--mem=0",
        "--cpu-bind=none",
        "--kill-on-bad-exit=1",
        "--input=0",
        "--chdir=/",
    ]
    if shape.nproc == shape.nodes * shape.most_per_node:  # else srun warns that it cannot
        options.append(f"--ntasks-per-node={shape.most_per_node}")
    program = ["env", f"--chdir={cwd}", *argv]
    gpus = _gpus(shape, shape.node_gpus)
    return ["srun", *options, *gpus, *shape.extra_args, *program], shape.environment


def mpirun_command(shape: TaskShape, argv: Sequence[str], exported: Sequence[str] = ()) -> Launch:
    """Return a task under Open MPI's mpirun.

    Parameters
    ----------
    shape : TaskShape
        How many processes, and where.
    argv : sequence of str
        The program and its arguments.
    exported : sequence of str
        Names of variables that processes on other nodes need as well.

    Notes
    -----
    A host is named with its slots: a bare name means one, and then "there are not enough slots".
    On shared nodes nothing is bound, since each mpirun begins to count at core 0; nor without
    names: what a platform file says of a machine's cores need not be true, and binding to a core
    that is not there fails. Open MPI has no option for GPUs.
    """
    ppn = shape.most_per_node
    if shape.node_names and shape.whole_nodes and shape.cores:
        slots = ppn * shape.cores
        placement = ["--map-by", f"ppr:{ppn}:node:PE={shape.cores}"]
    elif shape.node_names:
        slots = ppn
        placement = ["--map-by", f"ppr:{ppn}:node", "--bind-to", "none"]
    else:
        slots = shape.nproc
        placement = ["--bind-to", "none"]
    hosts = ",".join(f"{name}:{slots}" for name in shape.node_names or ("localhost",))
    names = sorted({*exported, *shape.environment})
    variables = [word for name in names for word in ("-x", name)]
    options = ["-np", str(shape.nproc), "--host", hosts, *placement, *variables]
    return ["mpirun", *options, *shape.extra_args, *argv], shape.environment | _beside(shape)


def mpiexec_command(shape: TaskShape, argv: Sequence[str]) -> Launch:
    """Return a task under MPICH's mpiexec (Hydra), which hands on the whole environment.

    Parameters
    ----------
    shape : TaskShape
        How many processes, and where.
    argv : sequence of str
        The program and its arguments.

    Notes
    -----
    Bound as under mpirun. It has no option for GPUs that all its versions know.
    """
    options = ["-n", str(shape.nproc)]
    if shape.node_names:
        options += ["-ppn", str(shape.most_per_node), "-hosts", ",".join(shape.node_names)]
        if shape.whole_nodes and shape.cores:
            options += ["-bind-to", f"core:{shape.cores}"]
    return ["mpiexec", *options, *shape.extra_args, *argv], shape.environment | _beside(shape)


def misleading_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the names in an environment that would contradict srun's options.

    Parameters
    ----------
    environ : mapping of str to str
        What srun would inherit: below ``sbatch --cpus-per-task``, or in a step, such names are in
        it. What says how an MPI program runs, such as ``SLURM_MPI_TYPE``, is not among them.
    """
    return misleading_programs(environ)


def without_variables(names: Iterable[str], argv: Sequence[str]) -> list[str]:
    """Return a command line that runs another one without some variables.

    Parameters
    ----------
    names : iterable of str
        The variables.
    argv : sequence of str
        What to run; returned as it is if there are no names.
    """
    unset = [word for name in names for word in ("-u", name)]
    return ["env", *unset, *argv] if unset else list(argv)


def _beside(shape: TaskShape) -> dict[str, str]:
    """Let the step by which mpirun reaches the nodes run beside others; else it waits for them."""
    return {"SLURM_OVERLAP": "1"} if shape.node_names else {}


def _where(shape: TaskShape) -> list[str]:
    return [f"--nodelist={','.join(shape.node_names)}"] if shape.node_names else []


def _gpus(shape: TaskShape, node_gpus: int) -> list[str]:
    """Return the options for a program that gets GPUs for each process, or those of its nodes."""
    if shape.gpus:
        return [f"--gpus-per-task={shape.gpus}"]
    return gres_options(node_gpus, shape.extra_args)
