"""Clients that talk and wander between rooms in virtual time, over links that break.

PARLEY_LONG=1 runs 1,000 seeds.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from simulated import SimClient, World, assert_goes_on_elsewhere, board_for, replay

from signal_server.wire import messages as wire
from signal_server.wire.receipts import Stage

SEEDS = 1000 if os.environ.get("PARLEY_LONG") == "1" else 40
CLIENTS = 6
ROOMS = ("r0", "r1")
SETTLED = (Stage.RECEIVED, Stage.EXPIRED, Stage.DROPPED)

_encode = msgspec.json.Encoder().encode


class Wanderer(SimClient):
    """Sends marked messages, updates itself, and moves to another room now and then."""

    def began(self) -> None:
        self.ask(wire.Join(room=self.world.dice.choice(ROOMS)))

    def act(self) -> None:
        world, session = self.world, self.session
        if session is None or not world.is_busy:
            return
        dice = world.dice
        what = dice.random()
        if what < 0.75 and self.roster.peers:
            to = dice.choice(list(self.roster.peers))
            mark = f"{session.peer}:{next(world.marks)}"
            item = world.history.asks(session.peer, to, "message", mark)
            self.ask(wire.Message(to=to, data=Raw(_encode(mark))), item)
        elif what < 0.85:
            self.ask(wire.Join(room=dice.choice(ROOMS)))
        elif what < 0.95:
            self.ask(wire.Update(data=Raw(b"1")))
        elif what < 0.96:
            self.reload()

    def heard(self, message: Any) -> None:
        if isinstance(message, wire.RelayedMessage) and self.session is not None:
            mark = bytes(message.data).decode().strip('"')
            self.world.history.arrives(self.session.peer, message.sender, mark)


class Wander(World):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.clients = [Wanderer(self, f"i{number}") for number in range(CLIENTS)]


def play(seed: int) -> Wander:
    world = Wander(seed)
    world.run()
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
        told = [stages for (peer, _), stages in client.told.items() if peer == client.session.peer]
        assert all(stages[-1] in SETTLED for stages in told), "everybody has acknowledged"
    assert len(world.board.sessions.by_id) == CLIENTS, "nobody is left of former sessions"


def test_simulation_meets_what_it_is_there_for() -> None:
    """The seeds together resume, expire, overflow, replace and excuse."""
    worlds = [play(seed) for seed in range(8)]
    clients = [client for world in worlds for client in world.clients]
    losses = [code for client in clients for code in client.losses]
    assert sum(client.resumes for client in clients) > 100
    assert sum(client.replaced for client in clients) > 10
    ends = {stages[-1] for client in clients for stages in client.told.values()}
    assert ends >= set(SETTLED)
    assert {"resume_expired", "resume_gap"} <= set(losses)
    assert sum(world.history.verdict().excused for world in worlds) > 0
    assert sum(world.history.verdict().arrived for world in worlds) > 1000


def test_simulation_is_its_seed() -> None:
    one, other = play(1), play(1)
    assert replay(board_for(1), one.journal) == replay(board_for(1), other.journal)
    assert one.history.verdict().arrived == other.history.verdict().arrived
    assert one.moves > 5
    assert_goes_on_elsewhere(one)
