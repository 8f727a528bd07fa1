"""What the broker tells Prometheus, and that docs/broker.md has all of it and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from turn_broker.counters import OTHER, Counters, CountersCollector
from turn_broker.fleet.guard import Reason
from turn_broker.fleet.memory import MemoryFleet
from turn_broker.fleet.messages import NodeReport
from turn_broker.fleet.metrics import SHARED, FleetCollector
from turn_broker.fleet.rotation import Rotation
from turn_broker.fleet.watch import FleetWatch
from turn_broker.ice_servers import parse_turn_uri
from turn_broker.nodes.health import NodeList, TurnNode
from turn_broker.nodes.prober import ProbeCounters
from turn_broker.secret_ring import SecretRing

NOW = 1_800_000_000.0
PAGE = Path(__file__).parents[3] / "docs" / "broker.md"
UDP, TCP = (parse_turn_uri(f"turn:eu.test?transport={name}") for name in ("udp", "tcp"))


class Site:
    """Two nodes, the first with an agent, and everything that is counted about them."""

    def __init__(self) -> None:
        self.nodes = NodeList(
            [TurnNode("eu-1", "eu", (UDP, TCP)), TurnNode("eu-2", "eu", (UDP,))], misses=1
        )
        self.probes = ProbeCounters()
        self.fleet = MemoryFleet(lambda: NOW)
        self.rotation = Rotation(
            self.fleet,
            SecretRing("a-secret"),
            ["eu-1"],
            lambda: NOW,
            max_ttl_s=3600,
            new_secret=lambda: "b-secret",
        )
        self.watch = FleetWatch(self.fleet, self.nodes, "me", lambda: NOW)
        self.counters = Counters()
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(CountersCollector(self.counters))
        self.registry.register(FleetCollector(self.nodes, self.probes, self.rotation, self.watch))

    async def report(self, node: str, **figures: object) -> None:
        known = {"at": int(NOW), "software": "test", "secrets_version": 1, **figures}
        await self.fleet.report(NodeReport(node=node, **known))  # type: ignore[arg-type]
        await self.watch.look()

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def families(self) -> list[Metric]:
        return list(self.registry.collect())


async def full() -> Site:
    """A site in which every metric has a sample."""
    site = Site()
    await site.rotation.step()
    await site.report("eu-1")
    await site.rotation.rotate(force=True)
    await site.report("eu-1", secrets_version=2, live=3, cuts={"revoked": 2}, doubted=5)
    await site.rotation.step()
    site.counters.count_issued("native", "AC1")
    site.counters.refused["rate_limited"] += 1
    site.probes.add("eu-1", "udp", "up", 7)
    site.probes.add("eu-1", "tcp", "down", 0)
    return site


async def test_the_page_lists_every_metric() -> None:
    text = PAGE.read_text("utf-8").split("\n## Metrics\n")[1]
    documented = {
        name: (kind, set(re.findall(r"`([a-z]+)`", labels)))
        for name, kind, labels in re.findall(
            r"^\| `([a-z_]+)` \| (\w+) \| (.*?) ?\| .+ \|$", text, re.MULTILINE
        )
    }
    expected = {}
    for family in (await full()).families():
        labels = {name for sample in family.samples for name in sample.labels} - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        expected[name] = (family.type, labels)
    assert documented == expected


async def test_what_is_shared_is_told_by_the_fleet_and_not_counted_here() -> None:
    own = {"turn_broker_credentials_issued", "turn_broker_requests_refused"}
    own |= {"turn_broker_node_probes", "turn_broker_node_probe_seconds"}
    own |= {"turn_broker_token_records_lost"}
    assert {family.name for family in (await full()).families()} - own == SHARED


async def test_health_and_drain() -> None:
    site = Site()
    site.nodes.observe("eu-1", UDP, "down", NOW)
    site.nodes.set_draining({"eu-2"})
    assert site.value("turn_broker_node_up", node="eu-1") == 1
    assert site.value("turn_broker_node_urls_listed", node="eu-1", transport="udp") == 0
    assert site.value("turn_broker_node_urls_listed", node="eu-1", transport="tcp") == 1
    assert site.value("turn_broker_node_draining", node="eu-2") == 1
    assert site.value("turn_broker_degraded") == 0
    site.nodes.observe("eu-1", TCP, "down", NOW)
    assert site.value("turn_broker_node_up", node="eu-1") == 0


async def test_agents() -> None:
    site = Site()
    assert site.value("turn_broker_fleet_up") == 0
    await site.report(
        "eu-1", live=3, cuts={"revoked": 2}, doubted=5, sent_bytes=10, received_bytes=20
    )
    assert site.value("turn_broker_fleet_up") == 1
    assert site.value("turn_broker_agent_up", node="eu-1") == 1
    assert site.value("turn_broker_agent_up", node="eu-2") == 0
    assert site.value("turn_broker_relays_active", node="eu-1") == 3
    assert site.value("turn_broker_relays_active", node="eu-2") is None
    cuts = {
        reason: site.value("turn_broker_relays_cut_total", node="eu-1", reason=reason)
        for reason in Reason
    }
    assert cuts == {reason: 2 if reason is Reason.REVOKED else 0 for reason in Reason}
    assert site.value("turn_broker_relayed_bytes_total", node="eu-1", direction="sent") == 10
    assert site.value("turn_broker_relayed_bytes_total", node="eu-1", direction="received") == 20
    assert site.value("turn_broker_records_doubted_total", node="eu-1") == 5


async def test_labels_are_closed_sets() -> None:
    site = Site()
    await site.report("a-stranger", live=1, cuts={"made up": 7})
    await site.report("eu-1", cuts={"made up": 7})
    page = str([sample for family in site.families() for sample in family.samples])
    assert "a-stranger" not in page
    assert "made up" not in page
    for number in range(150):
        site.counters.count_issued("native", f"AC{number}")
    issued = "turn_broker_credentials_issued_total"
    assert site.value(issued, dialect="native", account="AC99") == 1
    assert site.value(issued, dialect="native", account="AC100") is None
    assert site.value(issued, dialect="native", account=OTHER) == 50


async def test_probes() -> None:
    site = await full()
    where = {"node": "eu-1", "transport": "udp"}
    assert site.value("turn_broker_node_probes_total", **where, verdict="up") == 1
    assert site.value("turn_broker_node_probe_seconds_bucket", **where, le="0.005") == 0
    assert site.value("turn_broker_node_probe_seconds_bucket", **where, le="0.01") == 1
    assert site.value("turn_broker_node_probe_seconds_sum", **where) == 0.007


async def test_the_age_of_a_secret_is_told_once_it_is_known() -> None:
    site = Site()
    assert site.value("turn_broker_secret_age_seconds", ring="*") is None
    assert (await full()).value("turn_broker_secret_age_seconds", ring="*") == 0
