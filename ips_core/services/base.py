"""What all groups of services stand on: requests to the framework, events, who we are."""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import threading
import time
from typing import Any

from ips_core.errors import IPSError
from ips_core.events import component_event
from ips_core.messages import Broadcast, Channel, Emit, Failure, Reply, Request, Start

__all__ = ["ServicesBase"]

_GONE = "the framework is gone"


class ServicesBase:
    """The component's end of the pipe.

    Parameters
    ----------
    start : Start
        Who the component is.
    channel : Channel
        To the framework.
    """

    def __init__(self, start: Start, channel: Channel) -> None:
        self._start = start
        self._channel = channel
        self._request_ids = itertools.count(1)
        self._replies: dict[int, queue.SimpleQueue[Reply]] = {}
        self._replies_lock = threading.Lock()
        self.component_id = start.component_id
        self.sim_name = start.simulation.name
        self.sim_conf = start.simulation.values
        self.workdir = start.work_directory
        self.component_ref: Any = None
        self.span = ""
        config = start.simulation.components.get(start.section)
        self.full_comp_id = (
            config.full_id(start.component_id.number) if config else str(start.component_id)
        )
        self.logger = self._make_logger()

    def _make_logger(self) -> logging.Logger:
        simulation = self._start.simulation
        logger = logging.getLogger(f"ips.{self.full_comp_id}")
        logger.propagate = False
        own = self.sim_conf.get(self._start.section)
        level = own.get("LOG_LEVEL") if isinstance(own, dict) else None
        logger.setLevel(level or simulation.log_level)
        # Appending, one write a line: lines of several components never mix
        handler = logging.FileHandler(simulation.log_file, mode="a", encoding="utf-8")
        handler.setFormatter(
            logging.Formatter(f"%(asctime)s {self.full_comp_id:15} %(levelname)-8s %(message)s")
        )
        logger.addHandler(handler)
        return logger

    # -- the pipe --------------------------------------------------------------------------

    def _ask(self, service: str, *arguments: Any) -> Any:
        return self._answer(self._post(service, *arguments))

    def _post(self, service: str, *arguments: Any) -> int:
        """Send a request; its answer is taken by :meth:`_answer`, perhaps later."""
        request_id = next(self._request_ids)
        with self._replies_lock:
            self._replies[request_id] = queue.SimpleQueue()
        try:
            self._channel.send(Request(request_id, service, arguments))
        except OSError:
            raise IPSError(_GONE) from None
        return request_id

    def _answer(self, request_id: int) -> Any:
        reply = self._replies[request_id].get()
        with self._replies_lock:
            del self._replies[request_id]
        if reply.failure is not None:
            raise IPSError(reply.failure.text)
        return reply.value

    def deliver(self, reply: Reply) -> None:
        """Take an answer of the framework (called by the reader)."""
        with self._replies_lock:
            waiting = self._replies.get(reply.request_id)
        if waiting is not None:
            waiting.put(reply)

    def hang_up(self) -> None:
        """Take note that the framework is gone and answers nothing (called by the reader)."""
        with self._replies_lock:
            waiting = list(self._replies)
        for request_id in waiting:
            self.deliver(Reply(request_id, failure=Failure(_GONE)))

    def hear(self, news: Broadcast) -> None:
        """Take news for every component (called by the reader)."""

    # -- events ----------------------------------------------------------------------------

    def _emit(
        self, eventtype: str, comment: str, *, at: float | None = None, **fields: Any
    ) -> None:
        self.emit_for(self.full_comp_id, eventtype, comment, at=at, **fields)

    def emit_for(
        self, code: str, eventtype: str, comment: str, *, at: float | None = None, **fields: Any
    ) -> None:
        """Send an event in the name of a component (of the cluster keeper: in that of another)."""
        event = component_event(
            code,
            eventtype,
            comment,
            at=time.time() if at is None else at,
            started=self._start.start_time,
            **fields,
        )
        with contextlib.suppress(OSError):  # the framework is gone: nobody writes a log
            self._channel.send(Emit(event))

    def broadcast(self, topic: str, body: Any) -> None:
        """Tell every component something; their :meth:`hear` takes it."""
        self._channel.send(Broadcast(topic, body))

    def cleanup(self) -> None:
        """Give back what the component still holds."""
        logging.shutdown()
