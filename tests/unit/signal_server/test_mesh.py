"""A full mesh of eight: 28 pairs negotiate at once, restart ICE, lose members, and stay bounded."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Literal

import pytest
from switchboard_driver import Client, Driver, candidate, sdp

PEERS = 8
CANDIDATES = 5
Step = Iterator[None]


class Mesh:
    """Every pair exchanges descriptions and candidates; what arrives is checked as it does."""

    def __init__(self, seed: int, glare: Literal["passthrough", "arbitrate"]) -> None:
        self.random = random.Random(seed)
        self.driver = Driver(glare=glare)
        features = itertools.cycle([[], ["gated"], ["receipts"]])
        self.peers = [self.driver.connect(features=next(features)) for _ in range(PEERS)]
        self.sent = 0
        self.arrived: dict[tuple[str, str], list[str]] = {}
        self.described: dict[tuple[str, str], set[str]] = {}

    def exchange(self, one: Client, other: Client, generation: int) -> Step:
        """Trickle from both ends, the candidates partly ahead of their description."""
        mine, theirs = (f"{a.peer}{b.peer}g{generation}" for a, b in ((one, other), (other, one)))
        self.trickle(one, other, mine, 0, 2)
        yield
        assert one.code("offer", to=other.peer, sdp=sdp(("0", mine))) is None
        yield
        self.trickle(other, one, theirs, 0, 3)
        self.trickle(one, other, mine, 2, CANDIDATES)
        yield
        assert other.code("answer", to=one.peer, sdp=sdp(("0", theirs))) is None
        yield
        self.trickle(other, one, theirs, 3, CANDIDATES)
        for a, b in ((one, other), (other, one)):
            assert a.code("candidate", to=b.peer, candidate=None) is None
        assert one.code("state", to=other.peer, state="connected") is None
        end = self.driver.board.sessions.by_connection[one.connection].ends[other.peer, "main"]
        assert one.code("applied", to=other.peer, negotiation=end.number) is None

    def trickle(self, one: Client, other: Client, ufrag: str, first: int, last: int) -> None:
        for _ in range(first, last):
            self.sent += 1
            init = candidate(self.sent, ufrag)
            assert one.code("candidate", to=other.peer, candidate=init) is None

    def interleave(self, exchanges: list[Step]) -> None:
        while exchanges:
            step = self.random.choice(exchanges)
            if next(step, self) is self:
                exchanges.remove(step)

    def read(self) -> int:
        """Check the order of what everybody got; returns how many candidates there were."""
        found = 0
        for client in self.driver.clients.values():
            for message in client.take():
                pair = (message.get("from", ""), client.peer)
                if message["type"] in ("offer", "answer"):
                    ufrag = message["sdp"].partition("ice-ufrag:")[2].split()[0]
                    self.described.setdefault(pair, set()).add(ufrag)
                for init in message.get("candidates", ()):
                    assert init["usernameFragment"] in self.described[pair]
                    found += bool(init["candidate"])
        return found

    def pairs(self) -> list[tuple[Client, Client]]:
        return list(itertools.combinations(self.peers, 2))


@pytest.mark.parametrize("glare", ["passthrough", "arbitrate"])
@pytest.mark.parametrize("seed", range(3))
def test_everybody_with_everybody(seed: int, glare: Literal["passthrough", "arbitrate"]) -> None:
    mesh = Mesh(seed, glare)
    everybody = 2 * CANDIDATES * len(mesh.pairs())
    mesh.interleave([mesh.exchange(a, b, 0) for a, b in mesh.pairs()])
    assert mesh.read() == everybody, "none is lost, none comes twice"
    mesh.interleave([mesh.exchange(b, a, 1) for a, b in mesh.pairs()])
    assert mesh.read() == everybody, "an ICE restart of all pairs at once"
    board = mesh.driver.board
    assert board.tally.candidates_held == board.tally.held_bytes == 0
    assert sum(board.tally.candidates_dropped.values()) == 0

    gone = mesh.peers.pop(3)
    gone.send("bye")
    back = mesh.driver.connect()
    mesh.interleave([mesh.exchange(back, peer, 2) for peer in mesh.peers])
    assert mesh.read() == 2 * CANDIDATES * len(mesh.peers)
    for client in (*mesh.peers, back):
        session = board.sessions.by_connection[client.connection]
        assert len(session.ends) == PEERS - 1, "one end for each other peer, none for the gone"
    for client in (*mesh.peers, back):
        client.send("bye")
    assert mesh.driver.is_empty()


def test_memory_of_a_mesh_is_bounded() -> None:
    """Everybody floods everybody with candidates that are never described."""
    driver = Driver(candidates_per_generation=10, held_bytes_per_node=60_000)
    peers = [driver.connect(features=["receipts"]) for _ in range(PEERS)]
    for one, other in itertools.permutations(peers, 2):
        for n in range(40):
            one.send(
                "candidate",
                to=other.peer,
                candidate=candidate(n, f"u{n % 4}"),
                id=f"{n}{other.peer}",
            )
    tally = driver.board.tally
    assert tally.held_bytes <= 60_000
    assert tally.candidates_dropped["buffer_full"] > 0
    assert tally.candidates_held + sum(tally.candidates_dropped.values()) == 40 * PEERS * (
        PEERS - 1
    )
    for session in driver.board.sessions.by_id.values():
        assert len(session.followed or ()) <= driver.board.limits.receipts_per_session
    driver.pass_time(46)
    assert tally.held_bytes == 0
    assert all(not session.followed for session in driver.board.sessions.by_id.values())


def test_each_section_without_bundle_ends_for_itself() -> None:
    """As browsers do before BUNDLE is agreed: an ufrag, candidates and an end per mid."""
    driver = Driver()
    a, b = driver.connect(), driver.connect()
    b.take()
    sections = [("0", "u0"), ("1", "u1"), ("2", "u2")]
    for mid, ufrag in sections[:2]:
        end = {"candidate": "", "sdpMid": mid, "usernameFragment": ufrag}
        a.send("candidate", to=b.peer, candidate=candidate(int(mid), ufrag, mid))
        assert a.code("candidate", to=b.peer, candidate=end) is None
    a.send("offer", to=b.peer, sdp=sdp(*sections))
    assert b.flow() == ["offer", "0", "end:0", "1", "end:1"]
    late = candidate(9, "u0", "0")
    assert a.code("candidate", to=b.peer, candidate=late) == "candidate_after_end"
    assert a.code("candidate", to=b.peer, candidate=candidate(3, "u2", "2")) is None
    end = {"candidate": "", "sdpMid": "2", "usernameFragment": "u2"}
    assert a.code("candidate", to=b.peer, candidate=end) is None
    assert b.flow() == ["3", "end:2"]
