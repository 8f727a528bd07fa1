"""A session's numbered log: what was sent to it and is not acknowledged yet.

Numbers start at 1 and have no holes. An acknowledgement trims the log, a size trims it for clients
that never acknowledge, and a resume replays what is left or learns that something is missing. It
does not know messages, connections or time.
"""

from __future__ import annotations

from mypy_extensions import mypyc_attr


@mypyc_attr(serializable=True, allow_interpreted_subclasses=True)
class Outbox:
    """Encoded messages by number; `held_bytes` is what a resume could still replay."""

    __slots__ = ("_log", "_max_bytes", "_max_messages", "held_bytes", "seq", "trimmed")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.seq = 0
        """Number of the last message."""
        self.trimmed = 0
        """Number of the last message that can no longer be replayed."""
        self.held_bytes = 0
        # A dict, because an empty deque costs ten times as much and most sessions are idle.
        self._log: dict[int, bytes] = {}
        self._max_messages = max_messages
        self._max_bytes = max_bytes

    def append(self, payload: bytes) -> None:
        """Put the message with number `seq + 1` into the log; the oldest give way to the size."""
        self.seq += 1
        self._log[self.seq] = payload
        self.held_bytes += len(payload)
        while len(self._log) > self._max_messages or self.held_bytes > self._max_bytes:
            self.ack(self.trimmed + 1)

    def ack(self, seq: int) -> bool:
        """Forget everything up to `seq`; False for a number that was never sent."""
        if seq > self.seq:
            return False
        while self.trimmed < seq:
            self.trimmed += 1
            self.held_bytes -= len(self._log.pop(self.trimmed))
        return True

    def since(self, seq: int) -> list[bytes] | None:
        """Messages after `seq`, in order; None when one of them is gone or `seq` was never sent."""
        if not self.trimmed <= seq <= self.seq:
            return None
        return [self._log[number] for number in range(seq + 1, self.seq + 1)]
