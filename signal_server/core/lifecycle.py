"""How sessions live: hello, resume, refresh, loss, expiry, removal, and a node that goes away.

Joins the session tables to rooms and calls, which must hear of every beginning and end. It does not
know what peers say to each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from signal_server.core import inputs
from signal_server.core.address_policy import AddressPolicy
from signal_server.core.effects import Attached, Close, GrantIce, Send, Unattached
from signal_server.core.out import Out
from signal_server.core.receipts import Receipts
from signal_server.core.ringing import Ringing
from signal_server.core.room import Session
from signal_server.core.rooms import Rooms
from signal_server.core.sessions import Due, Sessions
from signal_server.wire import messages as m
from signal_server.wire.codec import Refusal
from signal_server.wire.codes import CloseCode, ErrorCode
from signal_server.wire.limits import Limits

ICE_REFRESH_AT = 0.8
"""Fraction of a credential's life after which fresh ICE servers are pushed."""
SERVER = "server"
"""`from` and `identity` of the operator's messages; no peer id looks like it."""
ICE_RETRY_S = 10.0
"""Pause after a push for which the broker had nothing."""


class Node(NamedTuple):
    """What this node tells its clients of itself."""

    name: str
    region: str
    limits: dict[str, Any]


class Lifecycle:
    """See the module's text."""

    def __init__(
        self,
        node: Node,
        limits: Limits,
        sessions: Sessions,
        rooms: Rooms,
        ringing: Ringing,
        out: Out,
        receipts: Receipts,
    ) -> None:
        self.policies: dict[bool, AddressPolicy] = {}
        """By whether the token allows relay candidates only; set by the switchboard."""
        self.on_end: Callable[[str], None] = _unheard
        """Who else must hear, by its id, that a session is over; set by the switchboard."""
        self._node = node
        self._limits = limits
        self._sessions = sessions
        self._rooms = rooms
        self._ringing = ringing
        self._out = out
        self._receipts = receipts

    def opened(self, event: inputs.Opened, now: float) -> None:
        hello, ice, permit = event.hello, event.ice, event.admission.permit
        former = self._sessions.former(event)
        session = self._sessions.begin(event, self.policies[permit.relay_only], now)
        welcome = m.Welcome(
            session=event.session,
            peer=event.peer,
            identity=permit.identity,
            resume=self._resume_of(event.admission),
            node=event.admission.node or self._node.name,
            region=event.admission.region or self._node.region,
            ping_interval_s=self._limits.ping_interval_s,
            limits=self._node.limits,
            ice_servers=ice.ice_servers if ice else None,
            ice_expires_at=ice.expires_at if ice else None,
        )
        self._out.do(Attached(event.connection))
        self._out.send(session, welcome)
        if ice is not None:
            refresh = now + ICE_REFRESH_AT * ice.ttl
            self._sessions.agenda.set((session.id, Due.ICE_REFRESH), refresh)
        refusal = None
        if hello.room is not None:
            refusal = self._rooms.enter(session, hello.room, hello.data, now, former)
        if former is not None:
            self._replaced(former, now)
        self._out.answer(session, hello.id, refusal or m.Ok(id=0, room=hello.room))
        self._ringing.online(session, now, self._out.unix_ms)

    def resumed(self, event: inputs.Resumed, now: float) -> None:
        found = self._sessions.find(event)
        if isinstance(found, Refusal):
            self._out.tally.resumes["expired"] += 1
            self._turn_away(event, found)
            return
        last_seq = event.resume.last_seq
        missed = found.outbox.since(last_seq)
        if missed is None:
            self._out.tally.resumes["gap"] += 1
            gap = Refusal(ErrorCode.RESUME_GAP, "messages are lost; say hello without resume")
            self._turn_away(event, gap)
            self._replaced(found, now)
            return
        self._out.tally.resumes["resumed"] += 1
        was_lost = found.connection is None
        policy = self.policies[event.admission.permit.relay_only]
        fence = self._sessions.attach(found, event, policy, now)
        if fence is not None:
            self._out.do(fence)
        self._out.do(Attached(event.connection))
        self._acknowledge(found, last_seq)
        self._out.send(found, self._resumed_message(found, event, len(missed), now))
        for seq, payload in enumerate(missed, last_seq + 1):
            self._out.do(Send(event.connection, payload, seq))
        self._out.answer(found, event.request, m.Ok(id=0))
        if was_lost:
            self._rooms.show_connected(found, connected=True)

    def _turn_away(self, event: inputs.Resumed, refusal: Refusal) -> None:
        self._out.refuse(event.connection, refusal, event.request)
        self._out.do(Unattached(event.connection))

    def _replaced(self, former: Session, now: float) -> None:
        """The client will go on with another session, and nobody without one."""
        connection = former.connection
        self.end(former, "connection_lost", now)
        if connection is not None:
            self._out.do(Close(connection, CloseCode.SUPERSEDED, "superseded"))

    def _acknowledge(self, session: Session, seq: int) -> None:
        session.outbox.ack(seq)
        self._receipts.acknowledged(session, seq)

    def _resumed_message(
        self, session: Session, event: inputs.Resumed, replayed: int, now: float
    ) -> m.Resumed:
        room = self._rooms.state(session)
        return m.Resumed(
            session=session.id,
            peer=session.peer,
            identity=session.permit.identity,
            resume=self._resume_of(event.admission),
            from_seq=event.resume.last_seq + 1,
            replayed=replayed,
            node=event.admission.node or self._node.name,
            region=event.admission.region or self._node.region,
            ping_interval_s=self._limits.ping_interval_s,
            limits=self._node.limits,
            rooms=[] if room is None else [room],
            calls=self._ringing.calls.snapshot(session.peer, now),
        )

    def rekeyed(self, event: inputs.Rekeyed) -> None:
        session = self._sessions.by_connection.get(event.connection)
        if session is not None:
            self._sessions.rekey(session, event.secret)
            resume = m.WelcomeResume(event.secret, self._limits.resume_window_s)
            self._out.send(session, m.NewSecret(resume=resume))

    def _resume_of(self, admission: inputs.Admission) -> m.WelcomeResume:
        return m.WelcomeResume(admission.resume_secret, self._limits.resume_window_s)

    def refreshed(self, event: inputs.Refreshed, now: float) -> None:
        session = self._sessions.by_connection.get(event.connection)
        if session is None:
            return
        if session.permit.who != event.permit.who:
            refusal = Refusal(ErrorCode.FORBIDDEN, "that token is another identity's")
            self._out.answer(session, event.request, refusal)
            return
        session.permit = event.permit
        session.policy = self.policies[event.permit.relay_only]
        self._sessions.watch_token(session, event.token_life_s, now)
        self._out.answer(session, event.request, m.Ok(id=0))

    def closed(self, event: inputs.Closed, now: float) -> None:
        session = self._sessions.detach(event.connection, now)
        if session is None:
            return
        if event.reason == "left" or not self._limits.resume_window_s:
            self.end(session, event.reason, now)
        else:
            self._rooms.show_connected(session, connected=False)

    def end(self, session: Session, reason: str, now: float, *, kicked: bool = False) -> None:
        """The session is over: nothing of it remains anywhere."""
        self._ringing.gone(session, now, self._out.unix_ms, kicked=kicked)
        self._rooms.leave(session, reason)
        self._sessions.end(session)
        self.on_end(session.id)

    def due(self, session: Session, due: Due, now: float) -> None:
        match due:
            case Due.WINDOW_ENDS:
                self.end(session, "connection_lost", now)
            case Due.ICE_REFRESH:
                self._out.do(_refresh_of(session))
            case Due.TOKEN_WARNING:
                left = round(session.token_ends - now, 3)
                self._out.deliver(session, m.TokenExpiring(expires_in_s=left))
            case Due.TOKEN_EXPIRES:
                self._token_expired(session, now)

    def _token_expired(self, session: Session, now: float) -> None:
        connection = session.connection
        if connection is not None:
            self._out.do(Close(connection, CloseCode.TOKEN_EXPIRED, "token expired"))
            self._sessions.detach(connection, now)
            self._rooms.show_connected(session, connected=False)

    def removed(self, event: inputs.Removed, now: float) -> None:
        """Taken out by an operator; the room of a name that is not there is already closed."""
        room = self._rooms.by_name.get((event.account, event.room))
        members = [] if room is None else list(room.members.values())
        code = CloseCode.ROOM_CLOSED if event.peer is None else CloseCode.KICKED
        for member in members:
            if event.peer not in (None, member.peer):
                continue
            if event.ban_s:
                self._rooms.ban(member, now + event.ban_s, now)
            connection = member.connection
            self.end(member, "kicked" if event.peer else "room_closed", now, kicked=True)
            if connection is not None:
                self._out.do(Close(connection, code, code.name.lower()))

    def draining(self, event: inputs.Draining) -> None:
        leaving = [
            session
            for connection, session in self._sessions.by_connection.items()
            if event.among is None or connection in event.among
        ]
        for place, session in enumerate(leaving, 1):
            share = place / len(leaving)
            away = m.GoAway(
                reason=event.reason,
                reconnect_after_ms=int(event.spread_ms * share),
                deadline_ms=event.deadline_ms,
                url=event.url,
            )
            self._out.deliver(session, away)

    def said(self, event: inputs.Said) -> None:
        """The operator speaks to a room."""
        room = self._rooms.by_name.get((event.account, event.room))
        for member in [] if room is None else room.members.values():
            message = m.RelayedMessage(sender=SERVER, identity=SERVER, data=event.data)
            self._out.deliver(member, message)

    def ice_granted(self, event: inputs.IceGranted, now: float) -> None:
        """The broker has answered."""
        session = self._sessions.by_id.get(event.session)
        if session is None:
            return
        grant = event.grant
        if not isinstance(grant, inputs.IceGrant):
            session.ice_wish = (None, None)
            if event.request is None:
                self._sessions.agenda.set((session.id, Due.ICE_REFRESH), now + ICE_RETRY_S)
            self._out.answer(session, event.request, grant or _NO_ICE)
            return
        ice = m.IceServers(
            ice_servers=grant.ice_servers, ttl=grant.ttl, expires_at=grant.expires_at
        )
        self._out.deliver(session, ice)
        refresh = now + ICE_REFRESH_AT * grant.ttl
        self._sessions.agenda.set((session.id, Due.ICE_REFRESH), refresh)
        self._out.answer(session, event.request, m.Ok(id=0))


_NO_ICE = Refusal(ErrorCode.UNAVAILABLE, "no ICE servers can be granted now")


def _unheard(session: str) -> None:
    """Before the switchboard has set it."""


def _refresh_of(session: Session) -> GrantIce:
    permit, (ttl, region) = session.permit, session.ice_wish
    who = {"account": permit.account, "identity": permit.identity}
    return GrantIce(session=session.id, ttl=ttl, region=region, remote=session.remote, **who)
