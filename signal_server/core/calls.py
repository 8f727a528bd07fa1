"""The calls of one node: invite, ring, answer once, end once, and tell everybody who must know.

Whoever takes a step gets the returned verdict; everybody else concerned gets a message. Calls never
cross accounts. Two parties who invite each other are joined in the call with the lesser id (rule of
XEP-0353 section 5 and Matrix), which the other side's calling device thereby answers.
It is told the time, the ids and which sessions live; it does not know sockets, rooms or encodings.
"""

from __future__ import annotations

from typing import Literal

from signal_server.core import call_outcomes as tell
from signal_server.core.call import (
    MAY,
    TRANSITIONS,
    Call,
    CallLimits,
    CallState,
    Invitee,
    Party,
    Step,
)
from signal_server.core.call_log import Ended, Entry, Timeline, Trace
from signal_server.core.call_outcomes import Notify, Outcome
from signal_server.core.call_table import CallTable
from signal_server.core.deadlines import Deadlines
from signal_server.wire import call_messages as m
from signal_server.wire.call_messages import CallMedia, EndReason
from signal_server.wire.codec import Refusal
from signal_server.wire.codes import ErrorCode

Verdict = Refusal | list[Outcome]
ServerReason = Literal[EndReason.SERVER, EndReason.KICKED]


class Calls:
    """See the module's text; `now` is monotonic seconds, `unix_ms` goes into timelines."""

    def __init__(self, limits: CallLimits) -> None:
        self._limits = limits
        self._table = CallTable(limits)
        self._ended = Ended(limits.ended_calls)

    # The caller ------------------------------------------------------------------------------

    def invite(
        self, caller: Party, call_id: str, message: m.CallInvite, now: float, unix_ms: int
    ) -> Verdict:
        """Ring every live device of the invited identities.

        Tell the caller its call id before executing the outcomes: one may already be the end.
        """
        lifetime = self._limits.lifetime_s if message.lifetime_s is None else message.lifetime_s
        refusal = self._refuse_invite(caller, call_id, message.identities(), lifetime)
        if refusal is not None:
            return refusal
        call = Call(
            id=call_id,
            caller=caller,
            invited=message.identities(),
            room=message.room or call_id,
            media=message.media,
            data=message.data,
            deadline=now + lifetime,
            expires_unix_ms=unix_ms + round(lifetime * 1000),
            trace=Trace(self._limits.events_per_call),
        )
        self._table.open(call)
        call.note(unix_ms, "invited", caller)
        outcomes: list[Outcome] = [tell.invited(call)]
        rival = self._rival(call)
        if rival is not None:
            for device in call.devices():
                self._table.drop_leg(call, device)  # it need not ring anywhere
            kept, lost = (call, rival) if call.id < rival.id else (rival, call)
            return outcomes + self._meet(kept, lost, unix_ms)
        outcomes += [self._ring(call, device, now, unix_ms) for device in call.devices()]
        for identity in call.invitees:
            outcomes += self._push_if_offline(call, identity, unix_ms)
        return outcomes

    def early(self, party: Party, call_id: str, item: object, size: int) -> Verdict:
        """Keep what the caller sends to the call for the device that will answer (B18)."""
        call = self._admit(party, call_id, Step.EARLY)
        if isinstance(call, Refusal):
            return call
        limits = self._limits
        if (
            len(call.early.items) >= limits.early_items
            or call.early.size + size > limits.early_bytes
            or self._table.early_bytes + size > limits.early_bytes_per_node
        ):
            return Refusal(ErrorCode.BUFFER_FULL, "too much sent before the call was answered")
        self._table.hold_early(call, item, size)
        return []

    def cancel(self, party: Party, call_id: str, unix_ms: int) -> Verdict:
        """Ends the call even when somebody has just answered it."""
        call = self._admit(party, call_id, Step.CANCEL)
        if isinstance(call, Refusal):
            return call
        return self._end(call, EndReason.CANCELED, unix_ms, by=party)

    # The invited -----------------------------------------------------------------------------

    def ringing(self, party: Party, call_id: str, unix_ms: int) -> Verdict:
        """Tells the caller, once per device."""
        found = self._admit_device(party, call_id, Step.RING)
        if isinstance(found, Refusal):
            return found
        call, invitee = found
        call.state = TRANSITIONS[call.state, Step.RING]
        if invitee.legs[party.peer] is CallState.RINGING:
            return []
        invitee.legs[party.peer] = CallState.RINGING
        call.note(unix_ms, "ringing", party)
        rings = m.CallRings(call=call.id, device=party.peer, identity=party.identity)
        return [Notify(call.caller.peer, rings)]

    def accept(self, party: Party, call_id: str, media: CallMedia | None, unix_ms: int) -> Verdict:
        """The first device wins; repeating it changes nothing."""
        call = self._table.by_id.get(call_id)
        if call is not None and call.callee == party:
            return []
        found = self._admit_device(party, call_id, Step.ACCEPT)
        if isinstance(found, Refusal):
            return found
        return self._answer(found[0], party, media, unix_ms)

    def reject(self, party: Party, call_id: str, reason: m.RejectReason, unix_ms: int) -> Verdict:
        """`busy` takes this device out, `declined` the identity with all its devices."""
        found = self._admit_device(party, call_id, Step.REJECT)
        if isinstance(found, Refusal):
            return found
        call, invitee = found
        call.note(unix_ms, reason.value, party)
        self._table.drop_leg(call, party)
        if reason is m.RejectReason.DECLINED:
            return self._leave_out(call, party, EndReason.DECLINED, unix_ms)
        invitee.is_busy = True
        return [] if invitee.legs else self._leave_out(call, party, EndReason.BUSY, unix_ms)

    # The two parties -------------------------------------------------------------------------

    def hangup(self, party: Party, call_id: str, reason: m.HangupReason, unix_ms: int) -> Verdict:
        """Either party ends an answered call."""
        call = self._admit(party, call_id, Step.HANG_UP)
        if isinstance(call, Refusal):
            return call
        return self._end(call, EndReason(reason), unix_ms, by=party)

    # What happens to them --------------------------------------------------------------------

    def device_online(self, party: Party, now: float, unix_ms: int) -> list[Outcome]:
        """A session began: it gets the invites that wait for its identity."""
        if self._table.is_live(party):
            return []
        self._table.add_session(party)
        outcomes: list[Outcome] = []
        for call in self._table.awaiting.of(party.who):
            if len(call.invitees[party.identity].legs) < self._limits.devices_per_identity:
                self._table.add_leg(call, party)
                outcomes.append(self._ring(call, party, now, unix_ms))
        return outcomes

    def party_gone(self, party: Party, unix_ms: int, *, kicked: bool = False) -> list[Outcome]:
        """A session is over: left, its window ended, or it was kicked."""
        if not self._table.is_live(party):
            return []
        self._table.remove_session(party)
        outcomes: list[Outcome] = []
        for call in self._table.taking_part.of(party.peer):
            if call.state is CallState.ACTIVE:
                reason = EndReason.KICKED if kicked else EndReason.UNREACHABLE
                outcomes += self._end(call, reason, unix_ms, by=party)
            elif call.caller == party:
                reason = EndReason.KICKED if kicked else EndReason.CANCELED
                outcomes += self._end(call, reason, unix_ms, by=party)
            else:
                outcomes += self._leg_gone(call, party, unix_ms)
        return outcomes

    def end(self, account: str, call_id: str, reason: ServerReason, unix_ms: int) -> Verdict:
        """The server ends a call: its room is closed, or an operator said so."""
        call = self._find(account, call_id)
        return call if isinstance(call, Refusal) else self._end(call, reason, unix_ms)

    def expire(self, now: float, unix_ms: int) -> list[Outcome]:
        """End what nobody has answered in its lifetime."""
        outcomes: list[Outcome] = []
        for call_id in self._table.agenda.due(now):
            call = self._table.by_id[call_id]
            outcomes += self._end(call, call.timeout_reason(), unix_ms)
        return outcomes

    def next_deadline(self) -> float | None:
        return self._table.agenda.next()

    @property
    def agenda(self) -> Deadlines[str]:
        return self._table.agenda

    # What can be asked -----------------------------------------------------------------------

    def snapshot(self, peer: str, now: float) -> list[m.CallSnapshot]:
        """The calls this peer takes part in, for a session that resumes."""
        return [tell.seen_by(peer, call, now) for call in self._table.taking_part.of(peer)]

    def timeline(self, account: str, call_id: str) -> Timeline | None:
        call = self._table.by_id.get(call_id)
        if call is None:
            return self._ended.get(account, call_id)
        return call.timeline() if call.account == account else None

    @property
    def early_bytes(self) -> int:
        """Held in early logs on this node."""
        return self._table.early_bytes

    def containers(self) -> tuple[object, ...]:
        """What there is to know."""
        return self._table, self._ended

    def __len__(self) -> int:
        """Calls that are not over."""
        return len(self._table.by_id)

    # Whether a step may be taken -------------------------------------------------------------

    def _refuse_invite(
        self, caller: Party, call_id: str, identities: tuple[str, ...], lifetime: float
    ) -> Refusal | None:
        limits, table = self._limits, self._table
        if not identities:
            return Refusal(ErrorCode.BAD_REQUEST, "nobody is invited")
        if not limits.lifetime_min_s <= lifetime <= limits.lifetime_max_s:
            bounds = f"{limits.lifetime_min_s:g} to {limits.lifetime_max_s:g}"
            return Refusal(ErrorCode.BAD_REQUEST, f"lifetime_s must be {bounds}")
        if len(identities) > limits.identities_per_call:
            return Refusal(ErrorCode.LIMIT_EXCEEDED, "too many identities in one call")
        if not table.is_live(caller):
            return Refusal(ErrorCode.WRONG_STATE, "the calling session is over")
        if call_id in table.by_id or call_id in self._ended:
            return Refusal(ErrorCode.CONFLICT, "that call exists")
        if len(table.by_id) >= limits.calls_per_node:
            return Refusal(ErrorCode.LIMIT_EXCEEDED, "too many calls on this node")
        if table.placed.count(caller.who) >= limits.placed_per_identity:
            return Refusal(ErrorCode.LIMIT_EXCEEDED, "too many calls by this identity")
        for identity in identities:
            if table.awaiting.count((caller.account, identity)) >= limits.incoming_per_identity:
                return Refusal(ErrorCode.LIMIT_EXCEEDED, "too many calls wait for an answer there")
        return None

    def _find(self, account: str, call_id: str) -> Call | Refusal:
        call = self._table.by_id.get(call_id)
        if call is not None and call.account == account:
            return call
        timeline = self._ended.get(account, call_id)
        if timeline is None:
            return Refusal(ErrorCode.NOT_FOUND, "no such call")
        return Refusal(ErrorCode.WRONG_STATE, f"the call has ended: {timeline.reason}")

    def _admit(self, party: Party, call_id: str, step: Step) -> Call | Refusal:
        call = self._find(party.account, call_id)
        if isinstance(call, Refusal):
            return call
        if call.role(party) not in MAY[step]:
            return Refusal(ErrorCode.FORBIDDEN, "not yours to do in this call")
        if (call.state, step) not in TRANSITIONS:
            return Refusal(ErrorCode.WRONG_STATE, f"the call is {call.state}")
        return call

    def _admit_device(
        self, party: Party, call_id: str, step: Step
    ) -> tuple[Call, Invitee] | Refusal:
        call = self._admit(party, call_id, step)
        if isinstance(call, Refusal):
            return call
        if not call.rings_on(party):
            return Refusal(ErrorCode.WRONG_STATE, "the call does not ring on this device")
        return call, call.invitees[party.identity]

    # Ringing ---------------------------------------------------------------------------------

    def _ring(self, call: Call, device: Party, now: float, unix_ms: int) -> Notify:
        call.note(unix_ms, "delivered", device)
        waiting = self._table.active.count(device.who) > 0
        return tell.notify_invited(call, device, now, waiting=waiting)

    def _push_if_offline(self, call: Call, identity: str, unix_ms: int) -> list[Outcome]:
        invitee = call.invitees[identity]
        if invitee.legs or invitee.was_pushed:
            return []
        invitee.was_pushed = True
        call.trace.add(Entry(unix_ms, "push_requested", identity=identity))
        return [tell.push_requested(call, identity)]

    def _leg_gone(self, call: Call, device: Party, unix_ms: int) -> list[Outcome]:
        call.note(unix_ms, "device_gone", device)
        self._table.drop_leg(call, device)
        invitee = call.invitees[device.identity]
        if invitee.is_busy and not invitee.legs:
            return self._leave_out(call, device, EndReason.BUSY, unix_ms)
        return self._push_if_offline(call, device.identity, unix_ms)

    def _leave_out(self, call: Call, by: Party, reason: EndReason, unix_ms: int) -> list[Outcome]:
        """An identity is out of the call; without any other the call is over."""
        ended = m.CallEnded(call=call.id, reason=reason, device=by.peer)
        peers = self._table.drop_invitee(call, by.identity)
        outcomes: list[Outcome] = [Notify(peer, ended) for peer in peers]
        if call.verdict is not EndReason.DECLINED:
            call.verdict = reason
        if not call.invitees:
            outcomes += self._end(call, call.verdict, unix_ms, by=by)
        return outcomes

    # Answer and end --------------------------------------------------------------------------

    def _rival(self, call: Call) -> Call | None:
        """The call by which one who is called here is calling the caller's own device."""
        rivals = [
            other
            for other in self._table.taking_part.of(call.caller.peer)
            if other.rings_on(call.caller) and call.rings_on(other.caller)
        ]
        return min(rivals, key=lambda other: other.id, default=None)

    def _meet(self, kept: Call, lost: Call, unix_ms: int) -> list[Outcome]:
        """Both wanted each other: the loser's caller answers the call that is kept."""
        reason = EndReason.ANSWERED_ELSEWHERE
        outcomes = self._end(lost, reason, unix_ms, replaced_by=kept.id)
        return outcomes + self._answer(kept, lost.caller, lost.media, unix_ms)

    def _answer(
        self, call: Call, callee: Party, media: CallMedia | None, unix_ms: int
    ) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for device in call.devices():
            if device != callee:
                # Who answered is the business of that identity's own devices only.
                by = callee.peer if device.identity == callee.identity else None
                reason = EndReason.ANSWERED_ELSEWHERE
                ended = m.CallEnded(call=call.id, reason=reason, device=by)
                outcomes.append(Notify(device.peer, ended))
        early = self._table.answer(call, callee)
        call.state = TRANSITIONS[call.state, Step.ACCEPT]
        call.accepted_unix_ms = unix_ms
        call.media = call.media if media is None else media.within(call.media)
        call.trace.add(Entry(unix_ms, "accepted", callee.peer, callee.identity), decisive=True)
        return [
            *outcomes,
            tell.notify_accepted(call, call.caller, callee, callee),
            tell.notify_accepted(call, callee, call.caller, callee),
            tell.paired(call, callee, early),
        ]

    def _end(
        self,
        call: Call,
        reason: EndReason,
        unix_ms: int,
        *,
        by: Party | None = None,
        replaced_by: str | None = None,
    ) -> list[Outcome]:
        """Tell everybody but the one whose doing it is, and forget all but the timeline."""
        device = by.peer if by is not None else None
        ended = m.CallEnded(call=call.id, reason=reason, device=device, replaced_by=replaced_by)
        outcomes: list[Outcome] = [Notify(p.peer, ended) for p in call.parties() if p != by]
        self._table.close(call)
        call.state = CallState.ENDED
        identity = by.identity if by is not None else None
        call.trace.add(Entry(unix_ms, "ended", device, identity), decisive=True)
        self._ended.add(call.timeline(reason))
        return [*outcomes, tell.over(call, reason, unix_ms)]
