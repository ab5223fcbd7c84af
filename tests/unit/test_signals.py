"""Signals end a program in order as long as a cluster is open, and only then."""

from __future__ import annotations

import builtins
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from ips_dask_cluster import signals
from ips_dask_cluster.signals import exit_in_order_on


class Cluster:
    """Something that is open or closed."""

    def __init__(self, status: str = "running") -> None:
        self.status = SimpleNamespace(name=status)


@pytest.fixture(autouse=True)
def as_in_a_new_program(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(signals, "_leaving", False)
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    yield
    signals._clusters.clear()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("status", ["running", "closing", "failed", "created"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_is_an_exit_while_a_cluster_is_open(status: str, number: int) -> None:
    clusters = [Cluster("closed"), Cluster(status)]
    for cluster in clusters:
        exit_in_order_on(["SIGTERM", "SIGUSR1"], cluster)
    with pytest.raises(SystemExit) as caught:
        os.kill(os.getpid(), number)
    assert caught.value.code == 128 + number


def test_signal_counts_once() -> None:
    """What closes the cluster meanwhile must not be interrupted."""
    cluster = Cluster()
    exit_in_order_on(["SIGTERM"], cluster)
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)


def test_only_the_signals_that_are_named_are_taken() -> None:
    exit_in_order_on(["SIGTERM"], Cluster())
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def refuse(number: int, frame: object) -> None:
    raise AssertionError


@pytest.mark.parametrize("handler", [refuse, signal.SIG_IGN])
def test_signal_that_the_program_handles_stays_its_own(handler: object) -> None:
    signal.signal(signal.SIGTERM, handler)
    exit_in_order_on(["SIGTERM", "SIGUSR1"], Cluster())
    assert signal.getsignal(signal.SIGTERM) is handler
    assert signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL


def test_nothing_changes_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "__IPYTHON__", True, raising=False)
    exit_in_order_on(["SIGTERM"], Cluster())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert not signals._clusters


def test_nothing_changes_in_another_thread() -> None:
    thread = threading.Thread(target=exit_in_order_on, args=[["SIGTERM"], Cluster()])
    thread.start()
    thread.join(10)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_cluster_is_not_kept_alive() -> None:
    exit_in_order_on(["SIGTERM"], Cluster())
    assert not signals._clusters


def test_name_of_no_signal_is_named() -> None:
    with pytest.raises(ValueError, match="close_on_signals: 'SIGFOO' is not the name of"):
        exit_in_order_on(["SIGFOO"], Cluster())


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSTOP"])
def test_signal_that_nobody_can_handle_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"^close_on_signals: '{name}' cannot be handled"):
        exit_in_order_on([name], Cluster())


ALL_CLOSED = """
import os, signal, types
from ips_dask_cluster.signals import exit_in_order_on
class Cluster:
    status = types.SimpleNamespace(name={status!r})
cluster = Cluster()
exit_in_order_on(["SIGUSR1"], cluster)
{more}
try:
    os.kill(os.getpid(), signal.SIGUSR1)
finally:
    print("in order", flush=True)
"""


@pytest.mark.parametrize(
    ("status", "more", "expected"),
    [
        ("closed", "", (-signal.SIGUSR1, "")),
        ("running", "del cluster", (-signal.SIGUSR1, "")),
        ("running", "", (128 + signal.SIGUSR1, "in order\n")),
    ],
)
def test_with_all_clusters_closed_a_signal_is_what_it_was(
    status: str, more: str, expected: tuple[int, str]
) -> None:
    code = ALL_CLOSED.format(status=status, more=more)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=30
    )
    assert (done.returncode, done.stdout) == expected
