"""Simulated clients that talk, update themselves and wander between rooms, and how all must end."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw
from simulated import SimClient, World

from signal_server.core.switchboard import Switchboard
from signal_server.wire import messages as wire
from signal_server.wire.receipts import Stage

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


def assert_all_is_settled(world: World, clients: list[Wanderer], board: Switchboard) -> None:
    """Nothing was lost, and everybody sees what is."""
    verdict = world.history.verdict()
    assert verdict.is_good, verdict
    assert verdict.arrived > 0
    for client in clients:
        assert client.session is not None
        assert client.is_up
        assert client.session.unanswered() == []
        shown = (client.roster.room, set(client.roster.peers))
        truth = board.sessions.by_id[client.session.id].room
        assert truth is not None
        others = set(truth.members) - {client.session.peer}
        assert shown == (truth.name, others), client.name
        assert client.roster.revision <= truth.revision, "own changes count, and are not told"
        assert all(entry.connected for entry in client.roster.peers.values())
        told = [stages for (peer, _), stages in client.told.items() if peer == client.session.peer]
        assert all(stages[-1] in SETTLED for stages in told), "everybody has acknowledged"
    assert len(board.sessions.by_id) == len(clients), "nobody is left of former sessions"
