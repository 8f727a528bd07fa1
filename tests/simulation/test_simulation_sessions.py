"""Clients and one switchboard in virtual time, over links that break; every run is its seed.

A broken link is TCP-like: of what is under way, each direction loses a suffix. Either end notices
later than the other, so that resumes overtake the loss, answers to a resume get lost, windows end
and logs overflow. The client's half is the real `ClientSession` and `Roster`.
PARLEY_LONG=1 runs 1,000 seeds.
"""

from __future__ import annotations

import heapq
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec
import pytest
from history import History, Item
from msgspec import Raw

from signal_server.client_session import Arrival, ClientSession
from signal_server.client_wire import read
from signal_server.core import inputs
from signal_server.core.effects import Close, Effect, Send
from signal_server.core.switchboard import Rules, Switchboard
from signal_server.roster import Roster
from signal_server.wire import messages as wire
from signal_server.wire.base import Request
from signal_server.wire.codec import Refusal, decode
from signal_server.wire.limits import Limits
from signal_server.wire.rates import unhurried

SEEDS = 1000 if os.environ.get("PARLEY_LONG") == "1" else 40
CLIENTS = 6
ROOMS = ("r0", "r1")
BUSY_S = 60.0
QUIET_S = 60.0
WINDOW_S = 10.0
OUTBOX = 40
ACK_AFTER_S = 1.0

_encode = msgspec.json.Encoder().encode


class Timeline:
    """What happens next, in virtual seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now + seconds, next(self._order), do))

    def run(self, until: float) -> None:
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, do = heapq.heappop(self._agenda)
            do()
        self.now = until


@dataclass
class Pipe:
    """One direction of a link: in order, and when it is cut, only up to `limit`."""

    sent: int = 0
    arrived: int = 0
    limit: float = float("inf")
    free_at: float = 0.0


class Link:
    """One connection of a client."""

    def __init__(self, world: World, number: int, client: SimClient) -> None:
        self.number = number
        self.client = client
        self.is_cut = False
        self._world = world
        self._up, self._down = Pipe(), Pipe()

    def to_server(self, message: Request) -> None:
        text = _encode(message).decode()
        self._push(self._up, lambda: self._world.server_hears(self, text))

    def to_client(self, payload: bytes) -> None:
        self._push(self._down, lambda: self.client.hears(self, payload))

    def cut(self) -> None:
        """The ends notice when they do."""
        if self.is_cut:
            return
        self.is_cut = True
        world, dice = self._world, self._world.dice
        for pipe in (self._up, self._down):
            pipe.limit = pipe.arrived + dice.randint(0, pipe.sent - pipe.arrived)
        world.time.after(dice.uniform(0, 3), lambda: world.server_notices(self))
        world.time.after(dice.uniform(0, 1), lambda: self.client.notices(self))

    def _push(self, pipe: Pipe, deliver: Callable[[], None]) -> None:
        if self.is_cut:
            return
        pipe.sent += 1
        number, world = pipe.sent, self._world
        at = max(pipe.free_at, world.time.now + world.dice.uniform(0.001, 0.2))
        pipe.free_at = at

        def arrive() -> None:
            if number <= pipe.limit:
                pipe.arrived += 1
                deliver()

        world.time.after(at - world.time.now, arrive)


class SimClient:
    """Behaves as `client_line` does, without sockets."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.roster = Roster()
        self.session: ClientSession | None = None
        self.link: Link | None = None
        self.is_up = False
        self.ok = 0
        self.resumes = 0
        self.losses: list[str] = []
        self.lost_at: float | None = None
        self._world = world
        self._room = world.dice.choice(ROOMS)
        self._items: dict[str, Item] = {}
        self._leaving: set[str] = set()
        self.connect()
        self._tick()

    # Connections -----------------------------------------------------------------------------

    def connect(self) -> None:
        resume = self.session.resume() if self.session else None
        self.link = self._world.link(self)
        self.link.to_server(wire.Hello(token="t", resume=resume))

    def notices(self, link: Link) -> None:
        """That the link is gone."""
        if link is not self.link:
            return
        self.link, self.is_up = None, False
        self._world.time.after(self._world.absence(), self.connect)

    def hears(self, link: Link, payload: bytes) -> None:
        if link is not self.link:
            return
        message = read(payload)
        if isinstance(message, wire.Welcome):
            self._welcomed(message)
        elif isinstance(message, wire.Resumed):
            assert self.session is not None
            self.session.resumed(message)
            self.roster.restore(message.room)
            self.resumes += 1
            self._catch_up()
        elif isinstance(message, wire.Error) and message.id is None:
            self._refused(link, message.code)
        else:
            self._take(message)

    def _welcomed(self, welcome: wire.Welcome) -> None:
        self.session = ClientSession(welcome)
        self.is_up = True
        self.roster.clear()
        self.ask(wire.Join(room=self._room))

    def _refused(self, link: Link, code: str) -> None:
        assert self.session is not None
        self.losses.append(code)
        self._world.lost_session(self.session, code)
        self.session = None
        self._items.clear()
        link.to_server(wire.Hello(token="t"))

    def _catch_up(self) -> None:
        assert self.session is not None
        self.is_up = True
        for request in self.session.unanswered():
            self._send(request)

    # Messages --------------------------------------------------------------------------------

    def ask(self, request: Request, item: Item | None = None) -> None:
        assert self.session is not None
        number = self.session.ask(request)
        if item is not None:
            self._items[number] = item
        if isinstance(request, wire.Leave):
            self._leaving.add(number)
        if self.is_up:
            self._send(request)

    def _send(self, request: Request) -> None:
        assert self.link is not None
        assert self.session is not None
        request.ack = self.session.ack()
        self.link.to_server(request)

    def _take(self, message: Any) -> None:
        session = self.session
        assert session is not None
        arrival = session.arrived(message)
        assert arrival is not Arrival.AFTER_GAP, "a hole without a declared gap"
        if arrival is Arrival.REPEATED:
            return
        self._world.history.numbers(session.id, getattr(message, "seq", 0))
        if isinstance(message, wire.Ok | wire.Error):
            self._settle(session, message)
        elif isinstance(message, wire.RelayedMessage):
            mark = bytes(message.data).decode().strip('"')
            self._world.history.arrives(session.peer, message.sender, mark)
        elif not session.is_in_snapshot(message):
            self.roster.apply(message)

    def _settle(self, session: ClientSession, reply: wire.Ok | wire.Error) -> None:
        number = str(reply.id)
        session.answered(number)
        item = self._items.pop(number, None)
        if isinstance(reply, wire.Error):
            assert reply.code in ("not_found", "wrong_state"), reply
            if item is not None:
                item.refused()
            return
        self.ok += 1
        if item is not None:
            item.promised()
        if number in self._leaving and self.roster.room is not None:
            self.roster.clear()

    def _tick(self) -> None:
        """Whatever an application does, connected or not, and the acknowledgement timer."""
        world = self._world
        dice = world.dice
        if self.session is not None and world.is_busy:
            what = dice.random()
            if what < 0.75 and self.roster.peers:
                to = dice.choice(list(self.roster.peers))
                mark = f"{self.session.peer}:{next(world.marks)}"
                item = world.history.asks(self.session.peer, to, "message", mark)
                self.ask(wire.Message(to=to, data=Raw(_encode(mark))), item)
            elif what < 0.85:
                self._room = dice.choice(ROOMS)
                self.ask(wire.Join(room=self._room))
            elif what < 0.95:
                self.ask(wire.Update(data=Raw(b"1")))
        if self.is_up and self.session is not None and dice.random() < 0.3:
            seq = self.session.ack()
            if seq is not None and self.link is not None:
                self.link.to_server(wire.Ack(seq=seq))
        world.time.after(dice.expovariate(1 / 0.3), self._tick)


@dataclass
class World:
    """A switchboard, its clients and the links between them."""

    seed: int
    time: Timeline = field(default_factory=Timeline)
    history: History = field(default_factory=History)
    clients: list[SimClient] = field(default_factory=list)
    is_busy: bool = True

    def __post_init__(self) -> None:
        self.dice = Random(self.seed)
        self.marks = itertools.count()
        self._numbers = itertools.count(1)
        self._links: dict[int, Link] = {}
        self._detached: dict[str, float] = {}
        """When the server noticed that a session's connection is gone, by session."""
        self._with_gap: set[str] = set()
        """Sessions that the server gave up because their log was too short."""
        limits = Limits(resume_window_s=WINDOW_S, outbox_messages=OUTBOX)
        self.board = Switchboard("n", "r", Rules(limits=limits, rates=unhurried()), 1)
        self.clients = [SimClient(self, f"i{number}") for number in range(CLIENTS)]

    def absence(self) -> float:
        """Mostly short; sometimes longer than the window."""
        if self.is_busy and self.dice.random() < 0.05:
            return self.dice.uniform(5, 25)
        return self.dice.uniform(0, 2)

    def link(self, client: SimClient) -> Link:
        link = Link(self, next(self._numbers), client)
        self._links[link.number] = link
        return link

    def cut_something(self) -> None:
        live = [link for link in self._links.values() if not link.is_cut]
        if live:
            self.dice.choice(live).cut()
        if self.is_busy:
            self.time.after(self.dice.expovariate(1.5), self.cut_something)

    # The server's edge -----------------------------------------------------------------------

    def server_hears(self, link: Link, text: str) -> None:
        if link.number not in self._links:
            return
        message = decode(text, 64)
        assert not isinstance(message, Refusal)
        if not isinstance(message, wire.Hello):
            self._feed(inputs.Received(link.number, message))
            return
        fresh = f"{self.seed}-{next(self._numbers)}"
        permit = inputs.Permit(
            account="a", identity=link.client.name, may_join=lambda _: True, may_turn=False
        )
        admission = inputs.Admission(permit=permit, token_life_s=1e6, resume_secret=f"x{fresh}")
        if message.resume is None:
            opened = inputs.Opened(
                connection=link.number,
                admission=admission,
                session=f"s{fresh}",
                peer=f"p{fresh}",
                hello=message,
            )
            self._feed(opened)
        else:
            resume = message.resume
            resumed = inputs.Resumed(connection=link.number, admission=admission, resume=resume)
            existed = resume.session in self.board.sessions.by_id
            self._feed(resumed)
            if link.number in self.board.sessions.by_connection:
                self._detached.pop(resume.session, None)
            elif existed and resume.session not in self.board.sessions.by_id:
                self._with_gap.add(resume.session)

    def server_notices(self, link: Link) -> None:
        if self._links.pop(link.number, None) is None:
            return
        session = self.board.sessions.by_connection.get(link.number)
        if session is not None:
            self._detached[session.id] = self.time.now
        self._feed(inputs.Closed(link.number, "connection_lost"))

    def lost_session(self, session: ClientSession, code: str) -> None:
        """Only for a reason."""
        if session.id in self._with_gap:
            assert code in ("resume_gap", "resume_expired"), "the first answer may be lost"
        elif code == "resume_expired":
            since = self._detached.get(session.id)
            assert since is not None, "refused although nobody had noticed its loss"
            assert self.time.now - since >= WINDOW_S, "refused inside the window"
        else:
            raise AssertionError(code)
        self.history.gap(session.peer)

    def deadlines(self) -> None:
        """As the edge's timer does, but by polling."""
        due = self.board.next_deadline()
        if due is not None and due <= self.time.now:
            self._execute(self.board.handle_timeout(self.time.now, int(self.time.now * 1000)))
        self.time.after(0.05, self.deadlines)

    def _feed(self, event: inputs.Input) -> None:
        self._execute(self.board.handle(event, self.time.now, int(self.time.now * 1000)))

    def _execute(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send) and effect.connection in self._links:
                self._links[effect.connection].to_client(effect.payload)
            elif isinstance(effect, Close) and effect.connection in self._links:
                link = self._links.pop(effect.connection)
                link.cut()


def play(seed: int) -> World:
    world = World(seed)
    world.deadlines()
    world.time.after(1, world.cut_something)
    world.time.run(BUSY_S)
    world.is_busy = False
    world.time.run(BUSY_S + QUIET_S)
    return world


@pytest.mark.parametrize("seed", range(SEEDS))
def test_simulation_sessions(seed: int) -> None:
    world = play(seed)
    verdict = world.history.verdict()
    assert verdict.is_good, verdict
    assert verdict.arrived > 0
    for client in world.clients:
        assert client.session is not None
        assert client.is_up
        assert client.session.unanswered() == []
        shown = (client.roster.room, set(client.roster.peers))
        truth = world.board.sessions.by_id[client.session.id].room
        assert truth is not None
        others = set(truth.members) - {client.session.peer}
        assert shown == (truth.name, others), client.name
        assert client.roster.revision <= truth.revision, "own changes count, and are not told"
        assert all(entry.connected for entry in client.roster.peers.values())
    assert len(world.board.sessions.by_id) == CLIENTS, "nobody is left of former sessions"


def test_simulation_meets_what_it_is_there_for() -> None:
    """The seeds together resume, expire, overflow and excuse."""
    worlds = [play(seed) for seed in range(8)]
    clients = [client for world in worlds for client in world.clients]
    losses = [code for client in clients for code in client.losses]
    assert sum(client.resumes for client in clients) > 100
    assert {"resume_expired", "resume_gap"} <= set(losses)
    assert sum(world.history.verdict().excused for world in worlds) > 0
    assert sum(world.history.verdict().arrived for world in worlds) > 1000


def test_simulation_is_its_seed() -> None:
    one, other = play(1), play(1)
    assert [client.ok for client in one.clients] == [client.ok for client in other.clients]
    assert one.history.verdict().arrived == other.history.verdict().arrived
