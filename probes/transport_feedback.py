"""Transport-wide congestion feedback: what a receiver tells a sender of arrival times. Pure.

As in draft-holmer-rmcat-transport-wide-cc-extensions-01, section 3.1. A libwebrtc sender that gets
it probes the link and knows within a second or two what it carries; from REMB alone it does not.
"""

from __future__ import annotations

from struct import pack

EXTENSION_URI = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
INTERVAL_S = 0.05
MAX_SPAN = 1024
"""Sequence numbers in one packet; a larger gap begins anew behind it."""
_RTPFB, _FORMAT = 205, 15
_TICKS_PER_S = 4000
_TICKS_PER_REFERENCE = 256
_SYMBOLS_PER_CHUNK = 7
_LOST, _SMALL, _LARGE = 0, 1, 2


class ArrivalLog:
    """The packets that came since the last feedback."""

    def __init__(self) -> None:
        self._arrivals: dict[int, int] = {}
        """Ticks of 250 us by unwrapped sequence number."""
        self._highest: int | None = None
        self._base: int | None = None
        """First sequence number of the next feedback."""
        self._sent_at = 0.0
        self._feedbacks = 0

    def add(self, sequence: int, at_s: float) -> None:
        """A packet with this 16-bit number came; what was reported as lost stays lost."""
        number = self._unwrap(sequence)
        if self._base is None or number - self._base >= MAX_SPAN:
            self._arrivals.clear()
            self._base = number
        if number >= self._base:
            self._arrivals[number] = int(at_s * _TICKS_PER_S)

    def is_due(self, at_s: float) -> bool:
        return bool(self._arrivals) and at_s - self._sent_at >= INTERVAL_S

    def feedback(self, sender_ssrc: int, media_ssrc: int, at_s: float) -> bytes:
        """The RTCP packet about everything since the last one; call it when `is_due`."""
        last = max(self._arrivals)
        base = self._base if self._base is not None else last
        first = min(self._arrivals)
        reference = self._arrivals[first] // _TICKS_PER_REFERENCE
        symbols, deltas = self._statuses(range(base, last + 1), reference * _TICKS_PER_REFERENCE)
        body = pack("!HH", base & 0xFFFF, len(symbols))
        body += (reference & 0xFFFFFF).to_bytes(3) + bytes([self._feedbacks & 0xFF])
        body += _chunks(symbols) + deltas
        body += bytes(-len(body) % 4)
        self._arrivals.clear()
        self._base, self._sent_at = last + 1, at_s
        self._feedbacks += 1
        header = pack("!BBHLL", 0x80 | _FORMAT, _RTPFB, 2 + len(body) // 4, sender_ssrc, media_ssrc)
        return header + body

    def _statuses(self, numbers: range, ticks: int) -> tuple[list[int], bytes]:
        symbols, deltas = [], b""
        for number in numbers:
            arrival = self._arrivals.get(number)
            if arrival is None:
                symbols.append(_LOST)
                continue
            delta = max(-(2**15), min(arrival - ticks, 2**15 - 1))
            ticks += delta
            is_small = 0 <= delta <= 0xFF
            symbols.append(_SMALL if is_small else _LARGE)
            deltas += pack("!B" if is_small else "!h", delta)
        return symbols, deltas

    def _unwrap(self, sequence: int) -> int:
        if self._highest is None:
            self._highest = sequence
            return sequence
        ahead = (sequence - self._highest + 0x8000) % 0x10000 - 0x8000
        number = self._highest + ahead
        self._highest = max(self._highest, number)
        return number


def _chunks(symbols: list[int]) -> bytes:
    """Status vector chunks of two-bit symbols."""
    found = b""
    for start in range(0, len(symbols), _SYMBOLS_PER_CHUNK):
        chunk = 0b11 << 14
        for place, symbol in enumerate(symbols[start : start + _SYMBOLS_PER_CHUNK]):
            chunk |= symbol << (12 - 2 * place)
        found += pack("!H", chunk)
    return found
