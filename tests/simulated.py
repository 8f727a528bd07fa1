"""Clients and one switchboard in virtual time, over links that break; a run is its seed.

A broken link is TCP-like: of what is under way, each direction loses a suffix. Either end notices
later than the other, so that resumes overtake the loss, answers to a resume get lost, windows end
and logs overflow. Now and then the switchboard moves to another process. The client's half is the
real `ClientSession` and `Roster`; what it does of its own accord is the test's (`SimClient.act`).
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from history import History, Item
from switchboard_driver import moved

from signal_server.client_session import Arrival, ClientSession
from signal_server.client_wire import read
from signal_server.core import inputs
from signal_server.core.effects import Close, Effect, Send
from signal_server.core.rules import NegotiationRules, Rules
from signal_server.core.state import capture
from signal_server.core.switchboard import Switchboard
from signal_server.roster import Roster
from signal_server.wire import messages as wire
from signal_server.wire.base import Request
from signal_server.wire.codec import Refusal, decode
from signal_server.wire.limits import Limits
from signal_server.wire.rates import unhurried
from signal_server.wire.receipts import Receipt, Stage

BUSY_S = 60.0
QUIET_S = 60.0
WINDOW_S = 10.0
OUTBOX = 40
PATIENCE_S = 10.0
"""Of a client, for the answer to its hello."""

_STAGES = list(Stage)
_encode = msgspec.json.Encoder().encode
_GO_ON = """
import pickle, sys
from signal_server.core.state import restore
from simulated import board_for, replay
seed, state, journal = pickle.load(sys.stdin.buffer)
board = board_for(seed)
restore(board, state)
print(replay(board, journal))
"""


class Timeline:
    """What happens next, in virtual seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        self.at(self.now + seconds, do)

    def at(self, when: float, do: Callable[[], None]) -> None:
        """In the order of calls, where several are for one moment."""
        heapq.heappush(self._agenda, (when, next(self._order), do))

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


def told(board: Switchboard, now: float, event: inputs.Input | None) -> list[Effect]:
    """What the board wants done about it."""
    unix_ms = int(now * 1000)
    if event is None:
        return board.handle_timeout(now, unix_ms)
    return board.handle(event, now, unix_ms)


def replay(board: Switchboard, journal: list[tuple[float, inputs.Input | None]]) -> str:
    """A digest of everything that the board wants done, in order."""
    digest = hashlib.sha256()
    for now, event in journal:
        digest.update(repr(told(board, now, event)).encode())
    return digest.hexdigest()


def assert_goes_on_elsewhere(world: World) -> None:
    """Another process, with a snapshot and the journal of what came after it, does the same.

    Sets and hashes of strings differ from process to process; what the core does must not.
    """
    half = len(world.journal) // 2
    board = board_for(world.seed)
    replay(board, world.journal[:half])
    snapshot = pickle.dumps((world.seed, capture(board), world.journal[half:]))
    there = subprocess.run(
        [sys.executable, "-c", _GO_ON],
        input=snapshot,
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert there.stdout.decode().strip() == replay(board, world.journal[half:])


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

        world.time.at(at, arrive)


class SimClient:
    """Behaves as `client_line` does, without sockets; `name` is its identity."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.roster = Roster()
        self.session: ClientSession | None = None
        self.link: Link | None = None
        self.is_up = False
        self.ok = 0
        self.resumes = 0
        self.losses: list[str] = []
        self.world = world
        self.items: dict[str, Item] = {}
        self.told: dict[tuple[str, str], list[Stage]] = {}
        """Receipts, by own peer and request; half of the clients want them."""
        self.replaced = 0
        self.room: str | None = None
        self._former: wire.Former | None = None
        self._features = ["receipts"] * world.dice.randint(0, 1)
        self.connect()
        self._tick()

    # Connections -----------------------------------------------------------------------------

    def connect(self) -> None:
        resume = self.session.resume() if self.session else None
        link = self.link = self.world.link(self)
        self.world.time.after(PATIENCE_S, lambda: self._give_up(link))
        hello = wire.Hello(token="t", resume=resume, features=self._features)
        if self._former is not None:
            hello = msgspec.structs.replace(hello, replaces=self._former, room=self.room)
        self.link.to_server(hello)

    def _give_up(self, link: Link) -> None:
        """Nobody has answered the hello."""
        if link is self.link and not self.is_up:
            link.cut()

    def reload(self) -> None:
        """The page is loaded anew: it keeps no more than what `replaces` needs."""
        assert self.session is not None
        resume, self.room = self.session.resume(), self.roster.room
        self._former = wire.Former(resume.session, resume.secret)
        self.world.history.gap(self.session.peer)
        self.session, self.replaced = None, self.replaced + 1
        self.items.clear()
        link, self.link, self.is_up = self.link, None, False
        if link is not None:
            link.cut()
            self.world.time.after(self.world.absence(), self.connect)

    def notices(self, link: Link) -> None:
        """That the link is gone."""
        if link is not self.link:
            return
        self.link, self.is_up = None, False
        if self.world.is_over:
            return
        self.world.time.after(self.world.absence(), self.connect)

    def hears(self, link: Link, payload: bytes) -> None:
        if link is not self.link:
            return
        message = read(payload)
        if isinstance(message, wire.Welcome):
            self._welcomed(message)
        elif isinstance(message, wire.Resumed):
            assert self.session is not None
            self.session.resumed(message)
            self.roster.restore(message.rooms[0] if message.rooms else None)
            self.resumes += 1
            self.back(message)
            self._catch_up()
        elif isinstance(message, wire.NewSecret):
            assert self.session is not None
            self.session.rekeyed(message)
        elif isinstance(message, wire.Error) and message.id is None:
            self._refused(link, message.code)
        else:
            self._take(message)

    def _welcomed(self, welcome: wire.Welcome) -> None:
        self.session = ClientSession(welcome)
        self._former = None
        self.world.unheard.discard(welcome.peer)
        self.is_up = True
        self.roster.clear()
        self.began()

    def _refused(self, link: Link, code: str) -> None:
        assert self.session is not None
        if code == "unavailable":
            self.turned_away()
            return
        self.losses.append(code)
        self.world.lost_session(self.session, code)
        self.session = None
        self.items.clear()
        link.to_server(wire.Hello(token="t", features=self._features))

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
            self.items[number] = item
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
        self.world.history.numbers(session.id, getattr(message, "seq", 0))
        if isinstance(message, wire.Ok | wire.Error):
            self._settle(session, message)
        elif isinstance(message, Receipt):
            self._follow(session, message)
            self.heard(message)
        else:
            if not session.is_in_snapshot(message):
                self.roster.apply(message)
            self.heard(message)

    def _follow(self, session: ClientSession, receipt: Receipt) -> None:
        """Stages only go forward, and nothing follows the last ones."""
        assert self._features, "nobody asked for it"
        stages = self.told.setdefault((session.peer, str(receipt.ref)), [])
        assert not {Stage.EXPIRED, Stage.DROPPED} & set(stages), (stages, receipt)
        assert all(_STAGES.index(stage) < _STAGES.index(receipt.stage) for stage in stages)
        stages.append(receipt.stage)

    def _settle(self, session: ClientSession, reply: wire.Ok | wire.Error) -> None:
        number = str(reply.id)
        asked = [request for request in session.unanswered() if request.id == number]
        session.answered(number)
        item = self.items.pop(number, None)
        if isinstance(reply, wire.Error):
            assert reply.code in self.expected_refusals, reply
            # With its number, glare is about an offer that was relayed before it lost.
            if item is not None and reply.negotiation is None:
                item.refused()
        else:
            self.ok += 1
            if item is not None:
                self.promised(item)
        if asked:
            self.answered(asked[0], reply)

    def _tick(self) -> None:
        """Whatever an application does, connected or not, and the acknowledgement timer."""
        dice = self.world.dice
        if self.session is not None:
            self.act()
        if self.is_up and self.session is not None and dice.random() < 0.3:
            seq = self.session.ack()
            if seq is not None and self.link is not None:
                self.link.to_server(wire.Ack(seq=seq))
        self.world.time.after(dice.expovariate(1 / 0.3), self._tick)

    # What a test's clients do ----------------------------------------------------------------

    expected_refusals: tuple[str, ...] = ("not_found", "wrong_state")

    def act(self) -> None:
        """Every 0.3 s on average, while there is a session."""
        raise NotImplementedError

    def began(self) -> None:
        """A new session."""

    def turned_away(self) -> None:
        """From the room that the hello named."""
        raise AssertionError("rooms can be reached")

    def back(self, resumed: wire.Resumed) -> None:
        """The session goes on; what it missed follows."""

    def heard(self, message: Any) -> None:
        """A numbered message, each once."""

    def answered(self, request: Request, reply: wire.Ok | wire.Error) -> None:
        """Each request at most once."""

    def promised(self, item: Item) -> None:
        """It was answered ok."""
        item.promised()


def board_for(seed: int) -> Switchboard:
    """Every other run arbitrates glare."""
    limits = Limits(resume_window_s=WINDOW_S, outbox_messages=OUTBOX)
    negotiation = NegotiationRules(glare="arbitrate" if seed % 2 else "passthrough")
    return Switchboard(
        "n", "r", Rules(limits=limits, rates=unhurried(), negotiation=negotiation), 1
    )


class World:
    """A switchboard, its clients and the links between them."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.time = Timeline()
        self.history = History()
        self.is_busy = True
        self.is_over = False
        self.dice = Random(seed)
        self.marks = itertools.count()
        self._numbers = itertools.count(1)
        self._links: dict[int, Link] = {}
        self._detached: dict[str, float] = {}
        """When the server noticed that a session's connection is gone, by session."""
        self.unheard: set[str] = set()
        """Peers whose welcome never came, though others have seen them."""
        self._with_gap: set[str] = set()
        """Sessions that the server gave up because their log was too short."""
        self.board = board_for(seed)
        self.moves = 0
        self.journal: list[tuple[float, inputs.Input | None]] = []
        """What the board was told, and when; None where a deadline was due."""

    def run(self) -> None:
        """Busy, with links that break, and then quiet until everything is told."""
        self.deadlines()
        self.time.after(1, self.cut_something)
        self.time.after(2, self.move)
        self.time.run(BUSY_S)
        self.is_busy = False
        self.time.run(BUSY_S + QUIET_S)
        for peer in self.unheard:
            self.history.gap(peer)

    def move(self) -> None:
        """Another process goes on with the board's state."""
        self.board = moved(self.board, board_for(self.seed))
        self.moves += 1
        if self.is_busy:
            self.time.after(self.dice.expovariate(1 / 5), self.move)

    def everybody_vanishes(self) -> None:
        """Nobody comes back, and the windows end."""
        self.is_over = True
        for link in list(self._links.values()):
            link.cut()
        self.time.run(self.time.now + 2 * WINDOW_S)

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
            self._feed(inputs.Received(link.number, message, f"{next(self._numbers)}"))
            return
        fresh = f"{self.seed}-{next(self._numbers)}"
        permit = inputs.Permit(account="a", identity=link.client.name, may_turn=False)
        admission = inputs.Admission(permit=permit, token_life_s=1e6, resume_secret=f"x{fresh}")
        if message.resume is None:
            opened = inputs.Opened(
                connection=link.number,
                admission=admission,
                session=f"s{fresh}",
                peer=f"p{fresh}",
                hello=message,
            )
            self.unheard.add(opened.peer)
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
            self._feed(None)
        self.time.after(0.05, self.deadlines)

    def _feed(self, event: inputs.Input | None) -> None:
        self.journal.append((self.time.now, event))
        for effect in told(self.board, self.time.now, event):
            if isinstance(effect, Send) and effect.connection in self._links:
                self._links[effect.connection].to_client(effect.payload)
            elif isinstance(effect, Close) and effect.connection in self._links:
                link = self._links.pop(effect.connection)
                link.cut()
