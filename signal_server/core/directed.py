"""Messages from one peer to one other: what each does to both ends, and what is relayed.

A method returns the negotiation number, or a coded refusal. Each updates the sender's end, then the
receiver's, delivers, and releases candidates that the message set free. It does not know rooms,
tokens or connections: the switchboard has found both sessions in one room.
"""

from __future__ import annotations

from typing import TypedDict

from msgspec import UNSET, UnsetType

from signal_server.core.candidate_buffer import CandidateBuffer
from signal_server.core.deadlines import Deadlines
from signal_server.core.negotiation import Arrival, Glare, Negotiation
from signal_server.core.out import Out
from signal_server.core.receipts import Receipts
from signal_server.core.room import Session, is_polite
from signal_server.core.tally import Tally
from signal_server.wire import messages as m
from signal_server.wire.candidate import END_OF_CANDIDATES, CandidateInit
from signal_server.wire.codec import Refusal
from signal_server.wire.codes import ErrorCode
from signal_server.wire.limits import Limits
from signal_server.wire.sdp import outline

EndKey = tuple[str, str, str]
"""The owning peer, the other peer, pc."""
Outcome = int | Refusal

_WHY = {
    ErrorCode.STALE_NEGOTIATION: "that negotiation is not the outstanding one",
    ErrorCode.WRONG_STATE: "there is no outstanding offer to answer or roll back",
    ErrorCode.STALE_GENERATION: "an ICE restart or rollback has replaced that ufrag",
    ErrorCode.CANDIDATE_AFTER_END: "end-of-candidates was already sent",
    ErrorCode.GLARE: "both have offered, and the other offer wins",
    ErrorCode.BUFFER_FULL: "too many candidates for this peer connection",
}


class Directed:
    """Owns nothing: the ends belong to their sessions."""

    def __init__(
        self,
        limits: Limits,
        tally: Tally,
        agenda: Deadlines[EndKey],
        out: Out,
        receipts: Receipts,
        *,
        arbitrates: bool,
    ) -> None:
        """`arbitrates`: when both offer, the polite one's offer is refused instead of relayed."""
        self._limits = limits
        self._tally = tally
        self._agenda = agenda
        self._deliver = out.deliver
        self._answer = out.answer
        self._receipts = receipts
        self._arbitrates = arbitrates

    def offer(self, sender: Session, target: Session, message: m.Offer, now: float) -> Outcome:
        refusal = self._too_long(message)
        if refusal is not None:
            return refusal
        sdp = sender.policy.sdp(message.sdp)
        mine, theirs = self._ends(sender, target, message.pc)
        number = mine.send_offer(message.negotiation, outline(sdp), now)
        if number is ErrorCode.GLARE:
            return self._lost(sender, target, message.pc, mine)
        if isinstance(number, ErrorCode):
            return _refuse(number)
        mine.request = message.id
        self._collide(target, theirs, number)
        self._deliver(target, m.RelayedOffer(sdp=sdp, **_stamp(sender, message, number)))
        self._describe(sender, target, mine, number, message.id)
        self._flush(sender, target, message.pc, mine)
        self._flush(target, sender, message.pc, theirs)
        return number

    def answer(
        self, sender: Session, target: Session, message: m.Answer | m.Pranswer, now: float
    ) -> Outcome:
        refusal = self._too_long(message)
        if refusal is not None:
            return refusal
        final = isinstance(message, m.Answer)
        sdp = sender.policy.sdp(message.sdp)
        mine, theirs = self._ends(sender, target, message.pc)
        number = mine.send_answer(message.negotiation, outline(sdp), now, final=final)
        if isinstance(number, ErrorCode):
            return _refuse(number)
        theirs.receive_answer(number, final=final)
        kind = m.RelayedAnswer if final else m.RelayedPranswer
        self._deliver(target, kind(sdp=sdp, **_stamp(sender, message, number)))
        self._describe(sender, target, mine, number, message.id)
        self._flush(sender, target, message.pc, mine)
        self._flush(target, sender, message.pc, theirs)
        return number

    def rollback(
        self, sender: Session, target: Session, message: m.Rollback, now: float
    ) -> Outcome:
        mine, theirs = self._ends(sender, target, message.pc)
        number = mine.send_rollback(message.negotiation)
        if isinstance(number, ErrorCode):
            return _refuse(number)
        theirs.receive_rollback(number)
        self._deliver(target, m.RelayedRollback(**_stamp(sender, message, number)))
        if sender.followed is not None:
            self._receipts.relayed(sender, target, message.id)
        self._flush(sender, target, message.pc, mine)
        self._flush(target, sender, message.pc, theirs)
        return number

    def candidate(
        self, sender: Session, target: Session, message: m.Candidate, now: float
    ) -> Outcome:
        candidates = self._candidates(message)
        if isinstance(candidates, Refusal):
            return candidates
        if sender.policy.is_active:
            allowed = (sender.policy.candidate(candidate) for candidate in candidates)
            candidates = [candidate for candidate in allowed if candidate is not None]
        mine, theirs = self._ends(sender, target, message.pc)
        buffer = mine.buffer
        ref = None if sender.followed is None else message.id
        held_before = 0 if ref is None else buffer.held
        passed: list[CandidateInit] = []
        refused: ErrorCode | None = None
        for candidate in candidates:
            verdict = buffer.admit(candidate, now, ref)
            if isinstance(verdict, CandidateInit):
                passed.append(verdict)
            elif verdict is not None:
                refused = refused or verdict
        if passed:
            self._relay_candidates(sender, target, message.pc, mine.number, passed)
        if ref is not None and refused is None:
            held = buffer.held - held_before
            self._receipts.gathered(
                sender, target, ref, held, passed=bool(passed), empty=not candidates
            )
        if message.negotiation is not None and message.negotiation == mine.incoming:
            # A candidate for the answer to n proves that offer n has been applied.
            theirs.buffer.applied(message.negotiation)
            self._flush(target, sender, message.pc, theirs)
        # What passes at once changes no deadline.
        if buffer.is_scheduled or len(passed) < len(candidates):
            self._reschedule(sender, target, message.pc, mine)
        return _refuse(refused) if refused else mine.number

    def applied(self, sender: Session, target: Session, message: m.Applied, now: float) -> Outcome:
        _, theirs = self._ends(sender, target, message.pc)
        if message.negotiation > theirs.number:
            return _refuse(ErrorCode.STALE_NEGOTIATION, "there is no such negotiation")
        theirs.buffer.applied(message.negotiation)
        stamp = _stamp(sender, message, message.negotiation)
        self._deliver(target, m.RelayedApplied(**stamp))
        if sender.followed is not None:
            self._receipts.relayed(sender, target, message.id)
        self._flush(target, sender, message.pc, theirs)
        return message.negotiation

    def renegotiate(
        self, sender: Session, target: Session, message: m.Renegotiate, now: float
    ) -> Outcome:
        mine, _ = self._ends(sender, target, message.pc)
        stamp = _stamp(sender, message, mine.number)
        self._deliver(target, m.RelayedRenegotiate(reason=message.reason, **stamp))
        if sender.followed is not None:
            self._receipts.relayed(sender, target, message.id)
        return mine.number

    def state(self, sender: Session, target: Session, message: m.State, now: float) -> Outcome:
        mine, theirs = self._ends(sender, target, message.pc)
        relayed = m.RelayedState(
            state=message.state,
            candidate_type=message.candidate_type,
            **_stamp(sender, message, mine.number),
        )
        self._deliver(target, relayed)
        if sender.followed is not None:
            self._receipts.relayed(sender, target, message.id)
        if message.state == "connected":
            theirs.buffer.applied_once()
            self._flush(target, sender, message.pc, theirs)
        return mine.number

    def expire(self, sender: Session, target: Session, pc: str, now: float) -> None:
        """The agenda says that the sender's buffer has overdue items."""
        end = sender.ends[target.peer, pc]
        end.buffer.expire(now)
        self._flush(sender, target, pc, end)

    def unfit(self, message: m.Offer | m.Candidate) -> Refusal | None:
        """Why it could be relayed to nobody."""
        if isinstance(message, m.Offer):
            return self._too_long(message)
        candidates = self._candidates(message)
        return candidates if isinstance(candidates, Refusal) else None

    def may_open(self, sender: Session, target: Session) -> bool:
        """A pair may have only so many peer connections."""
        between = sum(peer == target.peer for peer, _ in sender.ends)
        return between < self._limits.peer_connections_per_pair

    def part(self, leaving: Session, members: dict[str, Session], reason: str) -> None:
        """The session leaves its room: forget every negotiation it has, at both ends."""
        for (peer, pc), end in leaving.ends.items():
            end.buffer.clear("peer_left")
            self._agenda.set((leaving.peer, peer, pc), None)
            other = members[peer]
            other.ends.pop((leaving.peer, pc)).buffer.clear("peer_left")
            self._agenda.set((other.peer, leaving.peer, pc), None)
        leaving.ends.clear()
        self._receipts.parted(leaving, members.values(), reason)

    def _too_long(self, message: m.Description) -> Refusal | None:
        if len(message.sdp) > self._limits.sdp_bytes:
            return _refuse(ErrorCode.PAYLOAD_TOO_LARGE, "sdp is too long")
        return None

    def _candidates(self, message: m.Candidate) -> list[CandidateInit] | Refusal:
        """All that the message brings, within the limits."""
        if message.candidate is UNSET or isinstance(message.candidates, list):
            found = message.candidates
        else:
            found = [message.candidate]
        if isinstance(found, UnsetType):
            return _refuse(ErrorCode.BAD_REQUEST, "candidate or candidates is missing")
        out: list[CandidateInit] = []
        longest = 0
        for candidate in found:
            line = None if candidate is None else candidate.candidate
            if candidate is None or not line:
                out.append(_ended(candidate))
            elif candidate.sdpMid is None and candidate.sdpMLineIndex is None:
                # addIceCandidate would throw a TypeError at the receiver (webrtc-pc 4.4.2).
                return _refuse(ErrorCode.BAD_REQUEST, "a candidate needs sdpMid or sdpMLineIndex")
            else:
                out.append(candidate)
                longest = max(longest, len(line))
        if len(out) > self._limits.candidates_per_message:
            return _refuse(ErrorCode.PAYLOAD_TOO_LARGE, "too many candidates in one message")
        if longest > self._limits.candidate_bytes:
            return _refuse(ErrorCode.PAYLOAD_TOO_LARGE, "a candidate is too long")
        return out

    def _ends(self, sender: Session, target: Session, pc: str) -> tuple[Negotiation, Negotiation]:
        mine = sender.ends.get((target.peer, pc))
        if mine is not None:
            return mine, target.ends[sender.peer, pc]
        mine = sender.ends[target.peer, pc] = self._new_end(sender, target)
        theirs = target.ends[sender.peer, pc] = self._new_end(target, sender)
        return mine, theirs

    def _new_end(self, owner: Session, toward: Session) -> Negotiation:
        glare = Glare.PASSES
        if self._arbitrates:
            glare = Glare.YIELDS if is_polite(owner, toward) else Glare.WINS
        return Negotiation(CandidateBuffer(self._limits, self._tally, gated=toward.gated), glare)

    def _lost(self, sender: Session, target: Session, pc: str, end: Negotiation) -> Refusal:
        """The polite one's offer came while the other's was outstanding."""
        self._tally.glare += 1
        self._flush(sender, target, pc, end)
        why = _WHY[ErrorCode.GLARE]
        return Refusal(ErrorCode.GLARE, why, winner_negotiation=end.incoming)

    def _collide(self, target: Session, end: Negotiation, number: int) -> None:
        """The offer arrives at its target's end; an offer of the target may be void by it."""
        own, request = end.outgoing, end.request
        arrival = end.receive_offer(number)
        self._tally.glare += arrival is not Arrival.ALONE
        if arrival is Arrival.WON:
            why = _WHY[ErrorCode.GLARE]
            lost = Refusal(ErrorCode.GLARE, why, negotiation=own, winner_negotiation=number)
            self._answer(target, request, lost)

    def _describe(
        self,
        sender: Session,
        target: Session,
        end: Negotiation,
        number: int,
        request: str | int | None,
    ) -> None:
        """Follow a description that has just been delivered."""
        if sender.followed is not None:
            self._receipts.relayed(sender, target, request)
            self._receipts.described(sender, end, number, request)

    def _flush(self, sender: Session, target: Session, pc: str, end: Negotiation) -> None:
        released = end.buffer.release()
        if released:
            self._relay_candidates(sender, target, pc, end.number, released)
        if end.buffer.fates:
            fates, end.buffer.fates = end.buffer.fates, []
            self._receipts.settle(sender, target, fates)
        if end.followed is not None:
            self._receipts.advance(sender, end)
        self._reschedule(sender, target, pc, end)

    def _reschedule(self, sender: Session, target: Session, pc: str, end: Negotiation) -> None:
        if end.buffer.held or end.buffer.is_scheduled:
            deadline = end.buffer.next_deadline()
            end.buffer.is_scheduled = deadline is not None
            self._agenda.set((sender.peer, target.peer, pc), deadline)

    def _relay_candidates(
        self, sender: Session, target: Session, pc: str, number: int, found: list[CandidateInit]
    ) -> None:
        relayed = m.RelayedCandidates(
            sender=sender.peer,
            identity=sender.permit.identity,
            pc=pc,
            negotiation=number,
            candidates=found,
        )
        self._deliver(target, relayed)


def _ended(candidate: CandidateInit | None) -> CandidateInit:
    """null, {} and "" are one thing: an empty candidate string."""
    if candidate is None:
        return END_OF_CANDIDATES
    if candidate.candidate == "":
        return candidate
    return CandidateInit("", candidate.sdpMid, candidate.sdpMLineIndex, candidate.usernameFragment)


class _Stamp(TypedDict):
    """Fields that only the server decides."""

    sender: str
    identity: str
    pc: str
    negotiation: int


def _stamp(sender: Session, message: m.Directed, number: int) -> _Stamp:
    return {
        "sender": sender.peer,
        "identity": sender.permit.identity,
        "pc": message.pc,
        "negotiation": number,
    }


def _refuse(code: ErrorCode, message: str | None = None) -> Refusal:
    return Refusal(code, message or _WHY[code])
