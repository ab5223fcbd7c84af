"""What a job's environment says: its nodes, their CPUs, their memory."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_dask_cluster.errors import ClusterError
from ips_dask_cluster.slurm.allocation import Allocation, Node
from ips_dask_cluster.slurm.environment import describes_nodes, from_environment, job_of

MB = 2**20
JOB = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NODELIST": "n[1-3]",
    "SLURM_JOB_CPUS_PER_NODE": "128(x2),64",
}


def test_environment_gives_nodes_and_cpus() -> None:
    nodes = (Node("n1", 128), Node("n2", 128), Node("n3", 64))
    assert from_environment(JOB) == Allocation("17", nodes)


@given(st.lists(st.tuples(st.integers(1, 256), st.integers(1, 5)), min_size=1, max_size=6))
def test_any_run_of_cpu_counts_is_expanded(runs: list[tuple[int, int]]) -> None:
    text = ",".join(f"{cpus}(x{times})" if times > 1 else str(cpus) for cpus, times in runs)
    counts = [cpus for cpus, times in runs for _ in range(times)]
    found = from_environment(
        JOB | {"SLURM_JOB_NODELIST": f"n[1-{len(counts)}]", "SLURM_JOB_CPUS_PER_NODE": text}
    )
    assert [node.cpus for node in found.nodes] == counts


@pytest.mark.parametrize(
    ("variables", "megabytes"),
    [
        ({"SLURM_MEM_PER_NODE": "4000"}, [4000, 4000, 4000]),
        ({"SLURM_MEM_PER_CPU": "100"}, [12800, 12800, 6400]),
        ({"SLURM_MEM_PER_NODE": "", "SLURM_MEM_PER_CPU": ""}, [0, 0, 0]),
        # as a user may set them, since srun takes them as options
        ({"SLURM_MEM_PER_NODE": "16G"}, [16384, 16384, 16384]),
        ({"SLURM_MEM_PER_NODE": "4000M"}, [4000, 4000, 4000]),
        ({"SLURM_MEM_PER_NODE": "2048k"}, [2, 2, 2]),
        ({"SLURM_MEM_PER_NODE": "1TB"}, [2**20, 2**20, 2**20]),
        ({"SLURM_MEM_PER_CPU": "1g"}, [131072, 131072, 65536]),
    ],
)
def test_environment_gives_memory(variables: dict[str, str], megabytes: list[int]) -> None:
    found = from_environment(JOB | variables)
    assert [node.memory for node in found.nodes] == [each * MB for each in megabytes]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"SLURM_JOB_CPUS_PER_NODE": "128(x2)"},
            "SLURM_JOB_NODELIST names 3 nodes but SLURM_JOB_CPUS_PER_NODE 2: "
            "is this really the environment of one Slurm job?",
        ),
        (
            {"SLURM_JOB_CPUS_PER_NODE": "128(x999999999)"},
            "SLURM_JOB_NODELIST names 3 nodes but SLURM_JOB_CPUS_PER_NODE 999999999: "
            "is this really the environment of one Slurm job?",
        ),
        (
            {"SLURM_JOB_CPUS_PER_NODE": "128(x2),many"},
            "SLURM_JOB_CPUS_PER_NODE='128(x2),many' is not of the form 128(x4),96: "
            "is this really the environment of a Slurm job?",
        ),
        (
            {"SLURM_JOB_NODELIST": "n[1-3"},
            "SLURM_JOB_NODELIST='n[1-3': a bracket is not closed, or not opened; "
            "is this really the environment of a Slurm job?",
        ),
        (
            {"SLURM_JOB_NODELIST": "n[1-999999999]"},
            "SLURM_JOB_NODELIST='n[1-999999999]': it names more than 65536 node(s); "
            "is this really the environment of a Slurm job?",
        ),
        (
            {"SLURM_HET_SIZE": "2"},
            "this is a heterogeneous Slurm job (SLURM_HET_SIZE > 1), which is not supported: "
            "use an allocation with one component",
        ),
        (
            {"SLURM_MEM_PER_NODE": "lots"},
            "SLURM_MEM_PER_NODE='lots' is not a size such as 4000 (MB) or 16G; "
            "unset SLURM_MEM_PER_NODE, or correct it",
        ),
        (
            {"SLURM_MEM_PER_CPU": "-1"},
            "SLURM_MEM_PER_CPU='-1' is not a size such as 4000 (MB) or 16G; "
            "unset SLURM_MEM_PER_CPU, or correct it",
        ),
    ],
)
def test_wrong_environment_is_explained(variables: dict[str, str], message: str) -> None:
    begin = time.process_time()
    with pytest.raises(ClusterError) as caught:
        from_environment(JOB | variables)
    assert str(caught.value) == message
    assert time.process_time() - begin < 1


@pytest.mark.parametrize("size", ["", "0", "1"])
def test_het_size_of_one_is_a_plain_job(size: str) -> None:
    assert from_environment(JOB | {"SLURM_HET_SIZE": size}) == from_environment(JOB)


@pytest.mark.parametrize("name", sorted(JOB))
@pytest.mark.parametrize("value", [None, ""])
def test_environment_without_one_of_the_variables_does_not_describe_nodes(
    name: str, value: str | None
) -> None:
    environ = {key: each for key, each in JOB.items() if key != name}
    assert describes_nodes(JOB)
    assert not describes_nodes(environ if value is None else environ | {name: value})


@pytest.mark.parametrize(
    ("environ", "job"),
    [(JOB, "17"), ({}, None), ({"SLURM_JOB_ID": ""}, None), ({"SLURM_JOBID": "17"}, None)],
)
def test_job_id_that_is_empty_is_no_job(environ: dict[str, str], job: str | None) -> None:
    assert job_of(environ) == job
