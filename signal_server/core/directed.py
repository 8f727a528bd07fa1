"""Messages from one peer to one other: what each does to both ends, and what is relayed.

A method returns the negotiation number, or a coded refusal. Each updates the sender's end, then the
receiver's, delivers, and releases candidates that the message set free. It does not know rooms,
tokens or connections: the switchboard has found both sessions in one room.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

from signal_server.core.candidate_buffer import CandidateBuffer
from signal_server.core.deadlines import Deadlines
from signal_server.core.negotiation import Negotiation
from signal_server.core.room import Session
from signal_server.core.tally import Tally
from signal_server.wire import messages as m
from signal_server.wire.base import Numbered
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
    ErrorCode.BUFFER_FULL: "too many candidates for this peer connection",
}


class Directed:
    """Owns nothing: the ends belong to their sessions."""

    def __init__(
        self,
        limits: Limits,
        tally: Tally,
        agenda: Deadlines[EndKey],
        deliver: Callable[[Session, Numbered], None],
    ) -> None:
        self._limits = limits
        self._tally = tally
        self._agenda = agenda
        self._deliver = deliver

    def offer(self, sender: Session, target: Session, message: m.Offer, now: float) -> Outcome:
        if len(message.sdp) > self._limits.sdp_bytes:
            return _refuse(ErrorCode.PAYLOAD_TOO_LARGE, "sdp is too long")
        sdp = sender.policy.sdp(message.sdp)
        mine, theirs = self._ends(sender, target, message.pc)
        number = mine.send_offer(message.negotiation, outline(sdp), now)
        if isinstance(number, ErrorCode):
            return _refuse(number)
        self._tally.glare += theirs.receive_offer(number)
        self._deliver(target, m.RelayedOffer(sdp=sdp, **_stamp(sender, message, number)))
        self._flush(sender, target, message.pc, mine)
        self._flush(target, sender, message.pc, theirs)
        return number

    def answer(
        self, sender: Session, target: Session, message: m.Answer | m.Pranswer, now: float
    ) -> Outcome:
        if len(message.sdp) > self._limits.sdp_bytes:
            return _refuse(ErrorCode.PAYLOAD_TOO_LARGE, "sdp is too long")
        final = isinstance(message, m.Answer)
        sdp = sender.policy.sdp(message.sdp)
        mine, theirs = self._ends(sender, target, message.pc)
        number = mine.send_answer(message.negotiation, outline(sdp), now, final=final)
        if isinstance(number, ErrorCode):
            return _refuse(number)
        theirs.receive_answer(number, final=final)
        kind = m.RelayedAnswer if final else m.RelayedPranswer
        self._deliver(target, kind(sdp=sdp, **_stamp(sender, message, number)))
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
        self._flush(sender, target, message.pc, mine)
        self._flush(target, sender, message.pc, theirs)
        return number

    def candidate(
        self, sender: Session, target: Session, message: m.Candidate, now: float
    ) -> Outcome:
        candidates = _candidates_of(message)
        if isinstance(candidates, Refusal):
            return candidates
        if len(candidates) > self._limits.candidates_per_message:
            return _refuse(ErrorCode.PAYLOAD_TOO_LARGE, "too many candidates in one message")
        longest = self._limits.candidate_bytes
        for candidate in candidates:
            if len(candidate.candidate or "") > longest:
                return _refuse(ErrorCode.PAYLOAD_TOO_LARGE, "a candidate is too long")
        if sender.policy.is_active:
            allowed = (sender.policy.candidate(candidate) for candidate in candidates)
            candidates = [candidate for candidate in allowed if candidate is not None]
        mine, theirs = self._ends(sender, target, message.pc)
        passed: list[CandidateInit] = []
        refused: ErrorCode | None = None
        for candidate in candidates:
            verdict = mine.buffer.admit(candidate, now)
            if isinstance(verdict, CandidateInit):
                passed.append(verdict)
            elif verdict is not None:
                refused = refused or verdict
        if passed:
            self._relay_candidates(sender, target, message.pc, mine.number, passed)
        if message.negotiation is not None and message.negotiation == mine.incoming:
            # A candidate for the answer to n proves that offer n has been applied.
            theirs.buffer.applied(message.negotiation)
            self._flush(target, sender, message.pc, theirs)
        self._reschedule(sender, target, message.pc, mine)
        return _refuse(refused) if refused else mine.number

    def applied(self, sender: Session, target: Session, message: m.Applied, now: float) -> Outcome:
        _, theirs = self._ends(sender, target, message.pc)
        if message.negotiation > theirs.number:
            return _refuse(ErrorCode.STALE_NEGOTIATION, "there is no such negotiation")
        theirs.buffer.applied(message.negotiation)
        stamp = _stamp(sender, message, message.negotiation)
        self._deliver(target, m.RelayedApplied(**stamp))
        self._flush(target, sender, message.pc, theirs)
        return message.negotiation

    def renegotiate(
        self, sender: Session, target: Session, message: m.Renegotiate, now: float
    ) -> Outcome:
        mine, _ = self._ends(sender, target, message.pc)
        stamp = _stamp(sender, message, mine.number)
        self._deliver(target, m.RelayedRenegotiate(reason=message.reason, **stamp))
        return mine.number

    def state(self, sender: Session, target: Session, message: m.State, now: float) -> Outcome:
        mine, theirs = self._ends(sender, target, message.pc)
        relayed = m.RelayedState(
            state=message.state,
            candidate_type=message.candidate_type,
            **_stamp(sender, message, mine.number),
        )
        self._deliver(target, relayed)
        if message.state == "connected":
            theirs.buffer.applied_once()
            self._flush(target, sender, message.pc, theirs)
        return mine.number

    def expire(self, sender: Session, target: Session, pc: str, now: float) -> None:
        """The agenda says that the sender's buffer has overdue items."""
        end = sender.ends[target.peer, pc]
        end.buffer.expire(now)
        self._flush(sender, target, pc, end)

    def may_open(self, sender: Session, target: Session) -> bool:
        """A pair may have only so many peer connections."""
        between = sum(peer == target.peer for peer, _ in sender.ends)
        return between < self._limits.peer_connections_per_pair

    def part(self, leaving: Session, members: dict[str, Session]) -> None:
        """The session leaves its room: forget every negotiation it has, at both ends."""
        for (peer, pc), end in leaving.ends.items():
            end.buffer.clear("peer_left")
            self._agenda.set((leaving.peer, peer, pc), None)
            other = members[peer]
            other.ends.pop((leaving.peer, pc)).buffer.clear("peer_left")
            self._agenda.set((other.peer, leaving.peer, pc), None)
        leaving.ends.clear()

    def _ends(self, sender: Session, target: Session, pc: str) -> tuple[Negotiation, Negotiation]:
        mine = sender.ends.get((target.peer, pc))
        if mine is not None:
            return mine, target.ends[sender.peer, pc]
        mine = sender.ends[target.peer, pc] = self._new_end(target)
        theirs = target.ends[sender.peer, pc] = self._new_end(sender)
        return mine, theirs

    def _new_end(self, toward: Session) -> Negotiation:
        return Negotiation(CandidateBuffer(self._limits, self._tally, gated=toward.gated))

    def _flush(self, sender: Session, target: Session, pc: str, end: Negotiation) -> None:
        released = end.buffer.release()
        if released:
            self._relay_candidates(sender, target, pc, end.number, released)
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


def _candidates_of(message: m.Candidate) -> list[CandidateInit] | Refusal:
    if isinstance(message.candidates, list):
        found = message.candidates
    elif message.candidate is None or isinstance(message.candidate, CandidateInit):
        found = [message.candidate]
    else:
        return _refuse(ErrorCode.BAD_REQUEST, "candidate or candidates is missing")
    out: list[CandidateInit] = []
    for candidate in found:
        if candidate is None:
            out.append(END_OF_CANDIDATES)
        elif candidate.is_end:
            out.append(_ended(candidate))
        elif candidate.sdpMid is None and candidate.sdpMLineIndex is None:
            # addIceCandidate would throw a TypeError at the receiver (webrtc-pc 4.4.2).
            return _refuse(ErrorCode.BAD_REQUEST, "a candidate needs sdpMid or sdpMLineIndex")
        else:
            out.append(candidate)
    return out


def _ended(candidate: CandidateInit) -> CandidateInit:
    """null, {} and "" are one thing: an empty candidate string."""
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
