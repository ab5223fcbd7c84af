"""Build the command line and environment of a task: a program, its processes and their nodes.

All functions are pure. The behaviour of the launchers was seen with Slurm 22.05, Open MPI 4.1 and
5.0, and MPICH 4.0 and 5.0. The options are those of the manuals:
https://slurm.schedmd.com/srun.html,
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
"""A command line, and variables to add to its environment."""


@dataclass(frozen=True)
class TaskShape:
    """Count the processes and nodes of a task and the resources of each process."""

    nproc: int = 1
    nodes: int = 1
    ppn: int = 0  #: Most processes on a node; 0: spread evenly.
    cores: int = 0  #: Cores of each process; 0: the launcher decides.
    gpus: int = 0  #: GPUs of each process.
    #: GPUs of each node that Slurm hands out. A program without ``gpus`` sees all of them, except
    #: in an srun on shared nodes, which would reserve them.
    node_gpus: int = 0
    #: True: OpenMP threads are bound, and spread over the cores of their process.
    omp: bool = False
    #: True: no other task is on the nodes, so processes may be bound to cores.
    whole_nodes: bool = True
    #: Nodes by the names that the launcher knows. Empty: srun chooses the nodes; other launchers
    #: use this machine.
    node_names: tuple[str, ...] = ()
    #: Further options of the launcher; they come last and so take precedence.
    extra_args: tuple[str, ...] = ()

    @property
    def most_per_node(self) -> int:
        """Processes on the node with the most of them."""
        return self.ppn or -(-self.nproc // self.nodes)

    @property
    def environment(self) -> dict[str, str]:
        """OpenMP's variables.

        Without ``OMP_NUM_THREADS``, each of several processes would use all cores and all would be
        slow.
        """
        variables = {"OMP_NUM_THREADS": str(self.cores)} if self.cores else {}
        if self.omp:
            variables |= {"OMP_PLACES": "threads", "OMP_PROC_BIND": "spread"}
        return variables


def launch_command(
    launcher: str, shape: TaskShape, argv: Sequence[str], exported: Sequence[str] = ()
) -> Launch:
    """Return the command line and environment of a task for the platform's ``MPIRUN``.

    ``mpirun`` is Open MPI's; ``mpiexec`` is MPICH's, whose options Intel MPI understands, too.
    ``exported`` names the variables that the processes need; only Open MPI needs these names.
    Raises ValueError if the launcher is unknown.
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
    """Return a task without a launcher: one process of the program, as in IPS-framework."""
    return list(argv), shape.environment


def srun_command(shape: TaskShape, argv: Sequence[str]) -> Launch:
    """Return a task as a separate step of this Slurm job.

    Tasks that share nodes start with ``--exact``, which gives each of them its own CPUs. With
    ``--overlap`` besides, three steps of one core on a node with two cores were all bound to core 0
    (seen). By default a step gets all memory of its nodes and the next step waits for it (srun(1),
    ``--exact``); ``--mem=0`` avoids that. The steps of a Dask cluster do not block these steps,
    because they start with ``--overlap``.
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

    Slurm orders the nodes itself and spreads the processes evenly. ``job_name`` is the step's name
    in ``squeue --steps``, which finds the step again; ``cwd`` is the directory of the processes.

    Each option has a reason, seen with Slurm 22.05:

    - ``--overlap``: without it, the step waits without a limit for steps that lack this option.
    - No ``--cpus-per-task``: this option implies ``--exact`` (srun(1)), which confines the step to
      that many CPUs and puts overlapping steps on the same ones. The pool's slots bound the number
      of processes instead.
    - ``--overcommit``: a node may have more slots than CPUs, which srun otherwise refuses ("More
      processors requested than permitted").
    - ``--kill-on-bad-exit=1``: when a rank fails, Slurm ends the others, which would wait for it
      without end. They end by SIGTERM and the highest code wins, so srun exits with 143; the code
      of the failed rank is in srun's output.
    - ``env --chdir`` instead of srun's ``--chdir``: on a node without the directory, Slurm prints
      an error and runs the program in /tmp. ``env`` exits with 125 instead, and with 127 if the
      program is missing (srun: 2).
    - ``--input=0``: rank 0 gets the standard input, as under ``mpirun``; by default each rank gets
      all of it.
    - No ``--mpi``: MPI starts as the site has set it up (``MpiDefault``); another kind belongs into
      ``extra_args``. MPICH starts with ``--mpi=pmi2``; with ``none``, each rank is a world of size
      one.

    How a step ends: after SIGTERM to srun, Slurm kills all processes of the step within 0.2 s and
    srun exits with 137. One SIGINT only asks; two within a second reach the processes. SIGKILL to
    srun ends only srun: the step runs on, and must be cancelled by its id. Slurm finds a process
    that has left its session and lost its parent if it tracks processes by cgroup
    (``ProctrackType``); with ``linuxproc`` the process may survive.
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
    # Otherwise srun warns that it cannot honour the option.
    if shape.nproc == shape.nodes * shape.most_per_node:
        options.append(f"--ntasks-per-node={shape.most_per_node}")
    program = ["env", f"--chdir={cwd}", *argv]
    gpus = _gpus(shape, shape.node_gpus)
    return ["srun", *options, *gpus, *shape.extra_args, *program], shape.environment


def mpirun_command(shape: TaskShape, argv: Sequence[str], exported: Sequence[str] = ()) -> Launch:
    """Return a task under Open MPI's mpirun.

    ``exported`` names variables that processes on other nodes need as well. Each host is named with
    its slots, because a bare name means one slot and fails with "there are not enough slots".
    Processes are not bound on shared nodes, where each mpirun counts from core 0, nor without node
    names: a platform file may name more cores than the machine has, and binding to a missing core
    fails. Without ssh, Open MPI 5.0 takes the number of cores for that of slots in spite of
    ``--host`` ("Your job failed to map"), hence ``OVERSUBSCRIBE``. Open MPI has no option for GPUs.
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
        placement = ["--map-by", "slot:OVERSUBSCRIBE", "--bind-to", "none"]
    hosts = ",".join(f"{name}:{slots}" for name in shape.node_names or ("localhost",))
    names = sorted({*exported, *shape.environment})
    variables = [word for name in names for word in ("-x", name)]
    options = ["-np", str(shape.nproc), "--host", hosts, *placement, *variables]
    return ["mpirun", *options, *shape.extra_args, *argv], shape.environment | _beside(shape)


def mpiexec_command(shape: TaskShape, argv: Sequence[str]) -> Launch:
    """Return a task under MPICH's mpiexec (Hydra), which passes the whole environment on.

    Processes are bound as under `mpirun_command`. No option for GPUs exists in all versions.
    """
    options = ["-n", str(shape.nproc)]
    if shape.node_names:
        options += ["-ppn", str(shape.most_per_node), "-hosts", ",".join(shape.node_names)]
        if shape.whole_nodes and shape.cores:
            options += ["-bind-to", f"core:{shape.cores}"]
    return ["mpiexec", *options, *shape.extra_args, *argv], shape.environment | _beside(shape)


def misleading_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the names in srun's environment that would contradict its options.

    ``sbatch --cpus-per-task`` and job steps set such variables. Variables that say how an MPI
    program starts, such as ``SLURM_MPI_TYPE``, are not among them.
    """
    return misleading_programs(environ)


def without_variables(names: Iterable[str], argv: Sequence[str]) -> list[str]:
    """Return a command line that runs ``argv`` without some variables."""
    unset = [word for name in names for word in ("-u", name)]
    return ["env", *unset, *argv] if unset else list(argv)


def _beside(shape: TaskShape) -> dict[str, str]:
    """Let the step by which mpirun reaches its nodes overlap others; else it waits for them."""
    return {"SLURM_OVERLAP": "1"} if shape.node_names else {}


def _where(shape: TaskShape) -> list[str]:
    return [f"--nodelist={','.join(shape.node_names)}"] if shape.node_names else []


def _gpus(shape: TaskShape, node_gpus: int) -> list[str]:
    """Return srun's options for GPUs of each process, or else for those of the nodes."""
    if shape.gpus:
        return [f"--gpus-per-task={shape.gpus}"]
    return gres_options(node_gpus, shape.extra_args)
