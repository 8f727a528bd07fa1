"""The framing seam: splits received bytes into whole WebSocket frames (RFC 6455 section 5).

The plain case, a final masked text frame, comes out decoded; every other frame comes out whole and
untouched, for the `websockets` library to judge. A faster splitter can take this module's place:
the conformance tests hold both to the same answers. It keeps no state between calls.
"""

from __future__ import annotations

import struct

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - the wheel of this platform has no C extension
    from websockets.utils import apply_mask


TEXT = 0x81
CLOSE = 0x88
PING = 0x89
PONG = 0x8A

BUDGET_SPENT = 0
"""In place of a length: there may be more whole frames, ask again in the next loop tick."""


def split(
    data: bytes | bytearray, position: int, budget: int, limit: int
) -> tuple[list[str | bytes], int, int]:
    """Take up to `budget` frames from `position` on.

    Returns the frames, where the rest begins, and how long the rest must get before another call
    can succeed. An unmasked or oversized frame comes out as its header alone, which is all the
    library needs to refuse it, and everything after it is dropped.
    """
    frames: list[str | bytes] = []
    end = len(data)
    while end - position >= 2:
        if not budget:
            return frames, position, BUDGET_SPENT
        length = data[position + 1]
        payload = position + 2
        if length < 128:
            frames.append(bytes(data[position:payload]))
            return frames, end, 2
        length &= 127
        if length > 125:
            width = 2 if length == 126 else 8
            if end - payload < width:
                return frames, position, 2 + width
            length = int.from_bytes(data[payload : payload + width], "big")
            payload += width
            if length > limit:
                frames.append(bytes(data[position:payload]))
                return frames, end, 2
        payload += 4
        stop = payload + length
        if stop > end:
            return frames, position, stop - position
        budget -= 1
        if data[position] == TEXT:
            try:
                frames.append(apply_mask(data[payload:stop], data[payload - 4 : payload]).decode())
            except UnicodeDecodeError:
                frames.append(bytes(data[position:stop]))
        else:
            frames.append(bytes(data[position:stop]))
        position = stop
    return frames, position, 2


def head(first: int, length: int) -> bytes:
    """Header of an unmasked server frame whose first byte is `first`."""
    if length < 126:
        return bytes((first, length))
    if length < 65536:
        return struct.pack("!BBH", first, 126, length)
    return struct.pack("!BBQ", first, 127, length)


def unmasked(frame: bytes) -> bytes:
    """Payload of a whole masked frame of at most 125 bytes."""
    return apply_mask(frame[6:], frame[2:6])


def close_payload(code: int, reason: str) -> bytes:
    """Body of a close frame; the reason is cut at a character to fit a control frame."""
    return struct.pack("!H", code) + reason.encode()[:123].decode(errors="ignore").encode()
