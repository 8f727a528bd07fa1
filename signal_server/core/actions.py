"""What each client message does, one short method each.

A method returns `ok`, a refusal, or None when nobody asked or the answer comes later. Whose message
it is, whether it came too fast or was answered before, the switchboard has settled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from signal_server.core.directed import Directed
from signal_server.core.effects import Close, GrantIce
from signal_server.core.out import Out
from signal_server.core.receipts import Receipts
from signal_server.core.ringing import Ringing
from signal_server.core.room import Session
from signal_server.core.rooms import Rooms
from signal_server.wire import call_messages as c
from signal_server.wire import messages as m
from signal_server.wire.codec import Refusal
from signal_server.wire.codes import CloseCode, ErrorCode

Reply = m.Ok | Refusal | None
Action = Callable[[Session, Any, float], Reply]
Relay = Callable[[Session, Session, Any, float], int | Refusal]
CALL_ID_PREFIX = "c_"
_AWAY = Refusal(ErrorCode.PEER_UNREACHABLE, "at a node that is out of reach now; nothing was sent")


class Actions:
    """Built once by the switchboard from its parts."""

    def __init__(
        self,
        rooms: Rooms,
        directed: Directed,
        ringing: Ringing,
        out: Out,
        receipts: Receipts,
        end: Callable[[Session, str, float], None],
    ) -> None:
        self._rooms = rooms
        self._directed = directed
        self._ringing = ringing
        self._out = out
        self._receipts = receipts
        self._end = end
        self._relays: dict[type, Relay] = {
            m.Offer: directed.offer,
            m.Answer: directed.answer,
            m.Pranswer: directed.answer,
            m.Rollback: directed.rollback,
            m.Candidate: directed.candidate,
            m.Applied: directed.applied,
            m.Renegotiate: directed.renegotiate,
            m.State: directed.state,
        }

    def table(self) -> dict[type, Action]:
        """Every client message but those that the switchboard handles itself."""
        steps = (c.CallRinging, c.CallAccept, c.CallReject, c.CallCancel, c.CallHangup)
        return {
            m.Hello: self._second_hello,
            m.Join: self._join,
            m.Leave: self._leave,
            **dict.fromkeys(self._relays, self._to_peer),
            m.Message: self._message,
            m.Update: self._update,
            m.IceServersRequest: self._ice_servers,
            m.Ping: self._ping,
            m.Ack: self._ack,
            m.Bye: self._bye,
            c.CallInvite: self._invite,
            **dict.fromkeys(steps, self._call_step),
        }

    def _second_hello(self, session: Session, message: m.Hello, now: float) -> Reply:
        return Refusal(ErrorCode.WRONG_STATE, "this session has said hello already")

    def _ping(self, session: Session, message: m.Ping, now: float) -> Reply:
        self._out.send(session, m.Pong(t=message.t))
        return m.Ok(id=0)

    def _bye(self, session: Session, message: m.Bye, now: float) -> Reply:
        connection = session.connection
        self._out.answer(session, message.id, m.Ok(id=0))
        self._end(session, "left", now)
        if connection is not None:
            self._out.do(Close(connection, CloseCode.NORMAL, "bye"))
        return None

    def _ack(self, session: Session, message: m.Ack, now: float) -> Reply:
        if not session.outbox.ack(message.seq):
            return Refusal(ErrorCode.BAD_REQUEST, "that number was never sent")
        self._receipts.acknowledged(session, message.seq)
        return m.Ok(id=0)

    def _join(self, session: Session, message: m.Join, now: float) -> Reply:
        refusal = self._rooms.enter(session, message.room, message.data, now)
        return refusal or m.Ok(id=0, room=message.room)

    def _leave(self, session: Session, message: m.Leave, now: float) -> Reply:
        room = session.room
        if room is None or message.room not in (None, room.name):
            return Refusal(ErrorCode.WRONG_STATE, "not in that room")
        self._rooms.leave(session, "left")
        return m.Ok(id=0, room=room.name)

    def _update(self, session: Session, message: m.Update, now: float) -> Reply:
        return self._rooms.update(session, message.data) or m.Ok(id=0)

    def _to_peer(self, session: Session, message: m.Directed, now: float) -> Reply:
        """Find the other peer, then let `Directed` do the rest."""
        target = self._member(session, message.to)
        if isinstance(target, Refusal):
            is_call = message.to.startswith(CALL_ID_PREFIX)
            return self._early(session, message, now) if is_call else target
        is_new = (message.to, message.pc) not in session.ends
        if is_new and not self._directed.may_open(session, target):
            return Refusal(ErrorCode.LIMIT_EXCEEDED, "too many peer connections for this pair")
        outcome = self._relays[type(message)](session, target, message, now)
        if isinstance(outcome, Refusal):
            return outcome
        return None if message.id is None else m.Ok(id=0, negotiation=outcome or None)

    def _early(self, session: Session, message: m.Directed, now: float) -> Reply:
        """Sent to a call that nobody has answered yet."""
        if not isinstance(message, m.Offer | m.Candidate):
            return Refusal(ErrorCode.WRONG_STATE, "only offers and candidates go to a call")
        refusal = self._directed.unfit(message) or self._ringing.early(session, message)
        return refusal or m.Ok(id=0)

    def relay_early(
        self, caller: Session, callee: Session, message: m.Directed, now: float
    ) -> None:
        """The call is answered: what was sent to it goes to the device that answered."""
        outcome = self._relays[type(message)](caller, callee, message, now)
        if isinstance(outcome, Refusal):
            self._out.answer(caller, message.id, outcome)

    def _message(self, session: Session, message: m.Message, now: float) -> Reply:
        if message.to is not None:
            target = self._member(session, message.to)
            if isinstance(target, Refusal):
                return target
            targets = [target]
        elif session.room is None:
            return Refusal(ErrorCode.WRONG_STATE, "join a room first")
        else:
            targets = session.room.others(session)
            if self._rooms.is_split(session.room):
                return _AWAY
        sender, identity = session.peer, session.permit.identity
        for target in targets:
            self._out.deliver(
                target, m.RelayedMessage(sender=sender, identity=identity, data=message.data)
            )
        if message.to is not None and session.followed is not None:
            self._receipts.relayed(session, targets[0], message.id)
        return None if message.id is None else m.Ok(id=0)

    def _member(self, session: Session, peer: str) -> Session | Refusal:
        room = session.room
        if room is None:
            return Refusal(ErrorCode.WRONG_STATE, "join a room first")
        target = room.members.get(peer)
        if target is None:
            return Refusal(ErrorCode.NOT_FOUND, "no such peer in this room")
        if target is session:
            return Refusal(ErrorCode.BAD_REQUEST, "a peer cannot write to itself")
        if self._rooms.is_cut_off is not None and self._rooms.is_away(target):
            return _AWAY
        return target

    def _ice_servers(self, session: Session, message: m.IceServersRequest, now: float) -> Reply:
        if not session.permit.may_turn:
            return Refusal(ErrorCode.FORBIDDEN, "the token does not grant turn")
        session.ice_wish = (message.ttl, message.region)
        grant = GrantIce(
            session=session.id,
            account=session.permit.account,
            identity=session.permit.identity,
            ttl=message.ttl,
            region=message.region,
            remote=session.remote,
            request=message.id,
        )
        self._out.do(grant)
        return None

    def _invite(self, session: Session, message: c.CallInvite, now: float) -> Reply:
        call = f"{CALL_ID_PREFIX}{self._out.fresh_id}"
        reply, ring = self._ringing.invite(session, message, call, now, self._out.unix_ms)
        self._out.answer(session, message.id, reply)
        ring()
        return None

    def _call_step(self, session: Session, message: c.CallRequest, now: float) -> Reply:
        verdict = self._ringing.step(session, message, now, self._out.unix_ms)
        return verdict if isinstance(verdict, Refusal) else m.Ok(id=0)
