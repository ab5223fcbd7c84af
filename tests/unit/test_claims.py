"""Which cluster has which node: claims of threads and processes that meet, and what Slurm tells."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ips_dask_cluster.errors import ClusterError, NotEnoughNodesError
from ips_dask_cluster.slurm.allocation import Allocation, Node
from ips_dask_cluster.steps import node_locks as claims_module
from ips_dask_cluster.steps.node_locks import Claims

Program = Callable[..., Path]
NAMES = ["n1", "n2", "n3", "n4"]


@pytest.fixture
def job() -> str:
    """A job that no other test has."""
    return uuid.uuid4().hex


@pytest.fixture
def held(job: str) -> Allocation:
    return Allocation(job, tuple(Node(name, 2) for name in NAMES))


@pytest.fixture
def make(job: str) -> Iterator[Callable[..., Claims]]:
    made: list[Claims] = []

    def make(cluster: str, job_id: str | None = job) -> Claims:
        made.append(Claims(job_id, cluster))
        return made[-1]

    yield make
    for each in made:
        each.close()


Make = Callable[..., Claims]


# Two clusters.


def test_node_has_one_cluster_until_it_is_given_back(make: Make) -> None:
    one, other = make("one"), make("other")
    assert [one.is_free("n1"), other.is_free("n1")] == [True, True]
    assert [one.holds("n1"), one.take("n1"), one.holds("n1")] == [False, True, True]
    assert [one.take("n1"), one.is_free("n1")] == [True, True]
    assert [other.take("n1"), other.holds("n1"), other.is_free("n1")] == [False, False, False]
    other.give_back("n1")
    assert not other.is_free("n1")
    one.give_back("n1")
    assert [one.holds("n1"), other.is_free("n1"), other.take("n1")] == [False, True, True]


def test_close_gives_everything_back_and_may_come_twice(make: Make) -> None:
    one, other = make("one"), make("other")
    assert one.take("n1")
    for _ in range(2):
        one.close()
    assert [other.is_free("n1"), one.holds("n1"), make("one").take("n1")] == [True, False, True]


def test_name_of_a_cluster_is_claimed_too(make: Make, job: str) -> None:
    make("one")
    with pytest.raises(ClusterError) as caught:
        make("one")
    assert str(caught.value) == f"a cluster named 'one' runs in Slurm job {job} already"


def test_jobs_and_names_of_nodes_and_clusters_have_nothing_to_do_with_each_other(
    make: Make,
) -> None:
    one, elsewhere = make("n1"), make("n1", uuid.uuid4().hex)
    assert one.take("n1")
    assert elsewhere.take("n1")


def test_this_machine_is_claimed_by_nobody(make: Make, program: Program) -> None:
    program("squeue", "exit 9")
    one, other = make("one", None), make("one", None)
    nodes = Allocation(None, (Node("host", 2),))
    for each in (one, other):
        assert each.take_nodes(nodes, 1) == ["host"]
        assert (each.holds("host"), each.is_free("host"), each.take("host")) == (True,) * 3
        each.give_back("host")


def test_sockets_of_a_claim_that_failed_are_closed(make: Make) -> None:
    """ResourceWarning is an error here."""
    one, other = make("one"), make("other")
    one.take("n1")
    assert not other.take("n1")
    assert not other.is_free("n1")


# Many at once.


def test_threads_that_claim_at_once_share_no_node(make: Make) -> None:
    nodes = [f"n{number}" for number in range(200)]
    clusters = [make(f"c{number}") for number in range(4)]
    barrier = threading.Barrier(len(clusters))
    taken: list[list[str]] = [[] for _ in clusters]

    def run(number: int) -> None:
        barrier.wait(10)
        taken[number] += [node for node in nodes if clusters[number].take(node)]

    threads = [threading.Thread(target=run, args=[number]) for number in range(len(clusters))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(node for each in taken for node in each) == sorted(nodes)


def test_who_only_looks_is_in_nobodys_way(make: Make) -> None:
    """Whether a node is free is asked all the time while a cluster adapts."""
    one, other = make("one"), make("other")
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            other.is_free("n1")

    thread = threading.Thread(target=look)
    thread.start()
    refused = 0
    for _ in range(2000):
        refused += not one.take("n1")
        one.give_back("n1")
    stop.set()
    thread.join(10)
    assert refused == 0


DRIVER = """
import os, sys
from ips_dask_cluster.steps.node_locks import Claims
claims = Claims(sys.argv[1], sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
print(*[node for node in sys.argv[3:] if claims.take(node)], flush=True)
{more}
sys.stdin.readline()
"""


@pytest.fixture
def driver(job: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``driver(cluster, nodes, more="")``: a process that claims nodes when it gets a line."""
    drivers = []

    def start(cluster: str, nodes: list[str], more: str = "") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER.format(more=more), job, cluster, *nodes],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        drivers.append(process)
        return process

    yield start
    for process in drivers:
        process.kill()
        process.communicate(timeout=10)


def said(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")


def test_processes_that_claim_at_once_share_no_node(driver) -> None:
    nodes = [f"n{number}" for number in range(500)]
    drivers = [driver(f"c{number}", nodes) for number in range(2)]
    assert [said(process) for process in drivers] == [["ready"]] * 2
    for process in drivers:
        go(process)
    taken = [said(process) for process in drivers]
    assert sorted(taken[0] + taken[1]) == sorted(nodes)


def test_death_of_a_driver_gives_its_nodes_back(make: Make, driver, wait_until) -> None:
    process = driver("other", ["n1"])
    go(process)
    assert [said(process), said(process)] == [["ready"], ["n1"]]
    one = make("one")
    assert not one.take("n1")
    with pytest.raises(ClusterError, match="named 'other'"):
        make("other")
    process.kill()
    wait_until(lambda: one.take("n1"), 10, "the node is free")
    make("other")


def test_processes_that_a_driver_forks_hold_nothing(make: Make, driver, wait_until) -> None:
    """Such as those of multiprocessing, which may live on when the cluster is closed."""
    more = """
if os.fork() == 0:
    sys.stdin.readline()
    os._exit(0)
claims.close()
print("closed", flush=True)
"""
    process = driver("other", ["n1"], more)
    go(process)
    assert [said(process) for _ in range(3)] == [["ready"], ["n1"], ["closed"]]
    one = make("one")
    wait_until(lambda: one.take("n1"), 10, "the node is free")


def test_limit_of_open_files_is_named(make: Make) -> None:
    one = make("one")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    try:
        with pytest.raises(ClusterError) as caught:
            all(one.take(f"n{number}") for number in range(65))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert str(caught.value) == (
        "each node of a cluster needs an open file, but this process may have only 64; raise the "
        "limit (ulimit -n) before it starts"
    )


# The start of a cluster.


@pytest.fixture
def squeue(program: Program, tmp_path: Path) -> Callable[..., Path]:
    """``squeue(*lines)``: one that knows these steps, asked as Slurm 22.05 wants it."""

    def write(*lines: str, job: str, once: bool = False) -> Path:
        question = f"--jobs={job} --steps --noheader --format="
        known = tmp_path / "asked"
        when = f"[ ! -e {known} ] && : > {known}" if once else "true"
        mark = "format=${4#--format=}\nmark=${format%%%i*}"
        echo = "".join(f'echo "$mark"\'17.0 {line}\'"$mark"\n' for line in lines)
        return program(
            "squeue",
            f"[ \"${{*%%format=*}}format=\" = '{question}' ] || exit 9\n{mark}\nif {when}; then :\n"
            f"{echo}fi",
        )

    return write


@pytest.mark.parametrize(
    ("wanted", "taken"), [(None, NAMES), (4, NAMES), (2, ["n1", "n2"]), (1, ["n1"]), (0, [])]
)
def test_first_nodes_are_taken(
    make: Make, held: Allocation, squeue, caplog, wanted: int | None, taken: list[str]
) -> None:
    squeue(job=held.job_id)
    one, other = make("one"), make("other")
    assert one.take_nodes(held, wanted) == taken
    assert [name for name in NAMES if not other.is_free(name)] == taken
    assert caplog.messages == []


def test_nodes_of_others_are_left_to_them(make: Make, held: Allocation, squeue, caplog) -> None:
    squeue(job=held.job_id)
    other = make("other")
    assert [other.take("n1"), other.take("n3")] == [True, True]
    assert make("one").take_nodes(held, None) == ["n2", "n4"]
    assert caplog.messages == [
        f"2 of the 4 nodes of Slurm job {held.job_id} run workers of another cluster; this one "
        "takes n2, n4"
    ]


def test_some_of_those_that_are_free_are_taken_without_a_word(
    make: Make, held: Allocation, squeue, caplog
) -> None:
    squeue(job=held.job_id)
    assert make("other").take("n1")
    assert make("one").take_nodes(held, 2) == ["n2", "n3"]
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("taken", "wanted", "arguments"),
    [
        (NAMES, None, (1, 0, 4)),
        (NAMES, 2, (2, 0, 4)),
        (["n1"], 4, (4, 3, 4)),
        ([], 5, (5, 4, 4)),
    ],
)
def test_too_few_free_nodes_are_an_error(
    make: Make, held: Allocation, squeue, taken: list[str], wanted: int | None, arguments: tuple
) -> None:
    squeue(job=held.job_id)
    other = make("other")
    assert all(other.take(name) for name in taken)
    with pytest.raises(NotEnoughNodesError) as caught:
        make("one").take_nodes(held, wanted)
    assert caught.value.args == (*arguments, f"Slurm job {held.job_id}", "")


# Drivers on other hosts.


def test_nodes_with_workers_of_a_driver_elsewhere_are_not_taken(
    make: Make, held: Allocation, squeue, monkeypatch
) -> None:
    monkeypatch.setattr(claims_module, "_LEFTOVER_SECONDS", 0)
    steps = [
        "n[1-2] far-worker-0",
        "n1 far-scheduler-0",
        "n3 bash",
        "n3 far-worker-x",
        "n3 near-worker-7",
        "n4 far away-worker-12",
    ]
    squeue(*steps, job=held.job_id)
    make("near")
    one = make("one")
    assert one.take_nodes(held, None) == ["n3"]
    assert [one.is_free(name) for name in NAMES] == [False, False, True, False]
    assert [one.take(name) for name in NAMES] == [False, False, True, False]


def test_steps_of_a_driver_that_has_died_are_waited_for(
    make: Make, held: Allocation, squeue
) -> None:
    squeue("n[1-4] dead-worker-1", job=held.job_id, once=True)
    begin = time.monotonic()
    assert make("one").take_nodes(held, None) == NAMES
    assert time.monotonic() - begin < claims_module._LEFTOVER_SECONDS


@pytest.mark.parametrize("script", [None, "echo 'Access denied' >&2; exit 1"])
def test_site_without_squeue_has_no_such_drivers(
    make: Make, held: Allocation, program: Program, script: str | None
) -> None:
    if script is not None:
        program("squeue", script)
    assert make("one").take_nodes(held, None) == NAMES
