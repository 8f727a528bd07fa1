"""Clients of several nodes with one journal, of which nodes die, freeze, and miss parcels.

PARLEY_LONG=1 runs 1,000 seeds.
"""

from __future__ import annotations

import os

import pytest
from cluster import Cluster
from wandering import Wanderer, assert_all_is_settled

SEEDS = 1000 if os.environ.get("PARLEY_LONG") == "1" else 15
CLIENTS = 6


class Nodes(Cluster):
    def __init__(self, seed: int, *, loses_end: bool = False) -> None:
        super().__init__(seed, loses_end=loses_end)
        self.clients = [Wanderer(self, f"i{number}") for number in range(CLIENTS)]


def play(seed: int, *, loses_end: bool = False) -> Nodes:
    world = Nodes(seed, loses_end=loses_end)
    world.run()
    return world


@pytest.mark.parametrize("seed", range(SEEDS))
def test_simulation_nodes(seed: int) -> None:
    world = play(seed)
    assert world.home is not None
    assert_all_is_settled(world, world.clients, world.home.replica.board)
