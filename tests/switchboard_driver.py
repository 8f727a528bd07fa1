"""Drives a real `Switchboard` in the words of the wire: JSON in, JSON out, a clock by hand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, Literal

from signal_server.core import inputs
from signal_server.core.effects import Announce, Close, Effect, GrantIce, Send
from signal_server.core.rules import NegotiationRules, Rules
from signal_server.core.state import capture, restore
from signal_server.core.switchboard import Switchboard
from signal_server.core.tally import Tally
from signal_server.wire.codec import Refusal, decode
from signal_server.wire.limits import Limits
from signal_server.wire.messages import Hello, Resume
from signal_server.wire.rates import unhurried

Json = dict[str, Any]


def sdp(*sections: tuple[str | None, str | None], session_ufrag: str | None = None) -> str:
    """A description with one m-section per (mid, ufrag)."""
    lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "t=0 0"]
    if session_ufrag is not None:
        lines.append(f"a=ice-ufrag:{session_ufrag}")
    for mid, ufrag in sections:
        lines.append("m=audio 9 UDP/TLS/RTP/SAVPF 111")
        if ufrag is not None:
            lines += [f"a=ice-ufrag:{ufrag}", "a=ice-pwd:0123456789012345678901"]
        if mid is not None:
            lines.append(f"a=mid:{mid}")
    return "\r\n".join([*lines, ""])


def candidate(
    n: int, ufrag: str | None = None, mid: str | None = "0", index: int | None = None
) -> Json:
    """The n-th candidate, in the shape of RTCIceCandidate.toJSON()."""
    init: Json = {"candidate": f"candidate:{n} 1 udp {n} 127.0.0.1 {n} typ host"}
    if mid is not None:
        init["sdpMid"] = mid
    if index is not None:
        init["sdpMLineIndex"] = index
    if ufrag is not None:
        init["usernameFragment"] = ufrag
    return init


def moved(board: Switchboard, fresh: Switchboard) -> Switchboard:
    """What another process goes on with, and of the counters what they were."""
    for each in fields(Tally):
        setattr(fresh.tally, each.name, getattr(board.tally, each.name))
    restore(fresh, capture(board))
    return fresh


class Client:
    """One connection; what it was sent is in `inbox`."""

    def __init__(self, driver: Driver, connection: int, account: str, identity: str) -> None:
        self.driver = driver
        self.connection = connection
        self.account = account
        self.identity = identity
        self.peer = f"p{connection}"
        self.session = f"s{connection}"
        self.inbox: list[Json] = []
        self.closed: Close | None = None
        self.is_open = True
        self.permit = inputs.Permit(account=account, identity=identity)
        self.token_life_s = 1e6

    def admission(self, secret: str = "secret") -> inputs.Admission:
        """What the edge makes of this client's token."""
        return inputs.Admission(
            permit=self.permit, token_life_s=self.token_life_s, resume_secret=secret
        )

    def send(self, kind: str, **fields: Any) -> list[Json]:
        """Say something; returns what this client is told at once."""
        before = len(self.inbox)
        fields = {name.rstrip("_"): value for name, value in fields.items()}
        message = decode(json.dumps({"type": kind, **fields}), 64)
        assert not isinstance(message, Refusal), message
        fresh_id = str(next(self.driver.fresh_ids))
        self.driver.feed(inputs.Received(self.connection, message, fresh_id))
        return self.inbox[before:]

    def code(self, kind: str, **fields: Any) -> str | None:
        """The error that saying it brings; None when there is none."""
        errors = [m for m in self.send(kind, **fields) if m["type"] == "error"]
        return errors[0]["code"] if errors else None

    def disconnect(self, reason: str = "connection_lost") -> None:
        self.is_open = False
        self.driver.feed(inputs.Closed(self.connection, reason))

    def take(self, *kinds: str) -> list[Json]:
        """Remove and return what is in the inbox, of these types or all."""
        taken = [m for m in self.inbox if not kinds or m["type"] in kinds]
        self.inbox = [m for m in self.inbox if kinds and m["type"] not in kinds]
        return taken

    def flow(self) -> list[str]:
        """Take descriptions and candidates as short words, in order."""
        words: list[str] = []
        for message in self.take():
            if message["type"] == "candidate":
                for init in message["candidates"]:
                    line = init["candidate"]
                    words.append(line.split()[0][10:] if line else f"end:{init['sdpMid'] or '*'}")
            elif message["type"] in ("offer", "answer", "pranswer", "rollback"):
                words.append(message["type"])
        return words


class Driver:
    """A node with its clients."""

    def __init__(
        self, *, glare: Literal["passthrough", "arbitrate"] = "passthrough", **limits: Any
    ) -> None:
        bounds = {"resume_window_s": 0, **limits}
        rules = Rules(
            limits=Limits(**bounds),
            rates=unhurried(),
            negotiation=NegotiationRules(glare=glare),
        )
        self._rules = rules
        self.board = Switchboard("n1", "eu", rules, 1)
        self.now = 1000.0
        self.clients: dict[int, Client] = {}
        self.grants: list[GrantIce] = []
        self.facts: list[Announce] = []
        self.fresh_ids: Iterator[int] = itertools.count(1)
        self._connections: Iterator[int] = itertools.count(1)

    def connect(
        self,
        room: str | None = "r",
        *,
        identity: str | None = None,
        account: str = "AC1",
        features: list[str] | None = None,
        rooms: str = "*",
        may_turn: bool = True,
        may_call: bool = True,
        token_life_s: float = 1e6,
        ice: inputs.IceGrant | None = None,
        **hello: Any,
    ) -> Client:
        connection = next(self._connections)
        client = Client(self, connection, account, identity or f"i{connection}")
        self.clients[connection] = client
        text = {"type": "hello", "room": room, "features": features or [], **hello}
        message = decode(json.dumps(text), 64)
        assert isinstance(message, Hello), message
        client.permit = inputs.Permit(
            account=account,
            identity=client.identity,
            name=client.identity.upper(),
            room=rooms,
            may_turn=may_turn,
            may_call=may_call,
        )
        client.token_life_s = token_life_s
        opened = inputs.Opened(
            connection=connection,
            admission=client.admission(),
            session=f"s{connection}",
            peer=client.peer,
            hello=message,
            ice=ice,
        )
        self.feed(opened)
        return client

    def resume(
        self,
        client: Client,
        last_seq: int,
        *,
        secret: str = "secret",
        new_secret: str = "next",
        request: str | None = None,
    ) -> Client:
        """Take up the client's session on a new connection; the new one has an inbox of its own."""
        connection = next(self._connections)
        back = Client(self, connection, client.account, client.identity)
        back.peer, back.permit, back.session = client.peer, client.permit, client.session
        self.clients[connection] = back
        resumed = inputs.Resumed(
            connection=connection,
            admission=back.admission(new_secret),
            resume=Resume(client.session, secret, last_seq),
            request=request,
        )
        self.feed(resumed)
        return back

    def move(self) -> None:
        """Another process goes on."""
        self.board = moved(self.board, Switchboard("n1", "eu", self._rules, 1))

    def feed(self, event: inputs.Input) -> None:
        self._execute(self.board.handle(event, self.now, int(self.now * 1000)))

    def pass_time(self, seconds: float) -> None:
        """Let deadlines fire when they are due, as the edge's timer does."""
        until = self.now + seconds
        while (at := self.board.next_deadline()) is not None and at <= until:
            self.now = max(self.now, at)
            self._execute(self.board.handle_timeout(self.now, int(self.now * 1000)))
            following = self.board.next_deadline()
            assert following is None or following > self.now, "a deadline that is never met"
        self.now = until

    def _execute(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self._open(effect).inbox.append(json.loads(effect.payload))
                case Close():
                    self._open(effect).closed = effect
                case GrantIce():
                    self.grants.append(effect)
                case Announce():
                    self.facts.append(effect)

    def _open(self, effect: Send | Close) -> Client:
        client = self.clients[effect.connection]
        assert client.is_open, f"{effect} for a connection that is gone"
        return client

    def is_empty(self) -> bool:
        """Nothing of any session is left."""
        board = self.board
        return not (
            board.sessions.by_id
            or board.sessions.by_connection
            or len(board.calls)
            or board.rooms
            or board.tally.candidates_held
            or board.tally.held_bytes
            or len(board._end_agenda)
            or len(board.sessions.agenda)
        )
