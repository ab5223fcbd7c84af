"""Keep a broken TLS connection from breaking other connections of its thread.

OpenSSL queues the errors of a thread, and regards a system error that is still in the queue as the
result of the next call, for whatever connection. CPython raises such an error as ``OSError`` but
leaves it in the queue (python/cpython#148594, since python/cpython#127361). Seen with Python 3.13.5
and 3.14.10: a worker closed its connection while the scheduler wrote to it, and healthy connections
in the same thread ended with ``BrokenPipeError``.
"""

from __future__ import annotations

from typing import Any

from ips_dask_cluster.scripts import call_source

__all__ = ["isolate_tls_errors", "isolating_plugin", "isolating_source"]


def isolate_tls_errors() -> None:
    """Empty the error queue of OpenSSL whenever a TLS connection of this process fails."""
    # Travels to nodes as source text: no names from outside, and no single quote
    import ssl
    from collections.abc import Callable

    usual = ssl.SSLContext.sslsocket_class
    if hasattr(usual, "empties_error_queue"):
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def isolated(call: Callable[..., object]) -> Callable[..., object]:
        def method(self: object, *args: object, **keywords: object) -> object:
            try:
                return call(self, *args, **keywords)
            except ssl.SSLError:  # CPython has emptied the queue for its text
                raise
            except BaseException:
                # The one call that empties the queue and needs no connection
                context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
                raise

        return method

    names = ("do_handshake", "read", "send", "unwrap", "write")
    contents: dict[str, object] = {name: isolated(getattr(usual, name)) for name in names}
    # It looks like the usual class, so that texts with a socket in them stay as they are
    contents |= {"__module__": usual.__module__, "empties_error_queue": True}
    ssl.SSLContext.sslsocket_class = type(usual.__name__, (usual,), contents)


def isolating_source() -> str:
    """Return Python source that isolates TLS errors in a process that may lack this package."""
    return call_source(isolate_tls_errors)


def isolating_plugin() -> Any:
    """Return a worker plugin that isolates TLS errors in a process that a nanny starts."""
    from distributed.diagnostics.plugin import WorkerPlugin

    class Isolating(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            isolate_tls_errors()

    return Isolating()
