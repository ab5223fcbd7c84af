"""Telling what happens to a cluster: to the log, the caller's functions and Dask's clients."""

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
"""Where clients find the events: ``client.subscribe_topic(TOPIC, function)``."""


class Reports:
    """What has happened so far, each thing told once.

    Parameters
    ----------
    callbacks : mapping of str to callable or None
        The caller's functions ``loss``, ``failure`` and ``walltime``.
    send : callable
        Passes an event, a dict, on to Dask's clients.
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
        """Tell of a worker or a node that is lost."""
        self.losses.append(loss)
        logger.log(logging.WARNING if loss.worker else logging.ERROR, "%s", loss)
        self._call("loss", loss)
        self._send({"event": "loss", **asdict(loss)})

    def fail(self, error: StepError, aloud: bool) -> None:
        """Note why there is nothing left to go on with; the first reason counts.

        Parameters
        ----------
        error : StepError
            The reason.
        aloud : bool
            False while somebody waits who will get it raised.
        """
        first, self.failure = self.failure is None, self.failure or error
        if first and aloud:
            logger.error("%s", error)
            self._call("failure", error)

    def walltime(self, allocation: Allocation, left: float) -> None:
        """Tell that the allocation ends in some seconds."""
        logger.warning("%s ends in %.0f s", allocation, left)
        self._call("walltime", left)
        self._send({"event": "walltime", "seconds": left})

    @property
    def went_wrong(self) -> bool:
        """Whether the logs are worth keeping."""
        return self.failure is not None or any(not loss.worker for loss in self.losses)

    def _call(self, what: str, value: Any) -> None:
        callback = self._callbacks[what]
        if callback is None:
            return
        try:
            callback(value)
        except Exception:  # the caller's mistake must not stop us from healing
            logger.exception("on_%s raised", what)
