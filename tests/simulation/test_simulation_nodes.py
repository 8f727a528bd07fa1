"""Clients of several nodes with one journal; nodes die, freeze and miss parcels, Redis fails over.

In some runs Redis forgets the end of the journal together with the home, in others it is out of
reach for a while: what is lost then must be declared. PARLEY_LONG=1 runs 1,000 seeds of each.
"""

from __future__ import annotations

import os

import pytest
from cluster import Cluster
from wandering import Wanderer, assert_all_is_settled

from signal_server.wire import messages as wire
from signal_server.wire.base import Request

SEEDS = 1000 if os.environ.get("PARLEY_LONG") == "1" else 12
CLIENTS = 6


class Patient(Wanderer):
    """Knows that rooms and peers can be out of reach."""

    expected_refusals = (*Wanderer.expected_refusals, "peer_unreachable", "unavailable")

    def answered(self, request: Request, reply: wire.Ok | wire.Error) -> None:
        if isinstance(request, wire.Join) and isinstance(reply, wire.Error):
            self.turned_away()

    def turned_away(self) -> None:
        session = self.session
        self.world.time.after(2, lambda: self.began() if self.session is session else None)


class Nodes(Cluster):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.clients: list[Wanderer] = [Patient(self, f"i{number}") for number in range(CLIENTS)]


class Forgetful(Nodes):
    loses_both = True


class CutOff(Nodes):
    has_outages = True


def play(seed: int, of: type[Nodes] = Nodes) -> Nodes:
    world = of(seed)
    world.run()
    return world


@pytest.mark.parametrize("of", [Nodes, Forgetful, CutOff])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_simulation_nodes(seed: int, of: type[Nodes]) -> None:
    world = play(seed, of)
    assert world.home is not None
    assert_all_is_settled(world, world.clients, world.home.replica.board)


def test_simulation_of_nodes_meets_what_it_is_there_for() -> None:
    worlds = [play(seed) for seed in range(4)]
    assert sum(world.faults for world in worlds) > 30
    assert sum(world.claims for world in worlds) > 10, "homes come and go"
    assert sum(world.cuts for world in worlds) > 4
    assert sum(client.resumes for world in worlds for client in world.clients) > 100
    assert sum(world.history.verdict().arrived for world in worlds) > 1000
    worlds = [play(seed, Forgetful) for seed in range(4)]
    assert sum(world.forgets for world in worlds) > 4
    losses = [code for world in worlds for client in world.clients for code in client.losses]
    assert losses.count("resume_gap") > 4
    assert sum(play(seed, CutOff).outages for seed in range(4)) > 4
