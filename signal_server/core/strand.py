"""What the candidate buffer remembers of one ICE session, and of each candidate that waits.

Plain records; `core.candidate_buffer` keeps them true. It does not know descriptions or time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from zlib import adler32, crc32

from mypy_extensions import mypyc_attr

from signal_server.wire.candidate import CandidateInit

_ITEM_OVERHEAD = 100
"""Bytes charged per held item beside its text."""

Section = str | int | None
"""An m-section by mid, by index where the mid is not known; None: all of them."""


@mypyc_attr(serializable=True, allow_interpreted_subclasses=True)
@dataclass(slots=True)
class Strand:
    """All candidates of one ufrag: what RFC 8838 calls one ICE session's."""

    seen: set[int] = field(default_factory=set)
    ended: set[Section] = field(default_factory=set)
    ended_at: int | None = None
    """Latest negotiation when end-of-candidates came for all m-sections."""
    held: int = 0
    held_bytes: int = 0


@mypyc_attr(serializable=True, allow_interpreted_subclasses=True)
@dataclass(slots=True)
class Held:
    """One that waits."""

    candidate: CandidateInit
    ufrag: str
    size: int
    expires_at: float
    ends: frozenset[str]
    """Ufrags that it ends, where it is an end-of-candidates."""
    ref: str | int | None = None
    """The request that brought it, where its sender wants receipts."""


def key_of(candidate: CandidateInit) -> int:
    """What makes two candidates of a strand the same: 64 bits, the same ones on every node."""
    text = f"{candidate.sdpMid}\0{candidate.sdpMLineIndex}\0{candidate.candidate}"
    raw = text.encode("utf-8", "surrogatepass")
    return crc32(raw) << 32 | adler32(raw)


def size_of(candidate: CandidateInit, ufrag: str) -> int:
    """Bytes that holding it costs."""
    text = len(candidate.candidate or "") + len(candidate.sdpMid or "") + len(ufrag)
    return text + _ITEM_OVERHEAD
