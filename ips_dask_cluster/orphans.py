"""Kill the processes that a dead worker leaves in a container that would wait for them.

The code is sent as source text in the node scripts, since a container may lack this package.
"""

from __future__ import annotations

from ips_dask_cluster.containers import Container, PodmanHPC
from ips_dask_cluster.scripts import call_source

__all__ = ["reaper_source"]


def reaper_source(container: Container | None) -> str:
    """Return Python source that makes the worker the child of a process that kills its orphans.

    conmon, which watches a podman container, waits for every process that the container started,
    and ``podman run`` waits for conmon. With the host's process ids (``--pid=host``), the kernel
    does not kill these processes when the first one ends, so a worker that is killed while a
    program of its tasks runs would seem to run on. Containers of the other tools end with the
    worker; for them the source is empty.

    The source has no single quote, so that a script can put it between two of them.
    """
    if not isinstance(container, PodmanHPC):
        return ""
    return call_source(_reap_after)


def _reap_after() -> None:
    # Runs in containers, in any Python 3: no names from outside, and no single quote
    import ctypes
    import os
    import signal

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans become our children
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # none gets lost meanwhile
    worker = os.fork()
    if worker:
        for number in signals:
            signal.signal(number, lambda received, _: os.kill(worker, received))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if not worker:
        return
    os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)  # not reaped yet, so still its number
    for number in signals:
        signal.signal(number, signal.SIG_IGN)
    _, status = os.waitpid(worker, 0)
    try:
        while True:  # children of what is killed become ours in turn
            for name in filter(str.isdigit, os.listdir("/proc")):
                try:
                    with open(f"/proc/{name}/stat", "rb") as file:
                        parent = file.read().rpartition(b")")[2].split()[1]
                    if int(parent) == os.getpid():
                        os.kill(int(name), signal.SIGKILL)
                except OSError:  # it has ended
                    continue
            os.wait()
    except ChildProcessError:
        pass
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))
