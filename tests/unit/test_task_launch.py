"""Command lines of tasks, word by word."""

from __future__ import annotations

import pytest

from ips_core.tasks.launch import (
    TaskShape,
    launch_command,
    misleading_variables,
    overlapping_srun_command,
    without_variables,
)

PROGRAM = ["/bin/code", "-i", "in put"]
NODES = ("n2", "n4")


def argv(launcher: str, shape: TaskShape, exported: tuple[str, ...] = ()) -> str:
    """The command line, up to the program."""
    words, _ = launch_command(launcher, shape, PROGRAM, exported)
    assert words[-3:] == PROGRAM
    return " ".join(words[:-3])


def environment(launcher: str, shape: TaskShape) -> dict[str, str]:
    return launch_command(launcher, shape, PROGRAM)[1]


BOUND = "--threads-per-core=1 --cpu-bind=cores"
NO_GPUS = "--gres=none"


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (TaskShape(), f"srun -N 1 -n 1 {NO_GPUS}"),
        # as IPS-framework has it, three nodes of eight cores
        (TaskShape(1, 1, 1, 8), f"srun -N 1 -n 1 -c 8 {BOUND} {NO_GPUS}"),
        (TaskShape(4, 1, 4, 2), f"srun -N 1 -n 4 -c 2 {BOUND} {NO_GPUS}"),
        (TaskShape(16, 2, 8, 1), f"srun -N 2 -n 16 -c 1 {BOUND} {NO_GPUS}"),
        (
            TaskShape(4, 2, 2, 4, gpus=2),
            f"srun -N 2 -n 4 -c 4 {BOUND} --gpus-per-task=2",
        ),
        # what else there is
        (
            TaskShape(4, 2, 2, 1, node_names=NODES, extra_args=("--mpi=pmi2",)),
            f"srun -N 2 -n 4 -c 1 {BOUND} --nodelist=n2,n4 {NO_GPUS} --mpi=pmi2",
        ),
        (
            TaskShape(2, 1, 2, 3, gpus=1, whole_nodes=False, node_names=("n3",)),
            f"srun -N 1 -n 2 -c 3 {BOUND} --exact --mem=0 --nodelist=n3 --gpus-per-task=1",
        ),
        (TaskShape(2, whole_nodes=False), f"srun -N 1 -n 2 --exact --mem=0 {NO_GPUS}"),
        # a program that has its nodes for itself sees all their GPUs, on shared nodes only its own
        (TaskShape(2, node_gpus=4), "srun -N 1 -n 2 --gres=gpu:4"),
        (TaskShape(2, gpus=1, node_gpus=4), "srun -N 1 -n 2 --gpus-per-task=1"),
        (
            TaskShape(2, node_gpus=4, whole_nodes=False),
            f"srun -N 1 -n 2 --exact --mem=0 {NO_GPUS}",
        ),
        # --gres=none would take away what the user asks for
        (TaskShape(2, extra_args=("-G", "3")), "srun -N 1 -n 2 -G 3"),
    ],
)
def test_srun(shape: TaskShape, expected: str) -> None:
    assert argv("srun", shape) == expected


@pytest.mark.parametrize(
    ("shape", "exported", "expected"),
    [
        (
            TaskShape(4),
            (),
            "mpirun -np 4 --host localhost:4 --map-by slot:OVERSUBSCRIBE --bind-to none",
        ),
        # cores of a machine are what a platform file says, which need not be true
        (
            TaskShape(4, 2, 2, 8),
            (),
            "mpirun -np 4 --host localhost:4 --map-by slot:OVERSUBSCRIBE --bind-to none"
            " -x OMP_NUM_THREADS",
        ),
        (
            TaskShape(4, 2, node_names=NODES),
            ("PYTHONPATH", "A"),
            "mpirun -np 4 --host n2:2,n4:2 --map-by ppr:2:node --bind-to none -x A -x PYTHONPATH",
        ),
        (
            TaskShape(4, 2, 2, 8, node_names=NODES),
            ("OMP_NUM_THREADS",),
            "mpirun -np 4 --host n2:16,n4:16 --map-by ppr:2:node:PE=8 -x OMP_NUM_THREADS",
        ),
        (
            TaskShape(4, 2, 2, 8, whole_nodes=False, node_names=NODES, extra_args=("-v",)),
            (),
            "mpirun -np 4 --host n2:2,n4:2 --map-by ppr:2:node --bind-to none "
            "-x OMP_NUM_THREADS -v",
        ),
    ],
)
def test_mpirun(shape: TaskShape, exported: tuple[str, ...], expected: str) -> None:
    assert argv("mpirun", shape, exported) == expected


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (TaskShape(4), "mpiexec -n 4"),
        (TaskShape(4, 2, 2, 8), "mpiexec -n 4"),
        (TaskShape(3, 2, node_names=NODES), "mpiexec -n 3 -ppn 2 -hosts n2,n4"),
        (
            TaskShape(4, 2, 2, 8, node_names=NODES, extra_args=("-l",)),
            "mpiexec -n 4 -ppn 2 -hosts n2,n4 -bind-to core:8 -l",
        ),
        (
            TaskShape(4, 2, 2, 8, whole_nodes=False, node_names=NODES),
            "mpiexec -n 4 -ppn 2 -hosts n2,n4",
        ),
    ],
)
def test_mpiexec(shape: TaskShape, expected: str) -> None:
    assert argv("mpiexec", shape) == expected


@pytest.mark.parametrize("launcher", ["mpirun", "mpiexec"])
def test_others_steps_are_no_obstacle_on_nodes_of_a_job(launcher: str) -> None:
    assert environment(launcher, TaskShape(4)) == {}
    assert environment(launcher, TaskShape(3, 2, node_names=NODES)) == {"SLURM_OVERLAP": "1"}


def test_eval_is_the_program_itself() -> None:
    shape = TaskShape(4, extra_args=("--mpi=pmi2",))
    assert launch_command("eval", shape, PROGRAM) == (PROGRAM, {})


def test_unknown_launcher_is_named() -> None:
    with pytest.raises(ValueError, match="MPIRUN = aprun: expected one of eval, srun, mpirun"):
        launch_command("aprun", TaskShape(), PROGRAM)


@pytest.mark.parametrize("launcher", ["eval", "srun", "mpirun", "mpiexec"])
def test_openmp_gets_the_cores_of_a_process_with_every_launcher(launcher: str) -> None:
    assert environment(launcher, TaskShape(2)) == {}
    assert environment(launcher, TaskShape(2, cores=3)) == {"OMP_NUM_THREADS": "3"}
    assert environment(launcher, TaskShape(2, cores=3, omp=True)) == {
        "OMP_NUM_THREADS": "3",
        "OMP_PLACES": "threads",
        "OMP_PROC_BIND": "spread",
    }


def overlapping(shape: TaskShape) -> list[str]:
    words, _ = overlapping_srun_command(
        shape, PROGRAM, job_id="17", job_name="pool-t1", cwd="/my work"
    )
    return words


def test_srun_beside_workers() -> None:
    shape = TaskShape(4, 2, gpus=1, cores=2, node_names=NODES, extra_args=("--mpi=pmi2",))
    assert overlapping(shape) == [
        "srun",
        "--job-name=pool-t1",
        "--jobid=17",
        "--nodes=2",
        "--ntasks=4",
        "--nodelist=n2,n4",
        "--overlap",
        "--overcommit",
        "--mem=0",
        "--cpu-bind=none",
        "--kill-on-bad-exit=1",
        "--input=0",
        "--chdir=/",
        "--ntasks-per-node=2",
        "--gpus-per-task=1",
        "--mpi=pmi2",
        "env",
        "--chdir=/my work",
        *PROGRAM,
    ]


def test_program_beside_workers_sees_the_gpus_of_its_nodes_unless_it_has_its_own() -> None:
    for shape, option in (
        (TaskShape(4, 2), "--gres=none"),
        (TaskShape(4, 2, node_gpus=2), "--gres=gpu:2"),
        (TaskShape(4, 2, gpus=1, node_gpus=2), "--gpus-per-task=1"),
    ):
        assert [word for word in overlapping(shape) if word.startswith("--g")] == [option]


def test_srun_beside_workers_says_nothing_of_processes_per_node_that_do_not_come_out_even() -> None:
    words = overlapping(TaskShape(3, 2, node_names=NODES))
    assert [word for word in words if word.startswith("--ntasks")] == ["--ntasks=3"]


def test_srun_does_not_get_what_contradicts_it() -> None:
    environ = {
        "SLURM_CPUS_PER_TASK": "9",
        "SLURM_NTASKS_PER_NODE": "3",
        "PMI_FD": "7",
        "SLURM_JOB_ID": "17",
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURM_MPI_TYPE": "pmi2",
        "PATH": "/bin",
    }
    names = misleading_variables(environ)
    assert names == ["PMI_FD", "SLURM_CPUS_PER_TASK", "SLURM_NTASKS_PER_NODE"]
    assert without_variables(names[:2], ["srun", "x"]) == [
        *["env", "-u", "PMI_FD", "-u", "SLURM_CPUS_PER_TASK"],
        *["srun", "x"],
    ]
    assert without_variables([], ["srun", "x"]) == ["srun", "x"]
