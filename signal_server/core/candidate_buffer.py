"""Candidates of one sender for one receiver, held until they can be used.

The invariant: no candidate leaves before the description that carries its ufrag and mid; none is
lost, repeated or reordered within its m-section inside the limits; end-of-candidates leaves last.
An item is early (its description has not passed), gated (the receiver has not applied it) or out.
It is told the time, and does not know peers, sockets or negotiation rules: `core.negotiation` tells
it which descriptions passed, were applied, settled or were rolled back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from mypy_extensions import mypyc_attr

from signal_server.core import ends
from signal_server.core.description import UNNAMED, Descriptions
from signal_server.core.gate import Gate
from signal_server.core.strand import Held, Strand, key_of, size_of
from signal_server.core.tally import Tally
from signal_server.wire.candidate import CandidateInit
from signal_server.wire.codes import ErrorCode
from signal_server.wire.limits import Limits
from signal_server.wire.sdp import Outline

_REMEMBERED_RETIRED = 16
_ENDS_BEYOND_LIMIT = 64
"""A full generation can still be ended, once per m-section."""
_NOTHING: frozenset[str] = frozenset()
_EARLY_SECTIONS = 16
"""M-sections with ICE sessions of their own, of a description that has not come yet."""
_WILD_STRANDS = 16
"""Ufrags remembered under a description that names none."""


@mypyc_attr(serializable=True, allow_interpreted_subclasses=True)
class CandidateBuffer:
    """See the module's text; `gated` is the receiver's choice in its hello."""

    __slots__ = (
        "_descriptions",
        "_held",
        "_latest",
        "_limits",
        "_retired",
        "_strands",
        "_tally",
        "fates",
        "gate",
        "is_scheduled",
    )

    def __init__(self, limits: Limits, tally: Tally, *, gated: bool) -> None:
        self._limits = limits
        self._tally = tally
        self.gate = Gate(is_gated=gated)
        self.is_scheduled = False
        """Its owner has put `next_deadline` on the agenda."""
        self.fates: list[tuple[str | int, str | None]] = []
        """Requests whose held candidates were released, or dropped for a reason; taken by its
        owner."""
        self._descriptions = Descriptions()
        self._strands: dict[str, Strand] = {}
        self._held: list[Held] = []
        self._retired: deque[str] = deque(maxlen=_REMEMBERED_RETIRED)
        self._latest = 0

    # What is told to it ---------------------------------------------------------------------

    def describe(self, negotiation: int, outline: Outline, now: float) -> None:
        """The sender's description of this negotiation has been put into the receiver's log."""
        self._latest = max(self._latest, negotiation)
        if self.gate.is_gated:
            self.gate.describe(negotiation, now + self._limits.gate_timeout_s)
        self._begin_wild(negotiation, outline)
        named_before = self._descriptions.names
        self._retire(self._descriptions.add(negotiation, outline))
        for name in sorted(self._descriptions.names - named_before):
            strand = self._strands.setdefault(name, Strand())
            if strand.ended_at is not None:
                strand.ended_at = negotiation
        if outline.names_ice:
            self._adopt()

    def settle(self, negotiation: int) -> None:
        """The answer of this negotiation has passed: ufrags it does not carry are history."""
        self._retire(self._descriptions.settle(negotiation))

    def roll_back(self, negotiation: int) -> None:
        """The offer of this negotiation is void: what only it named is history."""
        self._retire(self._descriptions.roll_back(negotiation))
        self.gate.forget(negotiation)

    def disown(self, outline: Outline) -> None:
        """An offer has been refused: what only it names is history."""
        named = dict.fromkeys(ufrag for ufrag in outline.ufrags if ufrag)
        self._retire(ufrag for ufrag in named if ufrag not in self._descriptions.names)

    def applied(self, negotiation: int) -> None:
        """The receiver has set the sender's description of this negotiation."""
        self.gate.prove(negotiation)

    def applied_once(self) -> None:
        """The pair is connected: whatever was described first has been applied."""
        self.gate.prove_first(self._descriptions.first)

    def describes(self, negotiation: int) -> bool:
        """Whether that description is neither replaced nor rolled back."""
        return self._descriptions.has(negotiation)

    # What goes through it -------------------------------------------------------------------

    def admit(
        self, candidate: CandidateInit, now: float, ref: str | int | None = None
    ) -> CandidateInit | ErrorCode | None:
        """What to relay now; None when it is held or a duplicate; a code when it is refused.

        `ref` is who wants to know in `fates` what became of one that is held.
        """
        descriptions = self._descriptions
        ufrag = candidate.usernameFragment or descriptions.ufrag_for(candidate)
        strand = self._strands.get(ufrag)
        if strand is None:
            if ufrag in self._retired:
                return self._refuse(ErrorCode.STALE_GENERATION)
            if not self._make_room(candidate):
                return self._refuse(ErrorCode.BUFFER_FULL)
            strand = Strand()
        is_end = not candidate.candidate
        key = key_of(candidate)
        has_ends = strand.ended or strand.ended_at is not None
        has_ended = has_ends and ends.is_ended(descriptions, strand, candidate, ufrag)
        if key in strand.seen or (has_ended and is_end):
            self._tally.candidates_dropped["duplicate"] += 1
            return None
        if has_ended:
            return self._refuse(ErrorCode.CANDIDATE_AFTER_END)
        extra = _ENDS_BEYOND_LIMIT if is_end else 0
        if len(strand.seen) + len(strand.ended) >= self._limits.candidates_per_generation + extra:
            return self._refuse(ErrorCode.BUFFER_FULL)
        ended = descriptions.ended_by(candidate, ufrag) if is_end else _NOTHING
        passes = self._may_pass(candidate, ufrag)
        if is_end and passes:
            passes = not ends.must_wait(descriptions, candidate, ended, self._held)
        size = 0 if passes else size_of(candidate, ufrag)
        if size and self._is_full(strand, size):
            return self._refuse(ErrorCode.BUFFER_FULL)
        self._strands[ufrag] = strand
        if is_end:
            self._end(candidate, strand)
        else:
            strand.seen.add(key)
        if passes:
            self._tally.candidates_passed += 1
            return descriptions.named_end(candidate, ufrag) if is_end else candidate
        expires_at = now + self._limits.early_ttl_s
        self._hold(Held(candidate, ufrag, size, expires_at, ended, ref), strand)
        return None

    def release(self) -> list[CandidateInit]:
        """Take out what may be relayed by now, in arrival order."""
        if not self._held:
            return []
        out: list[CandidateInit] = []
        kept: list[Held] = []
        waiting, self._held = self._held, kept
        for item in waiting:
            if self._may_pass(item.candidate, item.ufrag) and not ends.must_wait(
                self._descriptions, item.candidate, item.ends, kept
            ):
                out.append(self._descriptions.named_end(item.candidate, item.ufrag))
                self._unhold(item, None)
            else:
                kept.append(item)
        self._tally.candidates_released += len(out)
        return out

    def expire(self, now: float) -> None:
        """Give up early candidates whose description never came; open gates left unconfirmed."""
        self._tally.gate_timeouts += self.gate.expire(now)
        stale = [item for item in self._held if item.expires_at <= now and self._is_early(item)]
        self._drop(stale, "expired")
        names = self._descriptions.names
        for ufrag in {item.ufrag for item in stale}:
            if not self._strands[ufrag].held and ufrag not in names:
                del self._strands[ufrag]

    def next_deadline(self) -> float | None:
        """When `expire` has work next."""
        deadlines = [item.expires_at for item in self._held if self._is_early(item)]
        unconfirmed = self.gate.next_deadline() if self._held else None
        if unconfirmed is not None:
            deadlines.append(unconfirmed)
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

    def _refuse(self, code: ErrorCode) -> ErrorCode:
        self._tally.candidates_dropped[code.value] += 1
        return code

    def _begin_wild(self, negotiation: int, outline: Outline) -> None:
        """A further description that names no ICE may be a restart: what has ended begins anew."""
        latest, unnamed = self._descriptions.latest, self._strands.get(UNNAMED)
        if unnamed is None or latest is None or outline.names_ice:
            return
        if latest.is_wild and latest.number != negotiation:
            unnamed.seen.clear()
            unnamed.ended.clear()
            unnamed.ended_at = None

    def _make_room(self, candidate: CandidateInit) -> bool:
        """Only so many ufrags may be in use before a description names them."""
        unknown = self._unknown()
        if len(unknown) < self._limits.open_generations:
            return True
        if len(unknown) < self._most_unknown(candidate):
            return True
        idle = next((ufrag for ufrag in unknown if not self._strands[ufrag].held), None)
        if idle is None:
            return False
        del self._strands[idle]
        return True

    def _unknown(self) -> list[str]:
        """The ufrags that no description names."""
        names = self._descriptions.names
        return [ufrag for ufrag in self._strands if ufrag not in names]

    def _most_unknown(self, candidate: CandidateInit) -> int:
        """Without BUNDLE one description has a ufrag for each of its m-sections."""
        latest = self._descriptions.latest
        if latest is not None and latest.is_wild:
            return _WILD_STRANDS
        names = self._descriptions.names
        sections = {
            self._descriptions.section_of(i.candidate) for i in self._held if i.ufrag not in names
        }
        sections.add(self._descriptions.section_of(candidate))
        return self._limits.open_generations * min(len(sections), _EARLY_SECTIONS)

    def _may_pass(self, candidate: CandidateInit, ufrag: str) -> bool:
        described = self._descriptions.since(candidate, ufrag)
        if described is None:
            return False
        gate = self.gate
        return not gate.is_gated or described <= gate.applied

    def _is_early(self, item: Held) -> bool:
        return self._descriptions.since(item.candidate, item.ufrag) is None

    def _end(self, candidate: CandidateInit, strand: Strand) -> None:
        section = self._descriptions.section_of(candidate)
        if section is not None:
            strand.ended.add(section)
            return
        strand.ended_at = self._latest
        latest = self._descriptions.latest
        if candidate.ufrag is None and latest is not None:
            for name in latest.names:
                self._strands[name].ended_at = self._latest

    def _is_full(self, strand: Strand, size: int) -> bool:
        limits = self._limits
        early = sum(self._strands[ufrag].held_bytes for ufrag in self._unknown())
        return (
            strand.held_bytes + size > limits.held_bytes_per_generation
            or early + size > limits.held_bytes_per_generation * limits.open_generations
            or self._tally.held_bytes + size > limits.held_bytes_per_node
        )

    def _hold(self, item: Held, strand: Strand) -> None:
        self._held.append(item)
        strand.held += 1
        strand.held_bytes += item.size
        self._tally.held_bytes += item.size
        self._tally.candidates_held += 1

    def _unhold(self, item: Held, reason: str | None) -> None:
        strand = self._strands[item.ufrag]
        strand.held -= 1
        strand.held_bytes -= item.size
        self._tally.held_bytes -= item.size
        self._tally.candidates_held -= 1
        if item.ref is not None:
            self.fates.append((item.ref, reason))

    def _drop(self, items: list[Held], reason: str) -> None:
        gone = {id(item) for item in items}
        for item in items:
            self._unhold(item, reason)
        if items:
            self._tally.candidates_dropped[reason] += len(items)
            self._held = [item for item in self._held if id(item) not in gone]

    def _retire(self, ufrags: Iterable[str]) -> None:
        for ufrag in sorted(ufrags):
            self._drop([item for item in self._held if item.ufrag == ufrag], "stale_generation")
            self._strands.pop(ufrag, None)
            self._retired.append(ufrag)

    def _adopt(self) -> None:
        """Candidates without a ufrag belong to the first description that carries their section."""
        if UNNAMED not in self._strands:
            return
        late: list[Held] = []
        again: list[Held] = []
        for item in self._held:
            ufrag = item.ufrag or self._descriptions.ufrag_for(item.candidate)
            if item.ufrag == ufrag:
                continue
            strand = self._strands[ufrag]
            waiting = ends.waiting_for(self._descriptions, ufrag, self._held)
            if ends.is_ended(self._descriptions, strand, item.candidate, ufrag, waiting):
                (again if item.candidate.is_end else late).append(item)
            elif key_of(item.candidate) in strand.seen:
                again.append(item)
            else:
                self._move(item, ufrag)
        self._drop(again, "duplicate")
        self._drop(late, ErrorCode.CANDIDATE_AFTER_END.value)
        again, late = ends.out_of_place(self._descriptions, self._held)
        self._drop(again, "duplicate")
        self._drop(late, ErrorCode.CANDIDATE_AFTER_END.value)
        self._renew_unnamed()

    def _renew_unnamed(self) -> None:
        """Remember of those without a ufrag only what still waits."""
        left = [item.candidate for item in self._held if item.ufrag == UNNAMED]
        if not left:
            del self._strands[UNNAMED]
            return
        strand = self._strands[UNNAMED]
        strand.seen = {key_of(candidate) for candidate in left if not candidate.is_end}
        strand.ended = {self._descriptions.section_of(end) for end in left if end.is_end}
        strand.ended_at = None

    def _move(self, item: Held, ufrag: str) -> None:
        old, new = self._strands[item.ufrag], self._strands[ufrag]
        old.held -= 1
        old.held_bytes -= item.size
        new.held += 1
        new.held_bytes += item.size
        item.ufrag = ufrag
        if item.candidate.is_end:
            self._end(item.candidate, new)
            item.ends = self._descriptions.ended_by(item.candidate, ufrag)
        else:
            new.seen.add(key_of(item.candidate))
