"""The single owner of sessions, rooms, negotiations and buffers.

`handle(input, now)` changes state and returns effects; it never awaits and peer input never raises.
It is told the time and the randomness. It does not know sockets, tokens, metrics or the broker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from signal_server.core import inputs
from signal_server.core.deadlines import Deadlines
from signal_server.core.directed import Directed, EndKey
from signal_server.core.effects import Close, Effect, GrantIce, Send
from signal_server.core.room import Session
from signal_server.core.rooms import Rooms
from signal_server.core.tally import Tally
from signal_server.wire import messages as m
from signal_server.wire.codec import Refusal, encode
from signal_server.wire.codes import CloseCode, ErrorCode
from signal_server.wire.limits import Limits

ICE_REFRESH_AT = 0.8
"""Fraction of a credential's life after which fresh ICE servers are pushed."""
ICE_RETRY_S = 10.0
"""Pause after a push for which the broker had nothing."""

Reply = m.Ok | Refusal | None
"""None: the answer comes later."""
Action = Callable[[Session, Any, float], Reply]


class Switchboard:
    """One node's signaling state. `epoch` grows with every start of the node."""

    def __init__(self, node: str, region: str, limits: Limits, epoch: int) -> None:
        self.limits = limits
        self.tally = Tally()
        self.sessions: dict[int, Session] = {}
        self._node = node
        self._region = region
        self._effects: list[Effect] = []
        self._end_agenda: Deadlines[EndKey] = Deadlines()
        self._ice_agenda: Deadlines[int] = Deadlines()
        self._directed = Directed(limits, self.tally, self._end_agenda, self._deliver)
        self._rooms = Rooms(limits, self.tally, self._directed, self._deliver, epoch)
        self.rooms = self._rooms.by_name
        self._actions: dict[type, Action] = {
            m.Join: self._join,
            m.Leave: self._leave,
            m.Offer: self._to_peer(self._directed.offer),
            m.Answer: self._to_peer(self._directed.answer),
            m.Pranswer: self._to_peer(self._directed.answer),
            m.Rollback: self._to_peer(self._directed.rollback),
            m.Candidate: self._to_peer(self._directed.candidate),
            m.Applied: self._to_peer(self._directed.applied),
            m.Renegotiate: self._to_peer(self._directed.renegotiate),
            m.State: self._to_peer(self._directed.state),
            m.Message: self._message,
            m.Update: self._update,
            m.IceServersRequest: self._ice_servers,
            m.Ping: self._ping,
            m.Bye: self._bye,
            m.Hello: self._second_hello,
        }

    def handle(self, event: inputs.Input, now: float) -> list[Effect]:
        """Apply one input at monotonic time `now` (seconds); execute the effects in order."""
        effects = self._effects = []
        match event:
            case inputs.Received():
                self._received(event, now)
            case inputs.Opened():
                self._opened(event, now)
            case inputs.Closed():
                self._closed(event)
            case inputs.IceGranted():
                self._ice_granted(event, now)
            case _:
                self._draining(event)
        return effects

    def handle_timeout(self, now: float) -> list[Effect]:
        """Do what is due at `now`."""
        effects = self._effects = []
        for connection, peer, pc in self._end_agenda.due(now):
            session = self.sessions[connection]
            assert session.room is not None, "an end outlived its room"
            self._directed.expire(session, session.room.members[peer], pc, now)
        for connection in self._ice_agenda.due(now):
            permit = self.sessions[connection].permit
            grant = GrantIce(
                connection=connection, account=permit.account, identity=permit.identity
            )
            effects.append(grant)
        return effects

    def next_deadline(self) -> float | None:
        """When `handle_timeout` has work next."""
        ends, ice = self._end_agenda.next(), self._ice_agenda.next()
        return min((at for at in (ends, ice) if at is not None), default=None)

    # Sessions -------------------------------------------------------------------------------

    def _opened(self, event: inputs.Opened, now: float) -> None:
        hello = event.hello
        session = Session(
            id=event.session,
            peer=event.peer,
            connection=event.connection,
            permit=event.permit,
            gated="gated" in hello.features,
        )
        self.sessions[event.connection] = session
        ice = event.ice
        welcome = m.Welcome(
            session=event.session,
            peer=event.peer,
            identity=event.permit.identity,
            resume=m.WelcomeResume(secret=event.resume_secret, window_s=0),
            node=self._node,
            region=self._region,
            ping_interval_s=self.limits.ping_interval_s,
            limits=_shown(self.limits),
            ice_servers=ice.ice_servers if ice else None,
            ice_expires_at=ice.expires_at if ice else None,
        )
        self._send(session, welcome)
        if ice is not None:
            self._ice_agenda.set(session.connection, now + ICE_REFRESH_AT * ice.ttl)
        refusal = None
        if hello.room is not None:
            refusal = self._rooms.enter(session, hello.room, hello.data)
        self._answer(session, hello.id, refusal or m.Ok(id=0, room=hello.room))

    def _closed(self, event: inputs.Closed) -> None:
        session = self.sessions.pop(event.connection, None)
        if session is None:
            return
        self._rooms.leave(session, event.reason)
        self._ice_agenda.set(event.connection, None)

    def _received(self, event: inputs.Received, now: float) -> None:
        session = self.sessions[event.connection]
        message = event.message
        request = message.id
        if request is not None and request in session.replies:
            self._effects.append(Send(session.connection, session.replies[request]))
            return
        reply = self._actions[type(message)](session, message, now)
        if reply is not None:
            self._answer(session, request, reply)

    def _answer(self, session: Session, request: str | int | None, reply: m.Ok | Refusal) -> None:
        if isinstance(reply, Refusal):
            self.refuse(session.connection, reply, request)
            return
        if request is None:
            return
        reply.id = request
        payload = encode(reply)
        self.tally.sent["ok"] += 1
        self._effects.append(Send(session.connection, payload))
        replies = session.replies
        replies[request] = payload
        if len(replies) > self.limits.remembered_requests:
            del replies[next(iter(replies))]

    def refuse(self, connection: int, refusal: Refusal, request: str | int | None = None) -> None:
        """Queue an `error` message for a connection."""
        self.tally.refused[refusal.code.value] += 1
        error = m.Error(
            code=refusal.code.value,
            message=refusal.message,
            retryable=refusal.code.retryable,
            id=request,
            retry_after_ms=refusal.retry_after_ms,
        )
        self._effects.append(Send(connection, encode(error)))

    def _second_hello(self, session: Session, message: m.Hello, now: float) -> Reply:
        return Refusal(ErrorCode.WRONG_STATE, "this session has said hello already")

    def _ping(self, session: Session, message: m.Ping, now: float) -> Reply:
        self._send(session, m.Pong(t=message.t))
        return m.Ok(id=0)

    def _bye(self, session: Session, message: m.Bye, now: float) -> Reply:
        self._rooms.leave(session, "left")
        self._answer(session, message.id, m.Ok(id=0))
        self._effects.append(Close(session.connection, CloseCode.NORMAL, "bye"))
        return None

    def _draining(self, event: inputs.Draining) -> None:
        for session in self.sessions.values():
            away = m.GoAway(
                reason=event.reason,
                reconnect_after_ms=event.reconnect_after_ms,
                deadline_ms=event.deadline_ms,
            )
            self._deliver(session, away)

    # Rooms ----------------------------------------------------------------------------------

    def _join(self, session: Session, message: m.Join, now: float) -> Reply:
        refusal = self._rooms.enter(session, message.room, message.data)
        return refusal or m.Ok(id=0, room=message.room)

    def _leave(self, session: Session, message: m.Leave, now: float) -> Reply:
        room = session.room
        if room is None or message.room not in (None, room.name):
            return Refusal(ErrorCode.WRONG_STATE, "not in that room")
        self._rooms.leave(session, "left")
        return m.Ok(id=0, room=room.name)

    def _update(self, session: Session, message: m.Update, now: float) -> Reply:
        return self._rooms.update(session, message.data) or m.Ok(id=0)

    # Messages to peers ----------------------------------------------------------------------

    def _to_peer(self, relay: Callable[[Session, Session, Any, float], int | Refusal]) -> Action:
        """Find the other peer, then let `Directed` do the rest."""

        def action(session: Session, message: m.Directed, now: float) -> Reply:
            target = self._member(session, message.to)
            if isinstance(target, Refusal):
                return target
            if not self._directed.may_open(session, target, message.pc):
                return Refusal(ErrorCode.LIMIT_EXCEEDED, "too many peer connections for this pair")
            outcome = relay(session, target, message, now)
            if isinstance(outcome, Refusal):
                return outcome
            return m.Ok(id=0, negotiation=outcome or None)

        return action

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
        sender, identity = session.peer, session.permit.identity
        for target in targets:
            self._deliver(
                target, m.RelayedMessage(sender=sender, identity=identity, data=message.data)
            )
        return m.Ok(id=0)

    def _member(self, session: Session, peer: str) -> Session | Refusal:
        if session.room is None:
            return Refusal(ErrorCode.WRONG_STATE, "join a room first")
        target = session.room.members.get(peer)
        if target is None:
            return Refusal(ErrorCode.NOT_FOUND, "no such peer in this room")
        if target is session:
            return Refusal(ErrorCode.BAD_REQUEST, "a peer cannot write to itself")
        return target

    # ICE servers ----------------------------------------------------------------------------

    def _ice_servers(self, session: Session, message: m.IceServersRequest, now: float) -> Reply:
        if not session.permit.may_turn:
            return Refusal(ErrorCode.FORBIDDEN, "the token does not grant turn")
        grant = GrantIce(
            connection=session.connection,
            account=session.permit.account,
            identity=session.permit.identity,
            ttl=message.ttl,
            region=message.region,
            request=message.id,
        )
        self._effects.append(grant)
        return None

    def _ice_granted(self, event: inputs.IceGranted, now: float) -> None:
        session = self.sessions.get(event.connection)
        if session is None:
            return
        grant = event.grant
        if grant is None:
            refusal = Refusal(ErrorCode.UNAVAILABLE, "no ICE servers can be granted now")
            self._answer(session, event.request, refusal)
            if event.request is None:
                self._ice_agenda.set(session.connection, now + ICE_RETRY_S)
            return
        ice = m.IceServers(
            ice_servers=grant.ice_servers, ttl=grant.ttl, expires_at=grant.expires_at
        )
        self._deliver(session, ice)
        self._ice_agenda.set(session.connection, now + ICE_REFRESH_AT * grant.ttl)
        self._answer(session, event.request, m.Ok(id=0))

    # Out ------------------------------------------------------------------------------------

    def _deliver(self, target: Session, message: m.Numbered) -> None:
        """Append to the target's numbered log."""
        message.seq = target.next_seq()
        self._send(target, message)

    def _send(self, target: Session, message: m.Numbered | m.Reply) -> None:
        self.tally.sent[cast("str", type(message).__struct_config__.tag)] += 1
        self._effects.append(Send(target.connection, encode(message)))


def _shown(limits: Limits) -> dict[str, float]:
    """The limits that concern a client."""
    return {
        "message_bytes": limits.message_bytes,
        "sdp_bytes": limits.sdp_bytes,
        "data_bytes": limits.data_bytes,
        "candidate_bytes": limits.candidate_bytes,
        "candidates_per_message": limits.candidates_per_message,
        "candidates_per_generation": limits.candidates_per_generation,
        "peers_per_room": limits.peers_per_room,
    }
