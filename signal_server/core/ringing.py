"""Joins calls to sessions and rooms: who may call, and what the outcomes of a call do.

The rules of calls are in `core.calls`. It executes their outcomes: messages into logs, the two
parties into one room, what the caller sent early to the device that answered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Raw, UnsetType, structs

from signal_server.core import call_outcomes as outcome
from signal_server.core.call import CallLimits, Party
from signal_server.core.calls import Calls, Verdict
from signal_server.core.effects import Announce
from signal_server.core.room import Session
from signal_server.core.rooms import Rooms
from signal_server.wire import call_messages as c
from signal_server.wire import messages as m
from signal_server.wire.base import Numbered
from signal_server.wire.candidate import CandidateInit
from signal_server.wire.codec import Refusal
from signal_server.wire.codes import ErrorCode

ITEM_OVERHEAD = 200
"""Bytes charged for an early message beside its SDP or candidates."""


class Ringing:
    """The calls of a node, with everything they touch."""

    def __init__(
        self,
        limits: CallLimits,
        rooms: Rooms,
        deliver: Callable[[Session, Numbered], None],
        announce: Callable[[Announce], None],
        data_bytes: int,
    ) -> None:
        self.calls = Calls(limits)
        self._rooms = rooms
        self._announce = announce
        self._deliver = deliver
        self.relay_early: Callable[[Session, Session, m.Directed, float], None] = _drop
        """How an early message goes to the device that answered; set by the switchboard."""
        self._data_bytes = data_bytes
        self._by_peer: dict[str, Session] = {}

    def containers(self) -> tuple[object, ...]:
        """What there is to know."""
        return self._by_peer, *self.calls.containers()

    def session(self, peer: str) -> Session | None:
        """The live session of a peer."""
        return self._by_peer.get(peer)

    def online(self, session: Session, now: float, unix_ms: int) -> None:
        """A new session: invites that wait for its identity ring on it."""
        self._by_peer[session.peer] = session
        self._execute(self.calls.device_online(party_of(session), now, unix_ms), now)

    def gone(self, session: Session, now: float, unix_ms: int, *, kicked: bool) -> None:
        """A session is over."""
        outcomes = self.calls.party_gone(party_of(session), unix_ms, kicked=kicked)
        self._by_peer.pop(session.peer, None)
        self._execute(outcomes, now)

    def expire(self, now: float, unix_ms: int) -> None:
        self._execute(self.calls.expire(now, unix_ms), now)

    def invite(
        self, session: Session, message: c.CallInvite, call_id: str, now: float, unix_ms: int
    ) -> tuple[Refusal | m.Ok, Callable[[], None]]:
        """The answer, and what to do after it has been sent: the call may end at once."""
        refusal = self._may_invite(session, message)
        if refusal is not None:
            return refusal, _nothing
        if isinstance(message.data, Raw):
            message.data = message.data.copy()
        verdict = self.calls.invite(party_of(session), call_id, message, now, unix_ms)
        if isinstance(verdict, Refusal):
            return verdict, _nothing
        return m.Ok(id=0, call=call_id), lambda: self._execute(verdict, now)

    def step(self, session: Session, message: c.CallRequest, now: float, unix_ms: int) -> Verdict:
        """Any message about a call that exists; outcomes are executed here."""
        party, call = party_of(session), message.call
        verdict: Verdict
        match message:
            case c.CallRinging():
                verdict = self.calls.ringing(party, call, unix_ms)
            case c.CallAccept():
                verdict = self.calls.accept(party, call, message.media, unix_ms)
            case c.CallReject():
                verdict = self.calls.reject(party, call, message.reason, unix_ms)
            case c.CallCancel():
                verdict = self.calls.cancel(party, call, unix_ms)
            case c.CallHangup():
                verdict = self.calls.hangup(party, call, message.reason, unix_ms)
            case _:
                verdict = Refusal(ErrorCode.BAD_REQUEST, "not a message about a call")
        if not isinstance(verdict, Refusal):
            self._execute(verdict, now)
        return verdict

    def early(self, session: Session, message: m.Offer | m.Candidate) -> Refusal | None:
        """Keep what is addressed to a call for the device that will answer it."""
        size = _early_size(message)
        verdict = self.calls.early(party_of(session), message.to, message, size)
        return verdict if isinstance(verdict, Refusal) else None

    def _may_invite(self, session: Session, message: c.CallInvite) -> Refusal | None:
        if not session.permit.may_call:
            return Refusal(ErrorCode.FORBIDDEN, "the token does not grant call")
        if message.room is not None and not session.permit.may_join(message.room):
            return Refusal(ErrorCode.FORBIDDEN, "the token does not grant this room")
        if _size(message.data) > self._data_bytes:
            return Refusal(ErrorCode.PAYLOAD_TOO_LARGE, "data is too long")
        return None

    def _execute(self, outcomes: list[outcome.Outcome], now: float) -> None:
        for each in outcomes:
            match each:
                case outcome.Notify():
                    session = self._by_peer.get(each.peer)
                    if session is not None:
                        self._deliver(session, each.message)
                case outcome.Paired():
                    self._pair(each, now)
                    self._announce(_fact("call.accepted", each, {"callee": _shown(each.callee)}))
                case outcome.Invited():
                    invited = {"identities": list(each.identities)}
                    self._announce(_fact("call.invited", each, invited))
                case outcome.PushRequested():
                    wanted = {"identity": each.identity, "expires_unix_ms": each.expires_unix_ms}
                    self._announce(_fact("push.requested", each, wanted))
                case outcome.Over():
                    ended = {
                        "callee": _shown(each.callee) if each.callee else None,
                        "reason": each.reason.value,
                        "active_ms": each.active_ms,
                    }
                    self._announce(_fact("call.ended", each, ended))

    def _pair(self, paired: outcome.Paired, now: float) -> None:
        """Both into one room, the caller first: the one who joins later is polite."""
        caller = self._by_peer.get(paired.caller.peer)
        callee = self._by_peer.get(paired.callee.peer)
        if caller is None or callee is None:
            return
        for session in (caller, callee):
            if session.room is None or session.room.name != paired.room:
                self._rooms.admit(session, paired.room)
        for item in paired.early:
            if isinstance(item, m.Directed):
                addressed = structs.replace(item, to=callee.peer)
                self.relay_early(caller, callee, addressed, now)


def party_of(session: Session) -> Party:
    permit = session.permit
    return Party(permit.account, permit.identity, session.peer)


def _drop(caller: Session, callee: Session, message: m.Directed, now: float) -> None:
    """Before the switchboard has set it."""


def _nothing() -> None:
    """Nothing is left to do after the answer."""


def _early_size(message: m.Offer | m.Candidate) -> int:
    """Bytes that keeping it costs."""
    if isinstance(message, m.Offer):
        return ITEM_OVERHEAD + len(message.sdp)
    listed = message.candidates if isinstance(message.candidates, list) else [message.candidate]
    texts = [each.candidate or "" for each in listed if isinstance(each, CandidateInit)]
    return ITEM_OVERHEAD * (1 + len(listed)) + sum(map(len, texts))


def _size(data: Raw | UnsetType) -> int:
    return len(bytes(data)) if isinstance(data, Raw) else 0


def _fact(
    kind: str,
    about: outcome.Invited | outcome.Paired | outcome.PushRequested | outcome.Over,
    more: dict[str, Any],
) -> Announce:
    data = {"call": about.call, "caller": _shown(about.caller), **more}
    return Announce(kind=kind, account=about.account, room=about.room, data=data)


def _shown(party: Party) -> dict[str, str]:
    return {"identity": party.identity, "peer": party.peer}
