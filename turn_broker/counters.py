"""What the broker granted and refused, as plain integers, and their Prometheus form.

Label values are closed sets (dialects and codes of this package), never anything a client sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(slots=True)
class Counters:
    issued: Counter[str] = field(default_factory=Counter)
    """Credentials by dialect."""
    refused: Counter[str] = field(default_factory=Counter)
    """Requests by code."""


class CountersCollector(Collector):
    """Reads `counters` at scrape time."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        issued = CounterMetricFamily(
            "turn_broker_credentials_issued", "TURN credentials granted.", labels=["dialect"]
        )
        refused = CounterMetricFamily(
            "turn_broker_requests_refused", "Requests answered with an error.", labels=["code"]
        )
        for dialect, count in sorted(self._counters.issued.items()):
            issued.add_metric([dialect], count)
        for code, count in sorted(self._counters.refused.items()):
            refused.add_metric([code], count)
        yield issued
        yield refused
