"""Candidates of one sender for one receiver, held until they can be used.

The invariant: no candidate leaves before the description that carries its ufrag and mid; none is
lost, repeated or reordered within its m-section inside the limits; end-of-candidates leaves last.
An item is early (its description has not passed), gated (the receiver has not applied it) or out.
It is told the time, and does not know peers, sockets or negotiation rules: `core.negotiation` tells
it which descriptions passed, were applied, settled or were rolled back.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from signal_server.core.tally import Tally
from signal_server.wire.candidate import CandidateInit
from signal_server.wire.codes import ErrorCode
from signal_server.wire.limits import Limits
from signal_server.wire.sdp import Outline

_UNNAMED = ""
"""Key of the strand whose candidates came without a ufrag before any description."""
_REMEMBERED_RETIRED = 16
_ENDS_BEYOND_LIMIT = 64
"""A full generation can still be ended, once per m-section."""
_ITEM_OVERHEAD = 100
"""Bytes charged per held item beside its text."""


@dataclass(slots=True)
class _Strand:
    """All candidates of one ufrag: what RFC 8838 calls one ICE session's."""

    opened: int = 0
    """Negotiation whose description first named this ufrag; 0 = none has passed."""
    mids: dict[str, int] = field(default_factory=dict)
    """Each mid with the negotiation that first described it under this ufrag."""
    by_index: tuple[str | None, ...] = ()
    any_mid: bool = False
    """The description names no mids, so they cannot be checked."""
    seen: set[int] = field(default_factory=set)
    ended_mids: set[str] = field(default_factory=set)
    ended_at: int | None = None
    """Latest negotiation when end-of-candidates came for all mids."""
    held_bytes: int = 0

    def described_by(self, candidate: CandidateInit) -> int | None:
        """Negotiation that described this candidate's m-section; None when none has."""
        if not self.opened:
            return None
        mid = candidate.sdpMid
        if mid is None and candidate.sdpMLineIndex is not None:
            if not 0 <= candidate.sdpMLineIndex < len(self.by_index):
                return None
            mid = self.by_index[candidate.sdpMLineIndex]
        if mid is None or self.any_mid:
            return self.opened
        return self.mids.get(mid)

    def has_ended(self, candidate: CandidateInit) -> bool:
        """End-of-candidates was said for this m-section (RFC 8838 section 13)."""
        if candidate.sdpMid is not None and candidate.sdpMid in self.ended_mids:
            return True
        if self.ended_at is None:
            return False
        if not self.opened:
            return True
        described = self.described_by(candidate)
        return described is not None and described <= max(self.ended_at, self.opened)

    def end(self, candidate: CandidateInit, latest: int) -> None:
        if candidate.sdpMid is not None:
            self.ended_mids.add(candidate.sdpMid)
        else:
            self.ended_at = latest


@dataclass(slots=True)
class _Held:
    candidate: CandidateInit
    ufrag: str
    size: int
    expires_at: float


class CandidateBuffer:
    """See the module's text; `gated` is the receiver's choice in its hello."""

    __slots__ = (
        "_applied",
        "_gated",
        "_gates",
        "_held",
        "_latest",
        "_limits",
        "_open",
        "_retired",
        "_settled",
        "_strands",
        "_tally",
        "_ufrag_of_mid",
        "_wild",
        "is_scheduled",
    )  # fmt: skip

    def __init__(self, limits: Limits, tally: Tally, *, gated: bool) -> None:
        self._limits = limits
        self._tally = tally
        self._gated = gated
        self.is_scheduled = False
        """Its owner has put `next_deadline` on the agenda."""
        self._strands: dict[str, _Strand] = {}
        self._held: list[_Held] = []
        self._retired: deque[str] = deque(maxlen=_REMEMBERED_RETIRED)
        self._settled: frozenset[str] = frozenset()
        self._open: dict[int, frozenset[str]] = {}
        self._latest = 0
        self._ufrag_of_mid: dict[str | None, str] = {}
        self._wild = 0
        """Latest negotiation whose description names no ICE at all: it vouches for everything."""
        self._applied = 0
        self._gates: list[tuple[int, float]] = []

    # What is told to it ---------------------------------------------------------------------

    def describe(self, negotiation: int, outline: Outline, now: float) -> None:
        """The sender's description of this negotiation has been put into the receiver's log."""
        self._latest = negotiation
        if self._gated and negotiation > self._applied:
            self._ungate(negotiation)
            self._gates.append((negotiation, now + self._limits.gate_timeout_s))
        if not outline.names_ice:
            self._wild = negotiation
            return
        named = frozenset(ufrag for ufrag in outline.ufrags if ufrag)
        self._open[negotiation] = named
        self._ufrag_of_mid.clear()
        self._ufrag_of_mid[None] = next(ufrag for ufrag in outline.ufrags if ufrag)
        for name in named:
            strand = self._strands.setdefault(name, _Strand())
            strand.opened = strand.opened or negotiation
            strand.by_index = outline.mids
        for mid, ufrag in zip(outline.mids, outline.ufrags, strict=True):
            if ufrag and mid is not None:
                self._ufrag_of_mid[mid] = ufrag
                self._strands[ufrag].mids.setdefault(mid, negotiation)
            elif ufrag:
                self._strands[ufrag].any_mid = True
        self._adopt_unnamed()

    def settle(self, negotiation: int) -> None:
        """The answer of this negotiation has passed: ufrags it does not carry are history."""
        named = self._open.get(negotiation)
        if named is None:
            return
        self._settled = named
        self._open.clear()
        self._retire(
            [ufrag for ufrag, s in self._strands.items() if s.opened and ufrag not in named]
        )

    def roll_back(self, negotiation: int) -> None:
        """The offer of this negotiation is void: what only it named is history."""
        named = self._open.pop(negotiation, frozenset())
        kept = self._settled.union(*self._open.values())
        self._retire([ufrag for ufrag in named if ufrag not in kept])
        self._ungate(negotiation)
        if self._wild == negotiation:
            self._wild = 0

    def applied(self, negotiation: int) -> None:
        """The receiver has set the sender's description of this negotiation."""
        self._applied = max(self._applied, negotiation)
        self._gates = [gate for gate in self._gates if gate[0] > self._applied]

    def applied_once(self) -> None:
        """The pair is connected: whatever was described first has been applied."""
        if not self._applied and self._gates:
            self.applied(self._gates[0][0])

    # What goes through it -------------------------------------------------------------------

    def admit(self, candidate: CandidateInit, now: float) -> CandidateInit | ErrorCode | None:
        """What to relay now; None when it is held or a duplicate; a code when it is refused."""
        ufrag = self._ufrag_for(candidate)
        if ufrag in self._retired and ufrag not in self._strands:
            self._tally.candidates_dropped["stale_generation"] += 1
            return ErrorCode.STALE_GENERATION
        strand = self._strands.get(ufrag)
        if strand is None:
            if self._early_strands() >= self._limits.open_generations:
                self._tally.candidates_dropped["buffer_full"] += 1
                return ErrorCode.BUFFER_FULL
            strand = self._strands[ufrag] = _Strand()
        key = hash((candidate.sdpMid, candidate.sdpMLineIndex, candidate.candidate or ""))
        if key in strand.seen:
            self._tally.candidates_dropped["duplicate"] += 1
            return None
        if strand.has_ended(candidate):
            self._tally.candidates_dropped["candidate_after_end"] += 1
            return ErrorCode.CANDIDATE_AFTER_END
        refused = self._full(strand, candidate)
        if refused is not None:
            self._tally.candidates_dropped["buffer_full"] += 1
            return refused
        strand.seen.add(key)
        if candidate.is_end:
            strand.end(candidate, self._latest)
        if self._may_pass(candidate, ufrag) and not self._waits_behind(candidate, ufrag):
            self._tally.candidates_passed += 1
            return _outgoing(candidate, ufrag)
        self._hold(candidate, ufrag, strand, now)
        return None

    def release(self) -> list[CandidateInit]:
        """Take out what may be relayed by now, in arrival order."""
        if not self._held:
            return []
        out: list[CandidateInit] = []
        kept: list[_Held] = []
        waiting, self._held = self._held, kept
        for item in waiting:
            if self._may_pass(item.candidate, item.ufrag) and not self._waits_behind(
                item.candidate, item.ufrag
            ):
                out.append(_outgoing(item.candidate, item.ufrag))
                self._unhold(item)
            else:
                kept.append(item)
        self._tally.candidates_released += len(out)
        return out

    def expire(self, now: float) -> None:
        """Give up early candidates whose description never came; open gates left unconfirmed."""
        overdue = [number for number, deadline in self._gates if deadline <= now]
        if overdue:
            self._tally.gate_timeouts += len(overdue)
            self.applied(max(overdue))
        stale = [item for item in self._held if item.expires_at <= now and self._is_early(item)]
        self._drop(stale, "expired")
        for ufrag in {item.ufrag for item in stale}:
            if not self._strands[ufrag].held_bytes and not self._strands[ufrag].opened:
                del self._strands[ufrag]

    def next_deadline(self) -> float | None:
        """When `expire` has work next."""
        deadlines = [item.expires_at for item in self._held if self._is_early(item)]
        if self._held:
            deadlines += [deadline for _, deadline in self._gates]
        return min(deadlines, default=None)

    def clear(self, reason: str) -> None:
        """The pair is gone."""
        self._drop(self._held, reason)
        self._strands.clear()

    @property
    def held(self) -> int:
        """Number of candidates waiting."""
        return len(self._held)

    # Inside ---------------------------------------------------------------------------------

    def _ungate(self, negotiation: int) -> None:
        self._gates = [gate for gate in self._gates if gate[0] != negotiation]

    def _early_strands(self) -> int:
        return sum(not strand.opened for strand in self._strands.values())

    def _ufrag_for(self, candidate: CandidateInit) -> str:
        """Its own, else the latest description's for its mid (RFC 9429 section 3.5.2.1)."""
        own = candidate.ufrag
        if own is not None:
            return own
        of_mid = self._ufrag_of_mid
        return of_mid.get(candidate.sdpMid) or of_mid.get(None) or _UNNAMED

    def _may_pass(self, candidate: CandidateInit, ufrag: str) -> bool:
        described = self._strands[ufrag].described_by(candidate)
        if described is None:
            described = self._wild
        if not described:
            return False
        return not self._gated or described <= self._applied

    def _waits_behind(self, candidate: CandidateInit, ufrag: str) -> bool:
        """End-of-candidates must not overtake a held candidate that it covers."""
        if not candidate.is_end:
            return False
        mid = candidate.sdpMid
        return any(
            held.ufrag == ufrag and (mid is None or held.candidate.sdpMid == mid)
            for held in self._held
        )

    def _full(self, strand: _Strand, candidate: CandidateInit) -> ErrorCode | None:
        limits = self._limits
        ends = _ENDS_BEYOND_LIMIT if candidate.is_end else 0
        if len(strand.seen) >= limits.candidates_per_generation + ends:
            return ErrorCode.BUFFER_FULL
        size = len(candidate.candidate or "") + _ITEM_OVERHEAD
        if strand.held_bytes + size > limits.held_bytes_per_generation:
            return ErrorCode.BUFFER_FULL
        if self._tally.held_bytes + size > limits.held_bytes_per_node:
            return ErrorCode.BUFFER_FULL
        return None

    def _hold(self, candidate: CandidateInit, ufrag: str, strand: _Strand, now: float) -> None:
        size = len(candidate.candidate or "") + _ITEM_OVERHEAD
        self._held.append(_Held(candidate, ufrag, size, now + self._limits.early_ttl_s))
        strand.held_bytes += size
        self._tally.held_bytes += size
        self._tally.candidates_held += 1

    def _unhold(self, item: _Held) -> None:
        strand = self._strands.get(item.ufrag)
        if strand is not None:
            strand.held_bytes -= item.size
        self._tally.held_bytes -= item.size
        self._tally.candidates_held -= 1

    def _is_early(self, item: _Held) -> bool:
        return self._strands[item.ufrag].described_by(item.candidate) is None and not self._wild

    def _drop(self, items: list[_Held], reason: str) -> None:
        gone = {id(item) for item in items}
        for item in items:
            self._unhold(item)
        if items:
            self._tally.candidates_dropped[reason] += len(items)
            self._held = [item for item in self._held if id(item) not in gone]

    def _retire(self, ufrags: list[str]) -> None:
        for ufrag in ufrags:
            self._drop([item for item in self._held if item.ufrag == ufrag], "stale_generation")
            del self._strands[ufrag]
            self._retired.append(ufrag)

    def _adopt_unnamed(self) -> None:
        """Early candidates without a ufrag belong to the first description (RFC 9429 3.5.2.1)."""
        orphan = self._strands.pop(_UNNAMED, None)
        if orphan is None:
            return
        for item in self._held:
            if item.ufrag == _UNNAMED:
                item.ufrag = self._ufrag_for(item.candidate)
                self._strands[item.ufrag].held_bytes += item.size
        for strand in self._strands.values():
            strand.seen |= orphan.seen
            strand.ended_mids |= orphan.ended_mids
            if orphan.ended_at is not None:
                strand.ended_at = orphan.ended_at


def _outgoing(candidate: CandidateInit, ufrag: str) -> CandidateInit:
    """End-of-candidates names its ICE session, so that a late one cannot end a newer one."""
    if not candidate.is_end or candidate.usernameFragment or not ufrag:
        return candidate
    return CandidateInit("", candidate.sdpMid, candidate.sdpMLineIndex, ufrag)
