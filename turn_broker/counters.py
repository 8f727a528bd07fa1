"""What the broker granted and refused, as plain integers, and their Prometheus form.

Label values are closed sets: dialects and codes of this package, and the SIDs of the first accounts
that asked. Never anything a client sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

MAX_NAMED_ACCOUNTS = 100
OTHER = "other"
"""Stands for every account after the first `MAX_NAMED_ACCOUNTS`."""


@dataclass(slots=True)
class Counters:
    issued: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Credentials by dialect and account; `count_issued` keeps it bounded."""
    refused: Counter[str] = field(default_factory=Counter)
    """Requests by code."""
    _named: set[str] = field(default_factory=set)

    def count_issued(self, dialect: str, account: str) -> None:
        if account not in self._named:
            if len(self._named) >= MAX_NAMED_ACCOUNTS:
                account = OTHER
            else:
                self._named.add(account)
        self.issued[dialect, account] += 1


class CountersCollector(Collector):
    """Reads `counters` at scrape time."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        issued = CounterMetricFamily(
            "turn_broker_credentials_issued",
            "TURN credentials granted.",
            labels=["dialect", "account"],
        )
        refused = CounterMetricFamily(
            "turn_broker_requests_refused", "Requests answered with an error.", labels=["code"]
        )
        for labels, count in sorted(self._counters.issued.items()):
            issued.add_metric(labels, count)
        for code, count in sorted(self._counters.refused.items()):
            refused.add_metric([code], count)
        yield issued
        yield refused
