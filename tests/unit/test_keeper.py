"""The keeper of a Dask cluster that cannot be closed."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from ips_core.pools.dask.keeper import ClusterKeeper


def test_cluster_that_cannot_be_closed_is_told_with_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def close() -> None:
        raise RuntimeError("the scheduler hangs")

    services: Any = SimpleNamespace(exception=logging.getLogger("keeper").exception)
    keeper = ClusterKeeper(services, {})
    kept: Any = SimpleNamespace(cluster=SimpleNamespace(close=close), begin=0.0)
    keeper.terminate(0)
    assert caplog.text == ""
    keeper._kept = kept
    keeper.terminate(0)
    assert "the Dask cluster could not be closed in order" in caplog.text
    assert "RuntimeError: the scheduler hangs" in caplog.text
