"""The TURN fleet for Prometheus: which URLs work, how fast, what the agents relay and cut, secrets.

Label values are closed sets: node ids of the configuration, kinds of URL, verdicts, reasons, and
the SIDs of accounts with a secret of their own up to a bound. It reads when it is asked. Every
broker tells the same of the fleet: take the maximum over brokers, not the sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from turn_broker.counters import MAX_NAMED_ACCOUNTS
from turn_broker.fleet.guard import Reason
from turn_broker.fleet.rotation import Rotation
from turn_broker.fleet.watch import FleetWatch
from turn_broker.nodes.health import NodeList
from turn_broker.nodes.prober import LATENCY_BOUNDS_MS, ProbeCounters

SHARED = frozenset(
    f"turn_broker_{name}"
    for name in (
        *("node_up", "node_draining", "node_urls_listed", "degraded", "fleet_up"),
        *("agent_up", "relays_active", "relays_cut", "relayed_bytes", "records_doubted"),
        "secret_age_seconds",
    )
)
"""Families that every broker of the fleet tells alike: of several brokers the largest value holds,
not the sum."""


class FleetCollector(Collector):
    def __init__(
        self, nodes: NodeList, probes: ProbeCounters, rotation: Rotation, watch: FleetWatch
    ) -> None:
        self._nodes = nodes
        self._probes = probes
        self._rotation = rotation
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        yield from self._health()
        yield from self._probed()
        yield from self._reported()
        yield from self._secrets()

    def _health(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "turn_broker_node_up", "1 if a URL of the node is handed out", labels=["node"]
        )
        draining = GaugeMetricFamily(
            "turn_broker_node_draining", "1 if it takes no new clients", labels=["node"]
        )
        urls = GaugeMetricFamily(
            "turn_broker_node_urls_listed", "URLs handed out", labels=["node", "transport"]
        )
        for status in self._nodes.statuses():
            up.add_metric([status.node.id], status.is_up)
            draining.add_metric([status.node.id], status.is_draining)
            for kind in sorted({health.url.kind for health in status.urls}):
                listed = sum(health.is_listed for health in status.urls if health.url.kind == kind)
                urls.add_metric([status.node.id, kind], listed)
        yield from (up, draining, urls)
        yield GaugeMetricFamily(
            "turn_broker_degraded", "1 if no TURN URL is known to work", self._nodes.is_degraded
        )

    def _probed(self) -> Iterator[Metric]:
        outcomes = CounterMetricFamily(
            "turn_broker_node_probes",
            "Probes of the nodes by outcome",
            labels=["node", "transport", "verdict"],
        )
        for labels, count in sorted(self._probes.outcomes.items()):
            outcomes.add_metric(labels, count)
        yield outcomes
        seconds = HistogramMetricFamily(
            "turn_broker_node_probe_seconds",
            "Duration of successful probes: allocation, permission, one packet each way",
            labels=["node", "transport"],
        )
        bounds = [*(str(bound / 1000) for bound in LATENCY_BOUNDS_MS), "+Inf"]
        for labels_of, latency in sorted(self._probes.latency.items()):
            buckets = list(zip(bounds, accumulate(latency.counts), strict=True))
            seconds.add_metric(labels_of, buckets, latency.total_ms / 1000)
        yield seconds

    def _reported(self) -> Iterator[Metric]:
        agent = GaugeMetricFamily(
            "turn_broker_agent_up", "1 if the node's agent reports", labels=["node"]
        )
        live = GaugeMetricFamily(
            "turn_broker_relays_active", "Allocations open, by the agents", labels=["node"]
        )
        cut = CounterMetricFamily(
            "turn_broker_relays_cut", "Allocations that agents ended", labels=["node", "reason"]
        )
        octets = CounterMetricFamily(
            "turn_broker_relayed_bytes", "Payload by direction", labels=["node", "direction"]
        )
        doubted = CounterMetricFamily(
            "turn_broker_records_doubted",
            "Records of sessions that were not believed, so not counted",
            labels=["node"],
        )
        reports = {report.node: report for report in self._watch.reports}
        for name in (node.id for node in self._nodes.nodes):
            report = reports.get(name)
            agent.add_metric([name], report is not None)
            if report is None:
                continue
            live.add_metric([name], report.live)
            for reason in Reason:
                cut.add_metric([name, reason], report.cuts.get(reason, 0))
            octets.add_metric([name, "sent"], report.sent_bytes)
            octets.add_metric([name, "received"], report.received_bytes)
            doubted.add_metric([name], report.doubted)
        yield from (agent, live, cut, octets, doubted)
        yield GaugeMetricFamily(
            "turn_broker_fleet_up", "1 if the fleet can be reached", self._watch.is_reached
        )
        yield CounterMetricFamily(
            "turn_broker_token_records_lost",
            "Tokens granted that this broker could not have remembered",
            self._watch.lost_records,
        )

    def _secrets(self) -> Iterator[Metric]:
        age = GaugeMetricFamily(
            "turn_broker_secret_age_seconds", "Of the secret that mints", labels=["ring"]
        )
        for name, seconds in sorted(self._rotation.ages_s().items())[:MAX_NAMED_ACCOUNTS]:
            age.add_metric([name], seconds)
        yield age
