"""Messages on their way to a process that may not be reading.

A component whose code holds Python's lock for an hour, in Fortran say, reads nothing meanwhile; a
pipe takes some 200 KB, and then who writes waits.
"""

from __future__ import annotations

import threading
from collections import deque

from ips_core.ipc.messages import Channel

__all__ = ["Outbox"]

_SMALL = 16_384  # a pipe that can be written to at all has room for so many bytes


class Outbox:
    """Sends messages in their order, and never waits for who reads them.

    A thread waits instead, as long as there is something to wait for.

    Parameters
    ----------
    channel : Channel
        To the process; who closes it ends the thread.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._draining = False

    def send(self, message: object) -> None:
        """Send a message, now or as soon as there is room.

        Raises
        ------
        OSError
            The process is gone; it may also be noticed later, and then nothing is said.
        """
        data = Channel.packed(message)
        with self._lock:
            if not self._draining and len(data) <= _SMALL and self._channel.has_room():
                self._channel.send_packed(data)
                return
            self._waiting.append(data)
            if not self._draining:
                self._draining = True
                threading.Thread(target=self._drain, name="ips-outbox", daemon=True).start()

    def _drain(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._draining = False
                    return
                data = self._waiting.popleft()
            try:
                self._channel.send_packed(data)
            except (
                OSError,
                TypeError,
            ):  # it is gone; the second if the channel is closed meanwhile
                with self._lock:
                    self._waiting.clear()
