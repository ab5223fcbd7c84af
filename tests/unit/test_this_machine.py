"""This machine as an allocation."""

from __future__ import annotations

import os

import pytest

from ips_dask_cluster.devices import visible_devices
from ips_dask_cluster.slurm.allocation import Allocation, Node
from ips_dask_cluster.slurm.this_machine import local_allocation


@pytest.mark.parametrize(
    ("arguments", "nodes"),
    [
        ({}, (Node("host", 8, 6000),)),
        ({"cpus": 3}, (Node("host", 3, 6000),)),
        ({"nodes": 3}, tuple(Node(f"host-{number}", 2, 2000) for number in range(3))),
        ({"nodes": 12}, tuple(Node(f"host-{number}", 1, 500) for number in range(12))),
    ],
)
def test_this_machine_is_shared_out_evenly(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, int], nodes: tuple[Node, ...]
) -> None:
    uname = os.uname_result(("Linux", "host", "6", "1", "x86_64"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 60, "SC_PHYS_PAGES": 100}.__getitem__)
    monkeypatch.setattr(os, "uname", lambda: uname)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert local_allocation(**arguments) == Allocation(None, nodes)


@pytest.mark.parametrize(
    ("devices", "seen"),
    [
        ("", []),
        ("0", ["0"]),
        ("0,3", ["0", "3"]),
        ("0, 3", ["0", "3"]),
        ("GPU-8932f937,", ["GPU-8932f937"]),
        ("MIG-0a,MIG-GPU-8932f937/1/0", ["MIG-0a", "MIG-GPU-8932f937/1/0"]),
        ("-1", []),
        ("NoDevFiles", []),
        ("void", []),
        ("0,-1,1", ["0"]),
        (",0", []),
    ],
)
def test_gpus_of_this_machine_are_those_that_cuda_shows(
    monkeypatch: pytest.MonkeyPatch, devices: str, seen: list[str]
) -> None:
    assert visible_devices(devices) == seen
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    assert [node.gpus for node in local_allocation(2).nodes] == [len(seen)] * 2
