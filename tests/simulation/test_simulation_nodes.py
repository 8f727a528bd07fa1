"""Clients of several nodes with one journal; nodes die, freeze and miss parcels, Redis fails over.

PARLEY_LONG=1 runs 1,000 seeds.
"""

from __future__ import annotations

import os

import pytest
from cluster import Cluster
from wandering import Wanderer, assert_all_is_settled

SEEDS = 1000 if os.environ.get("PARLEY_LONG") == "1" else 12
CLIENTS = 6


class Nodes(Cluster):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.clients = [Wanderer(self, f"i{number}") for number in range(CLIENTS)]


def play(seed: int) -> Nodes:
    world = Nodes(seed)
    world.run()
    return world


@pytest.mark.parametrize("seed", range(SEEDS))
def test_simulation_nodes(seed: int) -> None:
    world = play(seed)
    assert world.home is not None
    assert_all_is_settled(world, world.clients, world.home.replica.board)


def test_simulation_of_nodes_meets_what_it_is_there_for() -> None:
    worlds = [play(seed) for seed in range(4)]
    assert sum(world.faults for world in worlds) > 30
    assert sum(world.claims for world in worlds) > 10, "homes come and go"
    assert sum(world.cuts for world in worlds) > 4
    assert sum(client.resumes for world in worlds for client in world.clients) > 100
    assert sum(world.history.verdict().arrived for world in worlds) > 1000
