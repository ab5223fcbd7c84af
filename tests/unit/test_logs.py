"""The log files of a cluster: which they are, and how much of them is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from ips_dask_cluster import logs
from ips_dask_cluster.errors import ClusterError
from ips_dask_cluster.logs import end_of_file, read_logs

FILES = {
    "c-scheduler-n1.log": "the scheduler",
    "c-worker-n1.log": "a worker",
    "c-worker-n2.site.org-1.log": "another worker",
    "c-worker-0.step.log": "a step",
    "c-scheduler-1.step.log": "a step",
    "c-worker-n3.txt": "no log",
    "c-other-n1.log": "no role",
    "cc-worker-n1.log": "another cluster",
    "other-c-worker-n1.log": "another cluster",
    "c-2-worker-n1.log": "another cluster",
}
SCHEDULER = {"scheduler-n1": "the scheduler"}
WORKERS = {"worker-n1": "a worker", "worker-n2.site.org-1": "another worker"}


@pytest.mark.parametrize(
    ("scheduler", "workers", "expected"),
    [
        (True, True, SCHEDULER | WORKERS),
        (True, False, SCHEDULER),
        (False, True, WORKERS),
        (False, False, {}),
    ],
)
def test_files_of_a_cluster_by_role_and_node(
    tmp_path: Path, scheduler: bool, workers: bool, expected: dict[str, str]
) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    found = read_logs(tmp_path, "c", scheduler, workers)
    assert list(found.items()) == sorted(expected.items())


def test_only_the_end_of_a_log_is_read(tmp_path: Path) -> None:
    (tmp_path / "c-worker-n1.log").write_text("x" * 50 + "y" * logs._BYTES)
    assert read_logs(tmp_path, "c", False, True) == {"worker-n1": "y" * logs._BYTES}


def test_directory_that_is_gone_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ClusterError) as caught:
        read_logs(tmp_path / "gone", "c", True, True)
    assert str(caught.value) == (
        "the logs of cluster c went with its run directory when it was closed; pass "
        "log_directory= to keep them"
    )


@pytest.mark.parametrize(
    ("content", "size", "text"),
    [
        (b"abc", 2, "bc"),
        (b"abc", 3, "abc"),
        (b"abc", 100, "abc"),
        (b"", 10, ""),
        ("aü".encode(), 1, "\N{REPLACEMENT CHARACTER}"),
        (b"a\xffb\r\n", 10, "a\N{REPLACEMENT CHARACTER}b\r\n"),
    ],
)
def test_end_of_a_file(tmp_path: Path, content: bytes, size: int, text: str) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    assert end_of_file(path, size) == text


def test_file_that_cannot_be_read_is_empty(tmp_path: Path) -> None:
    assert end_of_file(tmp_path / "gone", 10) == ""
    assert end_of_file(tmp_path, 10) == ""
