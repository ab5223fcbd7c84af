"""Send messages to a process that may not be reading.

A component whose code holds Python's global lock for an hour, in Fortran for example, reads nothing
in that time; a pipe takes about 200 KB, then its writer blocks.
"""

from __future__ import annotations

import threading
from collections import deque

from ips_core.ipc.messages import Channel

__all__ = ["Outbox"]

_SMALL = 16_384  # bytes that fit into any pipe that poll() calls writable


class Outbox:
    """Send messages in order without blocking on a slow reader.

    While the pipe is full, a thread does the writing; closing the channel ends the thread.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._draining = False

    def send(self, message: object) -> None:
        """Send a message now or, from the thread, as soon as the pipe has room.

        Raise OSError if the process is known to be gone; a later failure drops the messages
        silently.
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
            except (OSError, TypeError):
                # The process is gone, or (TypeError) another thread has closed the channel.
                with self._lock:
                    self._waiting.clear()
