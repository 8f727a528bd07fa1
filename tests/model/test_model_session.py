"""Sessions and their logs against a naive oracle that predicts every byte a connection is sent.

Clients say hello, lose connections, resume with right, former and wrong secrets, repeat requests,
acknowledge too little, read over HTTP, want receipts, talk on connections that were fenced off, and
stay away for longer than the window. The oracle keeps whole messages in plain lists and finds out
everything by looking through them; it shares no code with the core. PARLEY_LONG=1 runs 100k steps
and more.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from switchboard_driver import moved

from signal_server.core import inputs
from signal_server.core.effects import Close, Effect, Send
from signal_server.core.rules import Rules
from signal_server.core.switchboard import Switchboard
from signal_server.wire.codec import Refusal, decode
from signal_server.wire.limits import Limits
from signal_server.wire.messages import Former, Hello, Resume
from signal_server.wire.rates import unhurried

Json = dict[str, Any]
IS_LONG = os.environ.get("PARLEY_LONG") == "1"
WINDOW_S = 10.0
LOG_MESSAGES, LOG_BYTES = 6, 900
REMEMBERED = 4
FORMER_SECRETS = 4
ROOMS = ("r0", "r1")
TICK_S = 0.0010007
"""Passes with every step, so that no two deadlines fall together."""
TOKEN_LIVES_S = (1e6, 1e6, 31.7, 150.3)
LONG_MESSAGE = "x" * 400

picks = st.integers(0, 10**6)
rooms = st.sampled_from(ROOMS)
lives = st.sampled_from(TOKEN_LIVES_S)
newest_first = st.sampled_from([0, 0, 0, 0, 1, 1, 2, 5])
missed = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 5, 8, -1, -2])
"""How far behind the log's end a client says it is; a negative number is ahead of it."""
request_ids = st.sampled_from(["none", "new", "new", "again", "again", "older"])
rarely = st.sampled_from([False] * 7 + [True])


def size_of(message: Json) -> int:
    return len(json.dumps(message, separators=(",", ":")))


@dataclass(eq=False)
class Known:
    """What the oracle knows of a session."""

    session: str
    peer: str
    identity: str
    connection: int | None
    good_secrets: list[str]
    token_ends: float
    warns_at: float | None
    log: list[Json] = field(default_factory=list)
    """Everything it was ever sent with a number."""
    forgotten: int = 0
    """How much of the log can no longer be replayed."""
    answers: list[tuple[str, Json]] = field(default_factory=list)
    wants_receipts: bool = False
    followed: dict[str, str] = field(default_factory=dict)
    """Own messages that are not received: the receiver, by request."""
    awaited: list[tuple[int, str, str]] = field(default_factory=list)
    """Messages of the log that somebody follows: number, sender, request."""
    room: str | None = None
    data: Any = None
    ends_at: float | None = None

    def kept(self) -> list[Json]:
        return self.log[self.forgotten :]

    def after(self, seq: int) -> list[Json] | None:
        return self.log[seq:] if self.forgotten <= seq <= len(self.log) else None

    def acknowledge(self, seq: int) -> bool:
        if seq > len(self.log):
            return False
        self.forgotten = max(self.forgotten, seq)
        return True


class Oracle:
    """The promises of docs/protocol.md, "Losing the connection", word by word."""

    def __init__(self) -> None:
        self.live: list[Known] = []
        """In the order in which they entered their rooms."""
        self.revision: Counter[str] = Counter()
        self.rooms_made = 1
        self.epochs: dict[str, int] = {}
        self.sent: dict[int, list[Json | int]] = defaultdict(list)
        """By connection, since it was last looked: messages, and close codes."""

    # Looking ---------------------------------------------------------------------------------

    def on(self, connection: int) -> Known | None:
        return next((s for s in self.live if s.connection == connection), None)

    def members(self, room: str) -> list[Known]:
        return [session for session in self.live if session.room == room]

    def others(self, session: Known) -> list[Known]:
        return [s for s in self.live if s.room == session.room and s is not session]

    def roster(self, session: Known) -> list[Json]:
        mine = self.live.index(session)
        entries = []
        for other in self.others(session):
            entry: Json = {"peer": other.peer, "identity": other.identity}
            entry["polite"] = mine > self.live.index(other)
            if other.connection is None:
                entry["connected"] = False
            if other.data is not None:
                entry["data"] = other.data
            entries.append(entry)
        return entries

    def state(self, session: Known, ahead: int = 0) -> Json:
        """Of the room, after so many more changes."""
        assert session.room is not None
        return {
            "room": session.room,
            "epoch": self.epochs[session.room],
            "revision": self.revision[session.room] + ahead,
            "peers": self.roster(session),
        }

    # Sending ---------------------------------------------------------------------------------

    def say(self, session: Known, message: Json) -> None:
        if session.connection is not None:
            self.sent[session.connection].append(message)

    def log(self, session: Known, kind: str, **fields: Any) -> None:
        message = {"type": kind, "seq": len(session.log) + 1, **fields}
        session.log.append(message)
        while len(session.kept()) > LOG_MESSAGES or sum(map(size_of, session.kept())) > LOG_BYTES:
            session.forgotten += 1
        self.say(session, message)

    def answer(self, session: Known, number: str | None, **fields: Any) -> None:
        is_refusal = fields["type"] == "error"
        if number is None and not is_refusal:
            return
        reply = fields if number is None else {**fields, "id": number}
        self.say(session, reply)
        if number is not None:
            session.answers = [*session.answers, (number, reply)][-REMEMBERED:]

    def tell(self, session: Known, kind: str, **fields: Any) -> None:
        """The others in the room, and the room has changed."""
        assert session.room is not None
        self.revision[session.room] += 1
        who = {"peer": session.peer, "identity": session.identity}
        for other in self.others(session):
            self.log(other, kind, **who, revision=self.revision[session.room], **fields)

    # Receipts --------------------------------------------------------------------------------

    def relayed(self, sender: Known, target: Known, number: str | None) -> None:
        """The latest message of the target's log is this request's."""
        if number is None or not sender.wants_receipts:
            return
        sender.followed.pop(number, None)
        sender.followed[number] = target.peer
        self.log(sender, "receipt", ref=number, stage="relayed")
        target.awaited.append((len(target.log), sender.peer, number))
        while target.awaited and target.awaited[0][0] <= target.forgotten:
            _, who, lost = target.awaited.pop(0)
            self.learn(who, lost, stage="expired", reason="limits")

    def acknowledged(self, session: Known, seq: int) -> None:
        while session.awaited and session.awaited[0][0] <= seq:
            _, who, number = session.awaited.pop(0)
            self.learn(who, number, stage="received")

    def learn(self, who: str, number: str, **what: str) -> None:
        """The last word about a message, if its sender is there and has not heard it."""
        sender = next((session for session in self.live if session.peer == who), None)
        if sender is not None and sender.followed.pop(number, ""):
            self.log(sender, "receipt", ref=number, **what)

    def parted(self, session: Known, reason: str) -> None:
        """Nothing more is heard between it and the others in its room."""
        what = {"stage": "dropped", "reason": "peer_left"}
        if reason == "connection_lost":
            what = {"stage": "expired", "reason": "resume_window"}
        for member in (session, *self.others(session)):
            for number, receiver in list(member.followed.items()):
                if member is session or receiver == session.peer:
                    self.learn(member.peer, number, **what)

    def is_connected(self, session: Known, connected: bool) -> None:
        if session.room is not None:
            self.tell(session, "peer_updated", connected=connected)

    # Living ----------------------------------------------------------------------------------

    def enter(self, session: Known, room: str) -> None:
        if session.room != room:
            self.leave(session, "moved")
            if not self.members(room):
                self.rooms_made += 1
                self.epochs[room], self.revision[room] = self.rooms_made, 0
            self.live.remove(session)
            self.live.append(session)
            session.room, session.data = room, None
            self.revision[room] += 1
        else:
            room = ""
        assert session.room is not None
        self.log(session, "room", **self.state(session))
        for other in self.others(session) if room else []:
            who = {"peer": session.peer, "identity": session.identity}
            self.log(other, "peer_joined", **who, revision=self.revision[room], polite=False)

    def leave(self, session: Known, reason: str) -> None:
        if session.room is not None:
            self.parted(session, reason)
            self.tell(session, "peer_left", reason=reason)
            session.room = None

    def end(self, session: Known, reason: str, code: int = 0) -> None:
        """It hears what becomes of its messages before its connection is closed with the code."""
        self.leave(session, reason)
        self.live.remove(session)
        if session.connection is not None:
            self.sent[session.connection].append(code)
            session.connection = None

    def replace(self, former: Known, session: Known) -> None:
        """One change of the room."""
        self.parted(former, "replaced")
        session.room, former.room = former.room, None
        assert session.room is not None
        self.log(session, "room", **self.state(session, 1))
        self.tell(session, "peer_replaced", replaced=former.peer, polite=False)

    def supersede(self, session: Known) -> None:
        """Its client goes on with another session."""
        self.end(session, "connection_lost", 4502)

    def lose(self, session: Known, now: float) -> None:
        session.connection = None
        session.ends_at = now + WINDOW_S
        self.is_connected(session, False)

    def resume(
        self, connection: int, session: Known | None, secret: str, new: str, last_seq: int
    ) -> str:
        """The code of the refusal, or nothing."""
        if session is None or session not in self.live or secret not in session.good_secrets:
            return "resume_expired"
        missing = session.after(last_seq)
        if missing is None:
            self.supersede(session)
            return "resume_gap"
        former, is_current = session.connection, secret == session.good_secrets[-1]
        if former is not None:
            self.sent[former].append(4502 if is_current else 4000)
        session.connection, session.ends_at = connection, None
        held = [] if is_current else [good for good in session.good_secrets if good != secret]
        session.good_secrets = [*[*held, secret][-FORMER_SECRETS:], new]
        session.acknowledge(last_seq)
        self.acknowledged(session, last_seq)
        resumed = {"from_seq": last_seq + 1, "replayed": len(missing), "secret": new}
        rooms = [self.state(session)] if session.room is not None else []
        self.say(session, {"type": "resumed", **resumed, "rooms": rooms})
        for message in missing:
            self.say(session, message)
        if former is None:
            self.is_connected(session, True)
        return ""

    # Time ------------------------------------------------------------------------------------

    def next(self) -> tuple[float, Known, str] | None:
        agenda = [
            (at, session, what)
            for session in self.live
            for at, what in (
                (session.ends_at, "window"),
                (session.warns_at, "warning"),
                (session.token_ends or None, "token"),
            )
            if at is not None
        ]
        return min(agenda, key=lambda due: due[0], default=None)

    def pass_time(self, until: float) -> None:
        while (due := self.next()) is not None and due[0] <= until:
            at, session, what = due
            if what == "window":
                self.end(session, "connection_lost")
            elif what == "warning":
                session.warns_at = None
                left = round(session.token_ends - at, 3)
                self.log(session, "token_expiring", expires_in_s=left)
            else:
                session.token_ends = 0
                if session.connection is not None:
                    self.sent[session.connection].append(4005)
                    self.lose(session, at)


@dataclass(eq=False)
class Client:
    """One who has, or had, a session; with everything that could be shown to resume it."""

    known: Known
    secrets: list[str]
    """All it was ever given, the newest last; also in answers that were lost."""
    lines: list[int]
    """Connections that the session has had; only the last one may still be it."""
    asked: list[tuple[str, Json]] = field(default_factory=list)


class SessionMachine(RuleBasedStateMachine):
    steps: ClassVar[int] = 0
    histories: ClassVar[int] = 0
    met: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.board = self.fresh_board()
        self.oracle = Oracle()
        self.now = 1000.0
        self.numbers = 0
        self.clients: list[Client] = []
        self.got: dict[int, list[Json | int]] = defaultdict(list)
        self.ever: dict[tuple[str, int], Json] = {}
        """Every numbered message by session: a replay must be the same again."""
        type(self).histories += 1

    # Driving the core ------------------------------------------------------------------------

    def fresh_board(self) -> Switchboard:
        limits = Limits(
            resume_window_s=WINDOW_S,
            outbox_messages=LOG_MESSAGES,
            outbox_bytes=LOG_BYTES,
            remembered_requests=REMEMBERED,
        )
        return Switchboard("n", "r", Rules(limits=limits, rates=unhurried()), 1)

    @rule(is_meant=rarely)
    def go_on_elsewhere(self, is_meant: bool) -> None:
        """Another process takes over the state."""
        if is_meant:
            self.step("moved")
            self.board = moved(self.board, self.fresh_board())

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def feed(self, event: inputs.Input) -> None:
        self.execute(self.board.handle(event, self.now, 0))

    def execute(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                message = json.loads(effect.payload)
                assert message.get("seq", 0) == effect.seq
                self.met[message.get("stage", "other")] += 1
                self.got[effect.connection].append(_plain(message))
            elif isinstance(effect, Close):
                self.got[effect.connection].append(int(effect.code))

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while (at := self.board.next_deadline()) is not None and at <= until:
            self.now = max(self.now, at)
            self.execute(self.board.handle_timeout(self.now, 0))
        self.oracle.pass_time(until)
        self.now = until

    def step(self, *what: str) -> None:
        type(self).steps += 1
        self.met.update(what)
        self.pass_time(TICK_S)

    def admission(self, identity: str, secret: str, life_s: float) -> inputs.Admission:
        permit = inputs.Permit(account="a", identity=identity)
        return inputs.Admission(permit=permit, token_life_s=life_s, resume_secret=secret)

    def client(self, pick: int) -> Client:
        return self.clients[-1 - pick % min(len(self.clients), 4)]

    # Beginning -------------------------------------------------------------------------------

    @initialize(life_s=lives)
    def three_in_a_room(self, life_s: float) -> None:
        for _ in range(3):
            self.pass_time(TICK_S)
            self.begin(self.number(), ROOMS[0], life_s)

    @rule(room=st.sampled_from([None, *ROOMS]), life_s=lives)
    def hello(self, room: str | None, life_s: float) -> None:
        if len(self.oracle.live) < 4:
            self.step()
            self.begin(self.number(), room, life_s)

    @precondition(lambda self: self.clients)
    @rule(
        pick=picks,
        which=newest_first,
        room=st.sampled_from([None, *ROOMS, "same", "same", "same"]),
        life_s=lives,
        is_own=st.sampled_from([True, True, True, False]),
        is_meant=st.booleans(),
    )
    def come_anew(
        self, pick: int, which: int, room: str | None, life_s: float, is_own: bool, is_meant: bool
    ) -> None:
        """A page was reloaded: a new session takes the former one's place, if it may."""
        client = self.client(pick)
        known = client.known
        if not is_meant or (known not in self.oracle.live and len(self.oracle.live) > 4):
            return
        self.step()
        room = known.room if room == "same" else room
        secret = client.secrets[max(-len(client.secrets), -1 - which)]
        identity = known.identity if is_own else f"i{self.number()}"
        is_right = is_own and known in self.oracle.live and secret in known.good_secrets
        self.met["replaced" if is_right else "replaces nothing"] += 1
        former = known if is_right else None
        named = Former(known.session, secret)
        self.begin(self.number(), room, life_s, identity, named, former)

    def begin(
        self,
        connection: int,
        room: str | None,
        life_s: float,
        who: str = "",
        replaces: Former | None = None,
        former: Known | None = None,
    ) -> None:
        number = self.number()
        identity, secret = who or f"i{number}", f"secret{number}"
        opened = inputs.Opened(
            connection=connection,
            admission=self.admission(identity, secret, life_s),
            session=f"s{number}",
            peer=f"p{number}",
            hello=Hello(
                room=room,
                replaces=replaces,
                id="hello",
                features=["receipts"] if number % 2 else [],
            ),
        )
        warns_at = self.now + max(life_s / 2, life_s - 60)
        known = Known(
            opened.session, opened.peer, identity, connection, [secret], self.now + life_s, warns_at
        )
        known.wants_receipts = bool(number % 2)
        self.clients.append(Client(known, [secret], [connection]))
        oracle = self.oracle
        oracle.live.append(known)
        oracle.say(known, {"type": "welcome", "session": known.session, "peer": known.peer})
        if room is not None and former is not None and former.room == room:
            oracle.replace(former, known)
        elif room is not None:
            oracle.enter(known, room)
        if former is not None:
            oracle.supersede(former)
        answer = {"type": "ok"} if room is None else {"type": "ok", "room": room}
        oracle.answer(known, "hello", **answer)
        self.feed(opened)

    @precondition(lambda self: self.clients)
    @rule(pick=picks, which=newest_first, behind=missed, life_s=lives, again=st.booleans())
    def resume(self, pick: int, which: int, behind: int, life_s: float, again: bool) -> None:
        """With one of the secrets it was given, on a new connection."""
        self.step()
        client = self.client(pick)
        secret = client.secrets[max(-len(client.secrets), -1 - which)]
        self.attach(client, secret, client.known.identity, behind, life_s, again)

    @precondition(lambda self: self.clients)
    @rule(
        pick=picks,
        behind=missed,
        wrong=st.sampled_from(["secret", "identity", "session"]),
        is_meant=rarely,
    )
    def resume_wrongly(self, pick: int, behind: int, wrong: str, is_meant: bool) -> None:
        if not is_meant:
            return
        self.step(f"wrong {wrong}")
        client = self.client(pick)
        secret = "guess" if wrong == "secret" else client.secrets[-1]
        identity = "i0" if wrong == "identity" else client.known.identity
        session = "s0" if wrong == "session" else client.known.session
        connection, last_seq = self.number(), max(0, len(client.known.log) - behind)
        before = [s.connection for s in self.oracle.live]
        self.feed(
            inputs.Resumed(
                connection=connection,
                admission=self.admission(identity, "never", 1e6),
                resume=Resume(session, secret, last_seq),
                request="r",
            )
        )
        refusal: Json = {"type": "error", "code": "resume_expired", "id": "r"}
        assert self.got.pop(connection) == [refusal]
        assert [s.connection for s in self.oracle.live] == before

    def attach(
        self, client: Client, secret: str, identity: str, behind: int, life_s: float, again: bool
    ) -> None:
        known, number = client.known, self.number()
        connection, new = self.number(), f"secret{number}"
        last_seq = max(0, len(known.log) - behind)
        code = self.oracle.resume(connection, known, secret, new, last_seq)
        self.met[code or ("resumed, replaying" if last_seq < len(known.log) else "resumed")] += 1
        if code:
            refusal: Json = {"type": "error", "code": code}
            self.oracle.sent[connection].append(refusal)
        else:
            self.met["resumed with the former secret"] += secret != client.secrets[-1]
            self.met["superseded"] += client.lines[-1] in self.oracle.sent
            client.secrets.append(new)
            client.lines.append(connection)
            known.token_ends = self.now + life_s
            known.warns_at = self.now + max(life_s / 2, life_s - 60)
        self.feed(
            inputs.Resumed(
                connection=connection,
                admission=self.admission(identity, new, life_s),
                resume=Resume(known.session, secret, last_seq),
            )
        )
        if code and again:
            self.begin(connection, ROOMS[0], life_s)

    # Losing ----------------------------------------------------------------------------------

    @precondition(lambda self: self.clients)
    @rule(pick=picks, line=newest_first, left=rarely)
    def close(self, pick: int, line: int, left: bool) -> None:
        """The edge notices that a connection is gone, perhaps one that was replaced long ago."""
        self.step()
        client = self.client(pick)
        connection = client.lines[max(-len(client.lines), -1 - line)]
        session = self.oracle.on(connection)
        if session is None:
            self.met["loss of a former connection"] += 1
        elif left:
            session.connection = None
            self.oracle.end(session, "left")
        else:
            self.oracle.lose(session, self.now)
        self.feed(inputs.Closed(connection, "left" if left else "connection_lost"))

    @rule(seconds=st.sampled_from([0.3, 2.1, 4.7, WINDOW_S - 0.5, WINDOW_S + 0.5, 29.3]))
    def wait(self, seconds: float) -> None:
        self.step()
        self.pass_time(seconds)

    @precondition(lambda self: self.oracle.live)
    @rule(pick=picks, how=st.sampled_from(["kick", "bye"]), is_meant=rarely)
    def end(self, pick: int, how: str, is_meant: bool) -> None:
        if not is_meant:
            return
        self.step(how)
        session = self.oracle.live[pick % len(self.oracle.live)]
        connection, room = session.connection, session.room
        if how == "bye" and connection is not None:
            self.hear(connection, "bye", {"type": "bye"}, None)
            self.deliver(connection, {"type": "bye", "id": "bye"})
        elif how == "kick" and room is not None:
            self.oracle.end(session, "kicked", 4503)
            self.feed(inputs.Removed(account="a", room=room, peer=session.peer))

    # Talking ---------------------------------------------------------------------------------

    @precondition(lambda self: self.clients)
    @rule(
        pick=picks,
        line=newest_first,
        kind=st.sampled_from(
            ["message", "message", "message", "all", "join", "leave", "update", "ping"]
        ),
        number=request_ids,
        behind=st.sampled_from([None, None, 0, 1, 3, -1]),
        other=picks,
        room=rooms,
        is_long=st.sampled_from([False, False, False, True]),
    )
    def talk(
        self,
        pick: int,
        line: int,
        kind: str,
        number: str,
        behind: int | None,
        other: int,
        room: str,
        is_long: bool,
    ) -> None:
        self.step()
        client = self.client(pick)
        connection = client.lines[max(-len(client.lines), -1 - line)]
        request, body = self.request(client, number, kind, other, room, is_long)
        ack = None if behind is None else max(0, len(client.known.log) - behind)
        self.hear(connection, request, body, ack)
        self.deliver(connection, {**body, "id": request, "ack": ack})

    def request(
        self, client: Client, number: str, kind: str, other: int, room: str, is_long: bool
    ) -> tuple[str | None, Json]:
        if number in ("again", "older") and client.asked:
            depth = 1 if number == "again" else min(len(client.asked), REMEMBERED + 2)
            return client.asked[-depth]
        text = LONG_MESSAGE if is_long else f"m{self.numbers}"
        body: Json = {"type": kind}
        if kind in ("message", "all"):
            body = {"type": "message", "data": text}
            if kind == "message":
                body["to"] = self.client(other).known.peer
        elif kind == "join":
            body["room"] = room
        elif kind == "update":
            body["data"] = text
        elif kind == "ping":
            body["t"] = self.numbers
        if number == "none":
            return None, body
        request = f"q{self.number()}"
        client.asked.append((request, body))
        return request, body

    def deliver(self, connection: int, message: Json) -> None:
        text = json.dumps({name: value for name, value in message.items() if value is not None})
        decoded = decode(text, 64)
        assert not isinstance(decoded, Refusal), decoded
        self.feed(inputs.Received(connection, decoded, str(self.number())))

    def hear(self, connection: int, number: str | None, body: Json, ack: int | None) -> None:
        """What the oracle makes of a message."""
        session = self.oracle.on(connection)
        if session is None:
            self.met["talk on a former connection"] += 1
            return
        session.good_secrets = session.good_secrets[-1:]
        if ack is not None:
            self.oracle_ack(session, ack)
        remembered = dict(session.answers)
        if number in remembered:
            self.met["repeated"] += 1
            self.oracle.say(session, remembered[number])
            return
        numbered = {"number": number} if body["type"] == "message" else {}
        reply = getattr(self, f"hear_{body['type']}")(session, body, **numbered)
        if reply is not None:
            self.oracle.answer(session, number, **reply)

    def oracle_ack(self, session: Known, seq: int) -> bool:
        if session.acknowledge(seq):
            self.oracle.acknowledged(session, seq)
            return True
        return False

    def hear_message(self, session: Known, body: Json, number: str | None) -> Json:
        if session.room is None:
            return {"type": "error", "code": "wrong_state"}
        targets = self.oracle.others(session)
        if "to" in body:
            if body["to"] == session.peer:
                return {"type": "error", "code": "bad_request"}
            targets = [other for other in targets if other.peer == body["to"]]
            if not targets:
                return {"type": "error", "code": "not_found"}
        sender = {"from": session.peer, "identity": session.identity}
        for target in targets:
            self.oracle.log(target, "message", **sender, data=body["data"])
            if "to" in body:
                self.oracle.relayed(session, target, number)
        return {"type": "ok"}

    def hear_join(self, session: Known, body: Json) -> Json:
        self.oracle.enter(session, body["room"])
        return {"type": "ok", "room": body["room"]}

    def hear_leave(self, session: Known, body: Json) -> Json:
        room = session.room
        if room is None:
            return {"type": "error", "code": "wrong_state"}
        self.oracle.leave(session, "left")
        return {"type": "ok", "room": room}

    def hear_update(self, session: Known, body: Json) -> Json:
        if session.room is None:
            return {"type": "error", "code": "wrong_state"}
        session.data = body["data"]
        self.oracle.tell(session, "peer_updated", data=body["data"])
        return {"type": "ok"}

    def hear_ping(self, session: Known, body: Json) -> Json:
        self.oracle.say(session, {"type": "pong", "t": body["t"]})
        return {"type": "ok"}

    def hear_ack(self, session: Known, body: Json) -> Json:
        if self.oracle_ack(session, body["seq"]):
            return {"type": "ok"}
        return {"type": "error", "code": "bad_request"}

    def hear_bye(self, session: Known, body: Json) -> None:
        self.oracle.say(session, {"type": "ok", "id": "bye"})
        self.oracle.end(session, "left", 1000)

    @precondition(lambda self: self.clients)
    @rule(pick=picks, behind=missed, asks=st.booleans())
    def acknowledge(self, pick: int, behind: int, asks: bool) -> None:
        self.step()
        client = self.client(pick)
        body: Json = {"type": "ack", "seq": max(0, len(client.known.log) - behind)}
        number = f"q{self.number()}" if asks else None
        self.hear(client.lines[-1], number, body, None)
        self.deliver(client.lines[-1], {**body, "id": number})

    # Reading over HTTP -----------------------------------------------------------------------

    @precondition(lambda self: self.clients)
    @rule(pick=picks, line=newest_first, behind=missed, acknowledges=st.booleans())
    def read(self, pick: int, line: int, behind: int, acknowledges: bool) -> None:
        """A GET: `after` acknowledges, but a stream that goes on only looks."""
        self.step()
        client = self.client(pick)
        connection = client.lines[max(-len(client.lines), -1 - line)]
        after = max(0, len(client.known.log) - behind)
        if acknowledges:
            body: Json = {"type": "ack", "seq": after}
            self.hear(connection, None, body, None)
            self.deliver(connection, body)
        session = self.oracle.on(connection)
        expected = None if session is None else session.after(after)
        found = self.board.unread(connection, after)
        shown = None if found is None else [json.loads(payload) for payload in found]
        assert shown == expected
        self.met["read over HTTP" if found else "nothing to read"] += 1

    # What always holds -----------------------------------------------------------------------

    @invariant()
    def every_connection_was_sent_what_the_oracle_says(self) -> None:
        got, self.got = self.got, defaultdict(list)
        sent, self.oracle.sent = self.oracle.sent, defaultdict(list)
        assert dict(got) == dict(sent)

    @invariant()
    def a_number_is_one_message(self) -> None:
        for client in self.clients[-5:]:
            for message in client.known.kept():
                key = client.known.session, message["seq"]
                assert self.ever.setdefault(key, message) == message

    @invariant()
    def tables_agree(self) -> None:
        live, sessions = self.oracle.live, self.board.sessions
        assert set(sessions.by_id) == {known.session for known in live}
        assert {number: session.id for number, session in sessions.by_connection.items()} == {
            known.connection: known.session for known in live if known.connection is not None
        }
        for known in live:
            outbox = sessions.by_id[known.session].outbox
            assert (outbox.seq, outbox.trimmed) == (len(known.log), known.forgotten)
            assert outbox.held_bytes == sum(map(size_of, known.kept())) <= LOG_BYTES
        due = self.oracle.next()
        assert self.board.next_deadline() == (due and pytest.approx(due[0]))

    def teardown(self) -> None:
        for known in list(self.oracle.live):
            if known.connection is not None:
                self.feed(inputs.Closed(known.connection, "connection_lost"))
        self.execute(self.board.handle_timeout(self.now + 2 * WINDOW_S, 0))
        board = self.board
        assert not board.sessions.by_id
        assert not board.sessions.by_connection
        assert not board.rooms
        assert len(board.sessions.agenda) == 0


def _plain(message: Json) -> Json:
    """What the oracle predicts of a message: all of a numbered one, the gist of the others."""
    match message["type"]:
        case "welcome":
            return {name: message[name] for name in ("type", "session", "peer")}
        case "resumed":
            assert message["calls"] == []
            gist = {name: message[name] for name in ("type", "from_seq", "replayed", "rooms")}
            return {**gist, "secret": message["resume"]["secret"]}
        case "error":
            return {name: message[name] for name in ("type", "code", "id") if name in message}
        case _:
            return message


class TestSession(SessionMachine.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(
        max_examples=3000 if IS_LONG else 60,
        stateful_step_count=80 if IS_LONG else 50,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )

    @classmethod
    def tearDownClass(cls) -> None:
        """The run met what it is there for; a short one need not meet what is rare."""
        assert SessionMachine.steps >= (100_000 if IS_LONG else 100)
        rarities = (
            *("received", "expired", "dropped"),
            "resumed, replaying",
            "resume_gap",
            "repeated",
            "superseded",
            "replaced",
            "moved",
        )
        for rarity in rarities if IS_LONG else ():
            assert SessionMachine.met[rarity], SessionMachine.met
