"""Report the events of a cluster to the log, to the caller's functions and to Dask's clients."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from ips_dask_cluster.errors import StepError
from ips_dask_cluster.slurm.allocation import Allocation
from ips_dask_cluster.steps.failures import Loss

__all__ = ["TOPIC", "Reports"]

logger = logging.getLogger("ips_dask_cluster")

TOPIC = "ips-dask-cluster"
"""Dask topic of the events, for ``client.subscribe_topic(TOPIC, function)``."""


class Reports:
    """The events of a cluster so far, each reported once.

    ``callbacks`` are the caller's functions ``loss``, ``failure`` and ``walltime``; ``send`` passes
    an event, which is a dict, on to Dask's clients.
    """

    def __init__(
        self,
        callbacks: Mapping[str, Callable[[Any], None] | None],
        send: Callable[[dict[str, Any]], None],
    ) -> None:
        self.losses: list[Loss] = []
        self.failure: StepError | None = None
        self._callbacks = callbacks
        self._send = send

    def loss(self, loss: Loss) -> None:
        """Report the loss of a worker or a node."""
        self.losses.append(loss)
        logger.log(logging.WARNING if loss.worker else logging.ERROR, "%s", loss)
        self._call("loss", loss)
        self._send({"event": "loss", **asdict(loss)})

    def fail(self, error: StepError, aloud: bool) -> None:
        """Store why the cluster cannot continue; the first reason is kept.

        ``aloud`` also reports it; it is False during the start, when the caller gets the error
        raised.
        """
        first, self.failure = self.failure is None, self.failure or error
        if first and aloud:
            logger.error("%s", error)
            self._call("failure", error)

    def walltime(self, allocation: Allocation, left: float) -> None:
        """Report that the allocation ends in ``left`` seconds."""
        logger.warning("%s ends in %.0f s", allocation, left)
        self._call("walltime", left)
        self._send({"event": "walltime", "seconds": left})

    @property
    def went_wrong(self) -> bool:
        """Whether the logs should be kept."""
        return self.failure is not None or any(not loss.worker for loss in self.losses)

    def _call(self, what: str, value: Any) -> None:
        callback = self._callbacks[what]
        if callback is None:
            return
        try:
            callback(value)
        except Exception:  # an error of the caller's function must not stop the recovery
            logger.exception("on_%s raised", what)
