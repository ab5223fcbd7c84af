"""TLS connections that break: they break no other, and closing does not wait for them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ips_dask_cluster import SlurmAllocationCluster

NO_DASHBOARD = {"dashboard": False}


def connection_breaker(security: Any) -> Callable[..., Any]:
    """Return a function that writes for a second to a TLS connection whose other end is closed."""

    async def break_connection() -> set[str]:
        """Return the errors, raised in the thread of all connections of this process."""
        import asyncio
        import contextlib
        import socket
        import threading

        ours, theirs = socket.socketpair()
        accept = security.get_listen_args("scheduler")["ssl_context"].wrap_socket
        accepted: list[Any] = []
        thread = threading.Thread(
            target=lambda: accepted.append(accept(theirs, server_side=True)), daemon=True
        )
        thread.start()
        connect = security.get_connection_args("worker")["ssl_context"].wrap_socket
        errors = set()
        with contextlib.closing(connect(ours)) as connection:
            thread.join()
            accepted[0].close()
            for _ in range(200):
                try:
                    connection.send(b"hello")
                except OSError as error:
                    errors.add(type(error).__name__)
                await asyncio.sleep(0.005)
        return errors

    return break_connection


def connection_cutter(operation: str, times: int) -> Callable[..., Any]:
    """Return a function that has the scheduler cut connections that ask for an operation."""

    def cut(dask_scheduler: Any = None) -> None:
        usual, left = dask_scheduler.handlers[operation], times

        async def abort(comm: Any, **_message: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                dask_scheduler.handlers[operation] = usual
            comm.abort()

        dask_scheduler.handlers[operation] = abort

    return cut


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What Dask's event loop logs: exceptions of callbacks that nobody waits for."""
    messages: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Handler()
    names = ("tornado.application", "asyncio")
    for name in names:
        logging.getLogger(name).addHandler(handler)
    yield messages
    for name in names:
        logging.getLogger(name).removeHandler(handler)


@pytest.mark.parametrize("nanny", [False, True])
def test_broken_connection_breaks_no_other(two_nodes, nanny):
    def workers(dask_scheduler: Any = None) -> set[str]:
        return set(dask_scheduler.workers)

    with (
        SlurmAllocationCluster(nanny=nanny, scheduler_options=NO_DASHBOARD) as cluster,
        cluster.get_client() as client,
    ):
        cluster.wait_for_workers()
        before = client.run_on_scheduler(workers)
        tasks = client.map(time.sleep, [0.05] * 300, pure=False)  # so that all connections are busy
        breaker = connection_breaker(cluster.security)
        errors = [
            client.run_on_scheduler(breaker),
            *client.run(breaker).values(),
            client.sync(breaker),
        ]
        assert len(errors) == 4
        assert all(errors)
        client.gather(tasks)
        assert client.run_on_scheduler(workers) == before
    assert cluster.losses == ()


@pytest.mark.parametrize("operation", ["retire_workers", "broadcast"])
def test_closing_ends_at_once_when_its_connection_breaks(two_nodes, operation, logged):
    cluster = SlurmAllocationCluster(close_timeout=60, scheduler_options=NO_DASHBOARD)
    cluster.wait_for_workers()
    with cluster.get_client() as client:
        client.run_on_scheduler(connection_cutter(operation, times=9))
    begin = time.monotonic()
    cluster.close()
    assert time.monotonic() - begin < 30  # close_timeout / 2, after which input is closed anyway
    assert logged == []


def test_scaling_goes_on_when_its_connection_breaks(pair_of_workers, logged, wait_until):
    cluster = pair_of_workers
    with cluster.get_client() as client:
        client.run_on_scheduler(connection_cutter("retire_workers", times=1))
    cluster.scale(1)
    wait_until(lambda: len(cluster.scheduler_info["workers"]) == 1, 20, "one worker leaves")
    wait_until(lambda: len(cluster.steps.placed) == 1, 20, "its node is free")
    assert logged == []
