"""STUN messages and ChannelData in a TCP byte stream (RFC 8656 section 3.7, 12.5).

Pure. Keeps at most one incomplete frame of a bounded size; bytes that cannot start a frame mean
that the stream is lost, which is said once and for good.
"""

from __future__ import annotations

from turn_broker.relay.stun import HEADER_SIZE, MAGIC_COOKIE

_COOKIE = MAGIC_COOKIE.to_bytes(4)
MAX_FRAME = 65_535 + HEADER_SIZE
UNKNOWN_CLIENT_MAX_FRAME = 2_048
"""Enough for every request; larger frames carry data, and data needs an allocation."""


class StreamFrames:
    """Cuts a stream into frames, ChannelData without its padding."""

    __slots__ = ("_buffer", "_lost", "max_frame")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._lost = False
        self.max_frame = UNKNOWN_CLIENT_MAX_FRAME

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._buffer)

    def feed(self, chunk: bytes) -> None:
        """Takes what the socket gave; call `next` until it returns None."""
        if not self._lost:
            self._buffer += chunk

    def next(self) -> bytes | None:
        """The next whole frame, if there is one."""
        size = self._frame_size()
        if size is None:
            return None
        padded = size + -size % 4
        if len(self._buffer) < padded:
            return None
        frame = bytes(self._buffer[:size])
        del self._buffer[:padded]
        return frame

    @property
    def lost(self) -> bool:
        """Whether the stream made no sense or asked for too large a frame."""
        return self._lost

    def _frame_size(self) -> int | None:
        buffer = self._buffer
        if len(buffer) < 4:
            if buffer and buffer[0] & 0x80:
                self._lose()
            return None
        length = buffer[2] << 8 | buffer[3]
        leading = buffer[0] & 0xC0
        if leading == 0x40:
            size = 4 + length
        else:
            size = HEADER_SIZE + length
            cookie = buffer[4:8]
            if leading or length % 4 or not _COOKIE.startswith(cookie):
                self._lose()
                return None
        if size > self.max_frame:
            self._lose()
            return None
        return size

    def _lose(self) -> None:
        self._lost = True
        self._buffer.clear()


def stream_frame(message: bytes) -> bytes:
    """A message as it goes into a stream: padded to four bytes."""
    rest = -len(message) % 4
    return message + bytes(rest) if rest else message
