"""Lock the nodes of an allocation, so that no two clusters share one by accident.

The clusters of all drivers on this host claim nodes by binding abstract sockets (unix(7)): no other
process can bind the same name, and the kernel frees the name when the driver dies. Clusters of
drivers on other hosts are found by the names and nodes of their steps.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import resource
import socket
import time
import zlib
from functools import cache
from weakref import WeakSet

from ips_dask_cluster.errors import ClusterError, NotEnoughNodesError, SlurmCommandError
from ips_dask_cluster.slurm.allocation import Allocation
from ips_dask_cluster.slurm.lookup import nodes_of_steps

__all__ = ["Claims"]

logger = logging.getLogger("ips_dask_cluster")

_STEP_NAME = re.compile(r"(?P<cluster>.*)-worker-\d+")
#: Seconds that the steps of a driver that has just died, such as a restarted notebook, may take to
#: end.
_LEFTOVER_SECONDS = 8.0

_all: WeakSet[Claims] = WeakSet()


class Claims:
    """The nodes that one cluster has claimed, and those that other clusters have.

    Without a job id nothing is claimed, since every "node" is this machine. Raises ``ClusterError``
    if a cluster of the same name runs in the job already.
    """

    def __init__(self, job_id: str | None, cluster: str) -> None:
        self.job_id = job_id
        self._held: dict[str, socket.socket] = {}
        self._elsewhere: set[str] = set()
        _all.add(self)
        _close_in_children()
        if job_id is not None and not self._bind(f"cluster {cluster}"):
            raise ClusterError(f"a cluster named {cluster!r} runs in Slurm job {job_id} already")

    def _name(self, what: str) -> str:
        # Tests run several Slurms on one host, whose job ids may be equal
        slurm = zlib.crc32(os.environ.get("SLURM_CONF", "").encode())
        return f"\0ips-dask {os.getuid()} {slurm:x} {self.job_id} {what}"

    def _bind(self, what: str) -> bool:
        claim = _socket()
        try:
            claim.bind(self._name(what))
        except OSError:
            claim.close()
            return False
        self._held[what] = claim
        return True

    def take(self, node: str) -> bool:
        """Claim a node and return whether this cluster has it."""
        if self.holds(node):
            return True
        return node not in self._elsewhere and self._bind(f"node {node}")

    def take_nodes(self, allocation: Allocation, wanted: int | None) -> list[str]:
        """Claim nodes for the start of a cluster and return their names.

        ``wanted`` is their number; None claims all that no other cluster has, and logs a warning if
        others have some. Raises ``NotEnoughNodesError`` if there are fewer.
        """
        self.look_elsewhere(_LEFTOVER_SECONDS)
        claimed: list[str] = []
        for node in allocation.nodes:
            if len(claimed) != wanted and self.take(node.name):
                claimed.append(node.name)
        held, least = len(allocation.nodes), 1 if wanted is None else wanted
        if len(claimed) < least:
            raise NotEnoughNodesError(least, len(claimed), held, str(allocation))
        if wanted is None and len(claimed) < held:
            logger.warning(
                "%d of the %d nodes of %s run workers of another cluster; this one takes %s",
                held - len(claimed),
                held,
                allocation,
                ", ".join(claimed),
            )
        return claimed

    def holds(self, node: str) -> bool:
        """Return whether this cluster has claimed a node."""
        return self.job_id is None or f"node {node}" in self._held

    def give_back(self, node: str) -> None:
        """Release the claim on a node, so that other clusters may claim it."""
        with contextlib.suppress(KeyError):
            self._held.pop(f"node {node}").close()

    def close(self) -> None:
        """Release all claims."""
        for claim in self._held.values():
            claim.close()
        self._held.clear()

    def is_free(self, node: str) -> bool:
        """Return whether no other cluster has claimed a node."""
        if self.holds(node):
            return True
        return node not in self._elsewhere and not self._is_bound(f"node {node}")

    def look_elsewhere(self, patience: float = 0.0) -> None:
        """Ask Slurm which nodes the clusters of drivers on other hosts have.

        It waits up to ``patience`` seconds for the steps of a driver that has just died to end. If
        squeue is missing or fails, such clusters stay unknown.
        """
        if self.job_id is None:
            return
        deadline = time.monotonic() + patience
        while True:
            try:
                steps = nodes_of_steps(self.job_id)
            except SlurmCommandError as error:
                logger.debug("other clusters of the job are not known: %s", error)
                return
            self._elsewhere = {
                node
                for name, nodes in steps.items()
                if (match := _STEP_NAME.fullmatch(name)) and not self._is_here(match["cluster"])
                for node in nodes
            }
            if not self._elsewhere or time.monotonic() > deadline:
                return
            time.sleep(0.5)

    def _is_here(self, cluster: str) -> bool:
        """Return whether a driver on this host runs that cluster; sockets then claim its nodes."""
        return self._is_bound(f"cluster {cluster}")

    def _is_bound(self, what: str) -> bool:
        # Connecting does not disturb another process; a trial bind could make its bind fail
        with _socket() as probe:
            return probe.connect_ex(self._name(what)) == 0


def _socket() -> socket.socket:
    try:
        return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        raise ClusterError(
            f"each node of a cluster needs an open file, but this process may have only {most}; "
            "raise the limit (ulimit -n) before it starts"
        ) from None


@cache
def _close_in_children() -> None:
    """Make forked children of a driver, such as multiprocessing's pools, close their claims."""

    def close_all() -> None:
        for claims in list(_all):
            claims.close()

    os.register_at_fork(after_in_child=close_all)
