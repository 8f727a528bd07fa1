"""Packets of a track to its frames, for a receiver that plays nothing. Pure: its clock is RTP's.

aiortc's own buffer waits for a lost packet until hundreds more have come, which at the rate of a
thin link is forever. It does not know codecs.
"""

from __future__ import annotations

from aiortc.jitterbuffer import JitterFrame
from aiortc.rtp import RtpPacket

WAIT_TICKS = 27_000
"""0.3 s of video's clock: what was sent again has come by then, or comes too late for a call."""
MOST_PACKETS = 1024
"""Held at the same time; further ahead begins anew."""


class VideoFrames:
    """In the place of aiortc's `JitterBuffer`: frames in order, none that misses a packet."""

    def __init__(self) -> None:
        self._held: dict[int, RtpPacket] = {}
        """By sequence number, which here does not wrap."""
        self._next: int | None = None
        """The first number that is not done with."""

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        """Whether a picture was lost just now, and the first frame that is whole.

        A packet brings one frame at most: frames of one packet each stay late after a wait.
        """
        if self._next is None:
            self._next = packet.sequence_number
        number = self._next + _signed(packet.sequence_number - self._next, 16)
        if number < self._next:
            return False, None
        is_lost = number - self._next >= MOST_PACKETS
        if is_lost:
            self._held.clear()
            self._next = number
        self._held[number] = packet
        frame = self._whole()
        while frame is None and self._is_overdue(packet.timestamp):
            is_lost = True
            self._give_up()
            frame = self._whole()
        return is_lost, frame

    def _whole(self) -> JitterFrame | None:
        """The frame that begins at `_next`, once its last packet and all before are there."""
        first = last = self._first
        while last in self._held and not self._held[last].marker:
            last += 1
        if last not in self._held:
            return None
        self._next = last + 1
        packets = [self._held.pop(number) for number in range(first, last + 1)]
        timestamp = packets[-1].timestamp
        # Before a frame there may be padding, which has the timestamp of the frame before.
        own = [one._data for one in packets if one.timestamp == timestamp]  # noqa: SLF001
        return JitterFrame(b"".join(own), timestamp)

    def _is_overdue(self, newest: int) -> bool:
        if not self._held:
            return False
        oldest = self._held[min(self._held)].timestamp
        return _signed(newest - oldest, 32) > WAIT_TICKS

    def _give_up(self) -> None:
        """On the frame that begins at `_next`, and on the packets missing after it."""
        number = self._first
        while self._held.pop(number, None) is not None:
            number += 1
        self._next = min(self._held, default=number)

    @property
    def _first(self) -> int:
        assert self._next is not None
        return self._next


class SoundFrames:
    """The same for sound, of which each packet is a frame: none waits for another."""

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        return False, JitterFrame(packet._data, packet.timestamp)  # noqa: SLF001


def _signed(difference: int, bits: int) -> int:
    """Of numbers that wrap, the shorter way round."""
    half = 1 << (bits - 1)
    return (difference + half) % (2 * half) - half
