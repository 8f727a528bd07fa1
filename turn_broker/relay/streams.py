"""TURN over TCP: one protocol object per connection, with deadlines and a bounded write buffer.

Knows frames and the clock of its relay, nothing about TURN. A client that sends half a frame, stays
silent without an allocation, or does not read, is cut.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from turn_broker.relay.authentication import Flow, Now
from turn_broker.relay.framing import MAX_FRAME, StreamFrames, stream_frame
from turn_broker.relay.settings import RelaySettings


class StreamOwner(Protocol):
    """The relay, as a connection sees it."""

    settings: RelaySettings

    def now(self) -> Now:
        """Both clocks."""

    def stream_opened(self, stream: ClientStream) -> bool:
        """Whether there is room for one more connection."""

    def stream_closed(self, stream: ClientStream) -> None:
        """The connection is gone."""

    def frame_received(self, flow: Flow, frame: bytes, now: Now) -> None:
        """A whole frame from the client."""

    def holds(self, flow: Flow) -> bool:
        """Whether the client has an allocation."""


class ClientStream(asyncio.Protocol):
    """One TCP client."""

    def __init__(self, owner: StreamOwner) -> None:
        self._owner = owner
        self._frames = StreamFrames()
        self._transport: asyncio.Transport | None = None
        self._active_at = 0.0
        self._spoken = False
        self._partial_since: float | None = None
        self._stalled_since: float | None = None
        self.flow = Flow("tcp", "", 0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self._transport = transport
        self._active_at = self._owner.now().monotonic
        address = transport.get_extra_info("peername")
        if address:
            self.flow = Flow("tcp", address[0], address[1])
        if not address or not self._owner.stream_opened(self):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.stream_closed(self)

    def data_received(self, data: bytes) -> None:
        frames, now = self._frames, self._owner.now()
        frames.feed(data)
        while (frame := frames.next()) is not None:
            self._spoken = True
            self._active_at = now.monotonic
            self._partial_since = None
            self._owner.frame_received(self.flow, frame, now)
            if frames.max_frame != MAX_FRAME and self._owner.holds(self.flow):
                frames.max_frame = MAX_FRAME
        if frames.lost:
            self.cut()
        elif frames.partial and self._partial_since is None:
            self._partial_since = now.monotonic

    def send(self, payload: bytes) -> bool:
        """Sends one frame, or drops it when the client has not read what came before."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        if transport.get_write_buffer_size() > self._owner.settings.max_write_buffer:
            if self._stalled_since is None:
                self._stalled_since = self._owner.now().monotonic
            return False
        self._stalled_since = None
        transport.write(stream_frame(payload))
        return True

    def overdue(self, now: float) -> bool:
        """Whether a deadline has passed."""
        settings = self._owner.settings
        if _older(self._partial_since, now, settings.frame_deadline):
            return True
        if _older(self._stalled_since, now, settings.stall_deadline):
            assert self._transport is not None
            return self._transport.get_write_buffer_size() > settings.max_write_buffer
        if self._owner.holds(self.flow):
            return False
        deadline = settings.idle_deadline if self._spoken else settings.frame_deadline
        return _older(self._active_at, now, deadline)

    def cut(self) -> None:
        """Ends the connection without waiting for the client to read."""
        if self._transport is not None:
            self._transport.abort()


def _older(since: float | None, now: float, limit: float) -> bool:
    return since is not None and now - since > limit
