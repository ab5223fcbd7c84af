"""A TLS connection that breaks leaves nothing in OpenSSL's queue that others would read."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from distributed.security import Security

from ips_dask_cluster.dask.worker_plugins import ClusterPlugins
from ips_dask_cluster.tls_errors import isolate_tls_errors, isolating_source

PRINT_NAMES = """
import ssl
print([base.__name__ for base in ssl.SSLContext.sslsocket_class.__mro__[:2]])
"""


@pytest.fixture
def isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssl.SSLContext, "sslsocket_class", ssl.SSLSocket)
    isolate_tls_errors()


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a scheduler that listens and of a client that connects."""
    security = Security.temporary()
    return (
        security.get_listen_args("scheduler")["ssl_context"],
        security.get_connection_args("client")["ssl_context"],
    )


@pytest.fixture
def connect(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> Iterator[Callable[[], tuple[ssl.SSLSocket, ssl.SSLSocket]]]:
    """``connect()``: both ends of a TLS connection, neither of which blocks."""
    listen, connect = contexts
    made: list[ssl.SSLSocket] = []

    def pair() -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
        ours, theirs = socket.socketpair()
        accepted: list[ssl.SSLSocket] = []
        thread = threading.Thread(
            target=lambda: accepted.append(listen.wrap_socket(theirs, server_side=True))
        )
        thread.start()
        both = connect.wrap_socket(ours), *_result(thread, accepted)
        for end in both:
            end.setblocking(False)
            made.append(end)
        return both

    yield pair
    for end in made:
        end.close()


def _result(thread: threading.Thread, accepted: list[ssl.SSLSocket]) -> list[ssl.SSLSocket]:
    thread.join()
    return accepted


@pytest.mark.usefixtures("isolated")
def test_write_that_fails_leaves_other_connections_alone(connect: Any) -> None:
    healthy, peer = connect()
    broken, gone = connect()
    gone.close()
    with pytest.raises(OSError, match=r"Broken pipe|EOF occurred"):
        broken.send(b"hello")
    with pytest.raises(ssl.SSLWantReadError):
        healthy.recv(1)
    peer.send(b"hello")
    assert healthy.recv(5) == b"hello"


@pytest.mark.usefixtures("isolated")
def test_socket_is_shown_as_usual(connect: Any) -> None:
    assert [repr(end).partition(" ")[0] for end in connect()] == ["<ssl.SSLSocket"] * 2


@pytest.mark.usefixtures("isolated")
def test_isolating_twice_changes_nothing() -> None:
    before = ssl.SSLContext.sslsocket_class
    isolate_tls_errors()
    assert ssl.SSLContext.sslsocket_class is before


def test_node_script_isolates_in_any_python(run_without_us: Callable[..., str]) -> None:
    assert run_without_us(isolating_source() + PRINT_NAMES) == "['SSLSocket', 'SSLSocket']\n"


def test_source_stands_between_single_quotes() -> None:
    assert "'" not in isolating_source()


def test_plugin_isolates_the_process_that_a_nanny_starts(
    run_without_us: Callable[..., str], tmp_path: Any
) -> None:
    (pickled,) = ClusterPlugins([], 1.0, nanny=True)._pickled.values()
    path = tmp_path / "plugin"
    path.write_bytes(pickled)
    code = f"""
import pickle, sys
pickle.load(open(sys.argv[1], "rb")).setup(None)
{PRINT_NAMES}
"""
    assert run_without_us(code, path) == "['SSLSocket', 'SSLSocket']\n"


def test_workers_without_nanny_need_no_plugin() -> None:
    assert ClusterPlugins([], 1.0)._pickled == {}
