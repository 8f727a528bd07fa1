"""Clients that talk and wander between rooms in virtual time, over links that break.

PARLEY_LONG=1 runs 1,000 seeds.
"""

from __future__ import annotations

import os

import pytest
from simulated import World, assert_goes_on_elsewhere, board_for, replay
from wandering import SETTLED, Wanderer, assert_all_is_settled

SEEDS = 1000 if os.environ.get("PARLEY_LONG") == "1" else 40
CLIENTS = 6


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
    assert_all_is_settled(world, world.clients, world.board)


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
