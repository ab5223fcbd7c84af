"""Kill what a dead worker leaves behind in a container that would go on for it.

The code travels as source text in the node scripts, since a container need not have this package.
"""

from __future__ import annotations

import inspect

from ips_dask_cluster.containers import Container, PodmanHPC

__all__ = ["reaper_source"]


def reaper_source(container: Container | None) -> str:
    """Return Python source that makes the worker the child of a process that reaps for it.

    conmon, which watches a podman container, waits for every process that the container started,
    and ``podman run`` for conmon: with the host's process numbers (``--pid=host``) no kernel kills
    them with the first one. A worker that is killed while a program of its tasks runs would never
    be seen to end. The other tools end with the worker, so that the source is empty for them.

    It has no single quote, so that it may stand between two of them in a script.

    Parameters
    ----------
    container : Container or None
        What the worker runs in.
    """
    if not isinstance(container, PodmanHPC):
        return ""
    return inspect.getsource(_reap_after) + "_reap_after()\ndel _reap_after\n"


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
