"""Tracks that send encoded packets of a chosen size: traffic shaped like a call, without a codec.

The bytes mean nothing; only their number, spacing and loss are looked at.
"""

from __future__ import annotations

import asyncio
import time
from fractions import Fraction

import av
from aiortc import MediaStreamTrack

AUDIO_BYTES = 80
"""20 ms of Opus at 32 kbit/s."""
_AUDIO_EVERY_S = 0.02
_VIDEO_EVERY_S = 1 / 30
_VP8_KEY_FRAME = bytes([0x10, 0x02, 0x00, 0x9D, 0x01, 0x2A])
_AUDIO_CLOCK, _VIDEO_CLOCK = 48_000, 90_000


class _Paced(MediaStreamTrack):  # type: ignore[misc]  # aiortc has no types here
    """A packet every so often; late ones are not made up for."""

    def __init__(self, every_s: float, clock_rate: int) -> None:
        super().__init__()
        self._every_s = every_s
        self._clock_rate = clock_rate
        self._next = time.monotonic()
        self._began = self._next

    async def recv(self) -> av.Packet:
        now = time.monotonic()
        self._next = max(self._next + self._every_s, now - self._every_s)
        if self._next > now:
            await asyncio.sleep(self._next - now)
        packet = av.Packet(self._payload())
        packet.pts = int((self._next - self._began) * self._clock_rate)
        packet.time_base = Fraction(1, self._clock_rate)
        return packet

    def _payload(self) -> bytes:
        raise NotImplementedError


class Sound(_Paced):
    kind = "audio"

    def __init__(self) -> None:
        super().__init__(_AUDIO_EVERY_S, _AUDIO_CLOCK)

    def _payload(self) -> bytes:
        return bytes(AUDIO_BYTES)


class Picture(_Paced):
    """30 frames a second of `rate_bps` together, which may change at any time."""

    kind = "video"

    def __init__(self, rate_bps: float) -> None:
        super().__init__(_VIDEO_EVERY_S, _VIDEO_CLOCK)
        self.rate_bps = rate_bps

    def _payload(self) -> bytes:
        size = max(int(self.rate_bps * self._every_s / 8), len(_VP8_KEY_FRAME))
        return _VP8_KEY_FRAME.ljust(size, b"\x00")
