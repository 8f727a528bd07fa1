"""A session's numbered log: what was sent to it and is not acknowledged yet.

Numbers start at 1 and have no holes. An acknowledgement trims the log, a size trims it for clients
that never acknowledge, and a resume replays what is left or learns that something is missing. It
does not know messages, connections or time.
"""

from __future__ import annotations

from collections import deque
from itertools import islice


class Outbox:
    """Encoded messages by number; `held_bytes` is what a resume could still replay."""

    __slots__ = ("_log", "_max_bytes", "_max_messages", "held_bytes", "seq")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.seq = 0
        """Number of the last message."""
        self.held_bytes = 0
        self._log: deque[bytes] = deque()
        self._max_messages = max_messages
        self._max_bytes = max_bytes

    @property
    def next_seq(self) -> int:
        """The number that the next message must carry."""
        return self.seq + 1

    @property
    def trimmed(self) -> int:
        """Number of the last message that can no longer be replayed."""
        return self.seq - len(self._log)

    def append(self, payload: bytes) -> None:
        """Put the message with `next_seq` into the log; the oldest give way to the size."""
        self.seq += 1
        self._log.append(payload)
        self.held_bytes += len(payload)
        while len(self._log) > self._max_messages or self.held_bytes > self._max_bytes:
            self.held_bytes -= len(self._log.popleft())

    def ack(self, seq: int) -> bool:
        """Forget everything up to `seq`; False for a number that was never sent."""
        if seq > self.seq:
            return False
        for _ in range(seq - self.trimmed):
            self.held_bytes -= len(self._log.popleft())
        return True

    def since(self, seq: int) -> list[bytes] | None:
        """Messages after `seq`, in order; None when one of them is gone or `seq` was never sent."""
        if not self.trimmed <= seq <= self.seq:
            return None
        return list(islice(self._log, seq - self.trimmed, None))
