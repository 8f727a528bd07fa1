"""What the probes were asked and found, as plain integers, and their Prometheus form.

Labels are closed sets: refusal codes, results and reasons of this package, configured names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from probes.socket import SocketFigures


@dataclass(slots=True)
class Figures:
    """Since the start."""

    sessions: int = 0
    reports: int = 0
    log_entries: int = 0
    peers: Counter[str] = field(default_factory=Counter)
    """Server peers by mode."""
    absences: Counter[str] = field(default_factory=Counter)
    """Server peers that were ended because of their client, by why."""
    refused: Counter[str] = field(default_factory=Counter)
    """By code."""


class ProbeCollector(Collector):
    """Reads the figures when Prometheus asks."""

    def __init__(
        self, figures: Figures, sockets: SocketFigures, live_peers: Callable[[], int]
    ) -> None:
        self._figures = figures
        self._sockets = sockets
        self._live_peers = live_peers

    def collect(self) -> Iterator[Metric]:
        figures, sockets = self._figures, self._sockets
        for name, text, value in (
            ("probe_sessions", "Probe sessions begun", figures.sessions),
            ("probe_reports_shared", "Reports shared by visitors", figures.reports),
            ("probe_log_entries", "Log probes received", figures.log_entries),
            ("probe_sockets_opened", "Probe sockets opened", sockets.opened),
            ("probe_socket_pings", "Pings answered on probe sockets", sockets.pings),
        ):
            yield CounterMetricFamily(name, text, value)
        peers = CounterMetricFamily(
            "probe_server_peers_opened", "Server peers by mode", labels=["mode"]
        )
        for mode, count in figures.peers.items():
            peers.add_metric([mode], count)
        yield peers
        absences = CounterMetricFamily(
            "probe_server_peers_abandoned", "Server peers ended early, by why", labels=["reason"]
        )
        for reason, count in figures.absences.items():
            absences.add_metric([reason], count)
        yield absences
        refused = CounterMetricFamily("probe_refused", "Refused by code", labels=["code"])
        for code, count in figures.refused.items():
            refused.add_metric([code], count)
        yield refused
        yield GaugeMetricFamily("probe_server_peers", "Server peers open now", self._live_peers())
