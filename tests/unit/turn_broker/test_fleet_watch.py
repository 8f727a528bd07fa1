"""What a broker learns of the fleet's nodes from agents and from other brokers."""

from __future__ import annotations

import pytest

from turn_broker.fleet.contract import FleetUnavailable
from turn_broker.fleet.memory import MemoryFleet
from turn_broker.fleet.messages import NodeReport
from turn_broker.fleet.watch import FleetWatch
from turn_broker.ice_servers import parse_turn_uri
from turn_broker.nodes.health import NodeList, TurnNode

NOW = 1_800_000_000.0
URL = parse_turn_uri("turn:a:3478?transport=udp")


class World:
    """Two brokers of one fleet."""

    def __init__(self) -> None:
        self.fleet = MemoryFleet(lambda: NOW)
        self.probing, self.idle = (
            NodeList([TurnNode("a", "eu", (URL,)), TurnNode("b", "eu", (URL,))]) for _ in range(2)
        )
        self.first = FleetWatch(self.fleet, self.probing, "first", lambda: NOW)
        self.second = FleetWatch(self.fleet, self.idle, "second", lambda: NOW)

    def listed(self) -> list[bool]:
        """By the broker without a prober."""
        return [status.is_up for status in self.idle.statuses()]


async def test_one_brokers_findings_reach_the_other() -> None:
    world = World()
    for _ in range(3):
        world.probing.observe("a", URL, "down", NOW, "timeout")
    world.probing.observe("b", URL, "up", NOW)
    await world.first.look()
    await world.second.look()
    assert world.listed() == [False, True]
    await world.first.look()  # and never comes back as somebody else's
    assert [health.elsewhere for s in world.probing.statuses() for health in s.urls] == [(), ()]
    assert [report.observer for report in await world.fleet.health()] == ["first"]


async def test_a_draining_node_is_ordered_or_reported() -> None:
    world = World()
    await world.fleet.drain("a", True)
    report = NodeReport(
        node="b", at=int(NOW), software="x", secrets_version=1, is_draining=True, live=1
    )
    await world.fleet.report(report)
    await world.second.look()
    assert [status.is_draining for status in world.idle.statuses()] == [True, True]
    assert world.second.reports == (report,)


async def test_without_the_fleet_others_findings_are_forgotten_and_drains_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    for _ in range(3):
        world.probing.observe("a", URL, "down", NOW, "timeout")
    await world.fleet.drain("b", True)
    await world.first.look()
    await world.second.look()
    assert (world.second.is_reached, len(world.second.reports)) == (True, 0)

    async def gone() -> None:
        raise FleetUnavailable

    monkeypatch.setattr(world.fleet, "reports", gone)
    await world.second.look()
    assert (world.second.is_reached, len(world.second.reports)) == (False, 0)
    assert world.listed() == [True, True]
    assert [status.is_draining for status in world.idle.statuses()] == [False, True]
